"""What a study means before it starts: programs, shapes, memory, and the time it will take.

Nothing is kept or written. The time is measured on the device that will do the work: the program of an epoch is
compiled, a few steps of each padded length are timed, and the rest is multiplication. Runs that stop early, other work
on the machine, and the report are not in it.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np

from milkit.execute.epoch_time import bags_by_rung, epoch_time, steps_of
from milkit.execute.prepare import Prepared, prepare
from milkit.execute.width import device_limit, fitted, program_bytes
from milkit.experiment import Experiment
from milkit.train.streaming import StreamEngine

SECONDS = 2.0
"""About how long steps are timed, compiling not counted; a slow step is timed once."""


@dataclass(frozen=True)
class Rung:
    """A padded length of training.

    Attributes:
        length: instances that a bag is padded to.
        bags: of the study, padded to it.
        waste: share of their padded instances that is padding, in [0, 1).
        steps: of an epoch.
    """

    length: int
    bags: int
    waste: float
    steps: int


@dataclass(frozen=True)
class Forecast:
    """What a study means.

    Attributes:
        name: of the experiment.
        bags, instances, features: of the study.
        splits, seeds: that make its runs.
        runs: of the study itself; `few_label_runs` come beside them.
        few_label_runs: of label budgets.
        trials: configurations that a search tries for each fold; 0 without one.
        programs, width: groups of runs, and runs of each.
        devices: that are there, in words.
        memory: where the instances are: "resident" on the device, or read while it trains ("stream").
        rungs: padded lengths.
        waste: share of all padded instances of training.
        steps: of an epoch of a program.
        epochs: at most.
        parameters: of one run's model.
        bytes_held: of a program on its device, by the compiler; None in streaming, where batches bound it.
        bytes_limit: that the device has, if it says.
        compile_seconds: of the program of an epoch, just now.
        epoch_seconds: of a program.
        seconds: of the whole study: compiling once, and all epochs of all programs one after the other.
    """

    name: str
    bags: int
    instances: int
    features: int
    splits: int
    seeds: int
    runs: int
    few_label_runs: int
    trials: int
    programs: int
    width: int
    devices: str
    memory: Literal["resident", "stream"]
    rungs: tuple[Rung, ...]
    waste: float
    steps: int
    epochs: int
    parameters: int
    bytes_held: int | None
    bytes_limit: int | None
    compile_seconds: float
    epoch_seconds: float
    seconds: float


def forecast(experiment: Experiment, seconds: float = SECONDS) -> Forecast:
    """Prepare a study, compile its program, time some of its steps, and forget them.

    Args:
        experiment: the study.
        seconds: about how long to time steps.

    Raises:
        MilkitError: what `prepare` refuses.
    """
    prepared = fitted(prepare(experiment), device_limit())
    study, train, engine = prepared.study, experiment.train, prepared.engine
    streams = isinstance(engine, StreamEngine)
    state = jax.eval_shape(lambda: prepared.first_state(0, prepared.group(0)))
    trials = 0 if experiment.search is None else experiment.search.trials
    compiling, epoch = epoch_time(prepared, seconds)
    rungs = _rungs(prepared)
    padded = sum(r.bags * r.length for r in rungs)
    few = sum(run.labels > 0 for run in prepared.runs)
    devices = jax.devices()
    return Forecast(
        name=experiment.name or "experiment", bags=len(study), instances=int(study.lengths.sum()),
        features=study.features, splits=len(prepared.plan.splits), seeds=experiment.seeds,
        runs=len(prepared.runs) - few, few_label_runs=few, trials=trials, programs=prepared.programs,
        width=prepared.width, devices=f"{len(devices)} x {devices[0].device_kind}",
        memory="stream" if streams else "resident", rungs=rungs,
        waste=sum(r.bags * r.length * r.waste for r in rungs) / padded, steps=sum(r.steps for r in rungs),
        epochs=train.epochs, parameters=sum(x.size for x in jax.tree.leaves(state.params)) // prepared.width,
        bytes_held=None if streams else program_bytes(prepared), bytes_limit=device_limit(),
        compile_seconds=compiling, epoch_seconds=epoch,
        seconds=compiling + prepared.programs * train.epochs * epoch * max(1, trials),
    )  # fmt: skip


def _rungs(prepared: Prepared) -> tuple[Rung, ...]:
    layout, lengths = prepared.engine.layout, prepared.study.lengths
    out = []
    for k, bags in enumerate(bags_by_rung(prepared)):
        real = int(np.minimum(lengths[bags], layout.rungs[k]).sum())
        waste = 1.0 - real / max(1, layout.rungs[k] * len(bags))
        out.append(Rung(int(layout.rungs[k]), len(bags), waste, steps_of(prepared, k)))
    return tuple(out)
