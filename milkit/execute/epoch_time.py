"""How long an epoch of a program takes, from a few steps of it on the device at hand; what they learn is forgotten."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from milkit.data.batches import rung_of
from milkit.execute.prepare import Prepared
from milkit.train.streaming import StreamEngine
from milkit.watch.compiles import compiles

NOTHING = np.zeros(0, np.int64)


def epoch_time(prepared: Prepared, budget: float) -> tuple[float, float]:
    """Seconds of compiling what an epoch needs, and of an epoch that is trained and judged.

    Args:
        prepared: the study; its first program is taken for all.
        budget: about how many seconds to time steps for; an epoch that is shorter is timed whole.
    """
    group, batch = prepared.group(0), prepared.experiment.train.batch_bags
    state = prepared.first_state(0, group)

    def epoch_of(bags: np.ndarray, validation: Any = None) -> Callable[[], Any]:
        """An epoch in which runs learn from these bags only, as far as they are their own; compiled as a whole one."""
        short = group._replace(train=tuple(np.intersect1d(part, bags) for part in group.train))
        return lambda: prepared.engine.epoch(short, state, 0, validation)

    before = compiles()
    epoch_of(NOTHING)()
    overhead = training = timed(epoch_of(NOTHING), 3)
    rungs = [np.intersect1d(bags, np.concatenate(group.train)) for bags in bags_by_rung(prepared)]
    for k, bags in enumerate(rungs):
        count, a_step = batch, 0.0
        while len(bags):
            some = bags[:count]
            steps = _steps_on(prepared, group.train, some)
            epoch_of(some)()  # streaming compiles each length when it meets it
            took = max(timed(epoch_of(some), 2) - overhead, 0.0)
            a_step = took / max(1, steps)
            if took > budget / (4 * len(rungs)) or count >= len(bags):
                break
            count *= 4
        training += a_step * steps_of(prepared, k)
    if training < budget:  # a whole epoch is quick too, and no sum of small differences
        training = timed(epoch_of(np.concatenate(group.train)), 3)
    if prepared.selects:
        validation = prepared.engine.part(group.validation, [s.validation for s in prepared.splits])
        training += max(timed(epoch_of(NOTHING, validation), 2) - overhead, 0.0)
    looking = _looking(prepared)
    return (compiles() - before).seconds, training + looking


def _looking(prepared: Prepared) -> float:
    """Seconds of judging an epoch on the test part too, where the experiment asks how optimistic that is."""
    if prepared.optimistic is None:
        return 0.0
    judge, group = prepared.optimistic, prepared.group(0)
    state = prepared.first_state(0, group)
    splits = [prepared.split(r) for r in prepared.members(0)]
    splits += [splits[0]] * (prepared.width - len(splits))
    part = judge.part([s.test for s in splits], [s.test for s in prepared.splits])
    return timed(lambda: jax.block_until_ready(judge.judge(group, state, 0, part)), 2)


def bags_by_rung(prepared: Prepared) -> list[np.ndarray]:
    """Rows of the study on each padded length of training."""
    rungs = prepared.engine.layout.rungs
    rung = rung_of(prepared.study.lengths, rungs)
    return [np.flatnonzero(rung == k) for k in range(len(rungs))]


def steps_of(prepared: Prepared, rung: int) -> int:
    """Steps of an epoch on a padded length: of the largest training part, or of all together when bags are streamed."""
    if not isinstance(prepared.engine, StreamEngine):
        return int(prepared.engine.layout.steps[rung])
    parts = [prepared.split(r).train for r in prepared.members(0)]
    return _steps_on(prepared, parts, np.intersect1d(bags_by_rung(prepared)[rung], np.concatenate(parts)))


def _steps_on(prepared: Prepared, parts: Any, bags: np.ndarray) -> int:
    """Steps in which runs with these training parts see these bags of one length."""
    each = [len(bags)] if isinstance(prepared.engine, StreamEngine) else [len(np.intersect1d(p, bags)) for p in parts]
    return -(-max(each) // prepared.experiment.train.batch_bags)


def timed(work: Callable[[], Any], repeats: int) -> float:
    """The least of some repeats, in seconds."""
    best = np.inf
    for _ in range(repeats):
        began = time.monotonic()
        work()
        best = min(best, time.monotonic() - began)
    return float(best)
