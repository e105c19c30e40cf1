"""How many runs share a program, how many of them are computed side by side, and on how many devices.

The second decides bits, and it follows from the experiment, the data and the kind of device, never from what a machine
happens to have free. So does whether there are several devices (XLA compiles another program for them), so a study
keeps the number it was started with; how many blocks a program has changes no bit.
"""

import contextlib
from functools import partial
from typing import Any

import jax

from milkit.cores import usable_cores
from milkit.data.study import Study
from milkit.execute.chunking import held_by_a_run, instances_at_once
from milkit.execute.memory import memory_of, packed_bytes
from milkit.experiment import Experiment
from milkit.train.run_axis import Spread, devices_for
from milkit.train.state import initial_state

GROUP_BYTES = 2 << 30
"""About how much one step of runs side by side may hold on to, by which long bags narrow them."""
CACHE_BYTES = 1 << 20
"""What parameters, gradient and optimiser state of runs side by side may take on a CPU. They are walked over at every
step, so they should stay near the core: a run-step of MUSK1's attention net (1.1 MB with SGD, 1.5 MB with Adam) takes
71, 95 and 138 microseconds at 1, 2 and 4 runs side by side with SGD, and 118, 168 and 172 with Adam, on one core with 2
MiB of its own. Smaller networks gain more from the shared overhead of a step than they lose."""
PROGRAM_CPU = (4, 64)
"""Fewest and most runs of a program on a CPU (where there are so many)."""
EPOCH_FLOPS = 4e11
"""About what an epoch of a program may cost on a CPU, some ten seconds: a study can be stopped after each epoch."""
SIDE_BY_SIDE_CPU = 8
WIDTH_ACCELERATOR = 64
REPLICATED_BYTES = 8 << 30
"""What the copies of the features that the cores of a CPU hold may take together."""
MOST_CORES = 32


def use_cores() -> None:
    """Let JAX see every usable core of a CPU as a device; without effect once JAX has started."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(MOST_CORES, len(usable_cores())))


def default_width(experiment: Experiment, study: Study, runs: int) -> int:
    """How many runs share a program when the experiment does not say."""
    if jax.default_backend() == "cpu" and memory_of(experiment.train, study) == "resident":
        parameters, _ = _sizes(experiment, study)
        flops = 6.0 * parameters * float(study.lengths.sum())  # of a run's epoch, forward and backward
        programs = -(-runs // int(min(max(EPOCH_FLOPS // flops, PROGRAM_CPU[0]), PROGRAM_CPU[1])))
        width = -(-runs // programs)
        # a multiple of four can be shared by two or four cores; slots that are left over cost nothing
        return width if width < 4 else 4 * -(-width // 4)
    widest = SIDE_BY_SIDE_CPU if jax.default_backend() == "cpu" else WIDTH_ACCELERATOR
    return max(1, min(widest, runs, _held(experiment, study)))


def spread_of(experiment: Experiment, study: Study, width: int) -> Spread:
    """How the runs of a program are computed: the largest blocks that suit the device, shared by all devices.

    Args:
        experiment, study: the study.
        width: runs of a program.
    """
    available = len(jax.devices())
    if jax.default_backend() == "cpu":
        side = min(SIDE_BY_SIDE_CPU, _held(experiment, study), CACHE_BYTES // _sizes(experiment, study)[1])
        copies = REPLICATED_BYTES // max(1, packed_bytes(study))  # each device holds the features
        available = max(1, min(available, copies))
    else:
        side = width // devices_for(width, available)  # one block a device, if they can be cut evenly
    side = max(d for d in range(1, max(1, min(side, width)) + 1) if width % d == 0)
    return Spread(side, devices_for(width // side, available))


def _held(experiment: Experiment, study: Study) -> int:
    """Runs whose steps may be held at once."""
    return GROUP_BYTES // held_by_a_run(experiment, study, instances_at_once(experiment, study, GROUP_BYTES))


def _sizes(experiment: Experiment, study: Study) -> tuple[int, int]:
    """Of one run: the number of parameters, and the bytes of parameters, gradient and optimiser state."""
    outputs = experiment.task.out_features(len(study.targets.names))
    sizes, beside = (study.features, outputs), study.covariate_count
    start = partial(initial_state, experiment.model, *sizes, experiment.train, covariates=beside)
    state: Any = jax.eval_shape(start, jax.random.key(0))
    kept = jax.tree.leaves((state.params, state.params, state.optimizer, state.gradient))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return max(1, parameters), max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in kept))
