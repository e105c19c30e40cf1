"""One more training, on all bags: the model that a study's folds measured the making of."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from milkit.data.protocol import Holdout, Plan, Split
from milkit.data.study import Study
from milkit.errors import NonFiniteError
from milkit.execute.prepare import Prepared, prepare
from milkit.experiment import Experiment
from milkit.task import Task
from milkit.train.engine import EpochLog
from milkit.train.fit import fit
from milkit.train.state import RunState


@dataclass(frozen=True)
class EveryBag(Holdout):
    """A hold-out of nobody: all bags train, nothing is selected and nothing tested."""

    def plan(self, study: Study, task: Task) -> Plan:
        """The split."""
        none = np.zeros(0, np.int64)
        return Plan((Split(0, 0, 0, np.arange(len(study)), none, none),), "patient")


class _Enough(Exception):
    """The last epoch is done."""


def refit(experiment: Experiment, epochs: int, tell: Callable[[str], None]) -> tuple[Prepared, dict[str, Any]]:
    """Train once per seed on all bags.

    The learning-rate schedule is that of the study (its horizon is the study's number of epochs) and training stops
    after `epochs`, so that a refit takes the same path as the folds did up to the epoch they chose.

    Args:
        experiment: of the study.
        epochs: where to stop.
        tell: progress in words.

    Returns:
        The prepared study (its runs are the seeds), and the weights as a tree {"params", "buffers"}, [seeds, ...].

    Raises:
        NonFiniteError: the loss was not finite.
        MilkitError: the data cannot be used.
    """
    train = replace(experiment.train, select="last", patience=None, width=None)
    prepared = prepare(replace(experiment, protocol=EveryBag(), train=train, optimistic=None, labels=None))
    parts = [_train(prepared, program, epochs, tell) for program in range(prepared.programs)]
    return prepared, jax.tree.map(lambda *a: np.concatenate([np.asarray(v) for v in a]), *parts)


def _train(prepared: Prepared, program: int, epochs: int, tell: Callable[[str], None]) -> dict[str, Any]:
    runs, group = prepared.members(program), prepared.group(program)
    reached: list[RunState] = []

    def on_epoch(epoch: int, state: RunState, log: EpochLog) -> None:
        failed = np.flatnonzero(np.asarray(log.failed)[: len(runs)])
        if len(failed):
            raise NonFiniteError(
                f"Refit, seed {runs[int(failed[0])].seed}: the loss was not finite in epoch {epoch + 1}. Keep the fold "
                "ensemble instead (--ensemble), whose runs have all ended well."
            )
        loss = float(np.median(np.asarray(log.train_loss)[: len(runs)]))
        tell(f"epoch {epoch + 1} of {epochs}, training loss {loss:.3f}")
        if epoch + 1 == epochs:
            reached.append(state)
            raise _Enough

    state = prepared.first_state(program, group)
    with contextlib.suppress(_Enough):
        reached.append(fit(prepared.engine, group, state, None, on_epoch))
    kept = {"params": reached[0].params, "buffers": reached[0].buffers}
    return jax.tree.map(lambda a: np.asarray(a)[: len(runs)], kept)
