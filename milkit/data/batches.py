"""Which bags a step sees: the ladder of padded lengths, and the order of an epoch.

*Bucket lockstep*: all runs of a study walk the same random sequence of padded lengths, and each run draws its own
bags within each length. Every step then has one shape for all runs, however different their training parts are.
Sequence and counts derive from the whole plan of splits, never from which runs happen to share a program, so a run's
order does not depend on its companions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


def ladder(lengths: Int[np.ndarray, "b"], rungs: int, smallest: int = 1) -> tuple[int, ...]:
    """Padded lengths that waste least: at most `rungs`, the last one holds the longest bag.

    Exact by dynamic programming over the distinct lengths (thinned to 512 quantiles when there are more).

    Args:
        lengths: instances of each bag, >= 1.
        rungs: the most shapes to compile.
        smallest: no rung is shorter (a model's `min_instances`).

    Returns:
        Increasing lengths; each bag goes to the first rung that holds it.
    """
    sizes, counts = np.unique(np.maximum(lengths, smallest), return_counts=True)
    if len(sizes) > 512:
        keep = np.unique(np.linspace(0, len(sizes) - 1, 512).round().astype(int))
        counts = np.add.reduceat(counts, np.r_[0, keep[:-1] + 1])
        sizes = sizes[keep]
    bags = np.r_[0, np.cumsum(counts)]
    n = len(sizes)
    rungs = min(rungs, n)
    # cost[j] = least padded instances that hold the first j sizes with k rungs; a rung i..j-1 pads all to sizes[j-1]
    cost = np.full((rungs + 1, n + 1), np.inf)
    cost[:, 0] = 0.0
    cut = np.zeros((rungs + 1, n + 1), int)
    for k in range(1, rungs + 1):
        for j in range(1, n + 1):
            options = cost[k - 1, :j] + sizes[j - 1] * (bags[j] - bags[:j])
            cut[k, j] = int(np.argmin(options))
            cost[k, j] = options[cut[k, j]]
    chosen, j = [], n
    for k in range(rungs, 0, -1):
        if j == 0:
            break
        chosen.append(int(sizes[j - 1]))
        j = cut[k, j]
    return tuple(reversed(chosen))


def rung_of(lengths: Int[np.ndarray, "b"], rungs: Sequence[int]) -> Int[np.ndarray, "b"]:
    """Index of the first rung that holds each bag (longer bags, which are subsampled, go to the last)."""
    return np.minimum(np.searchsorted(np.asarray(rungs), lengths), len(rungs) - 1)


@dataclass(frozen=True)
class TrainLayout:
    """The shape of an epoch, one for the whole study.

    Attributes:
        rungs: padded lengths.
        rung: the rung of every bag of the study.
        steps: steps of each rung in an epoch, enough for the largest training part of any split.
        batch: bags a step.
    """

    rungs: tuple[int, ...]
    rung: np.ndarray
    steps: tuple[int, ...]
    batch: int

    @property
    def total_steps(self) -> int:
        """Steps of an epoch, fillers included."""
        return sum(self.steps)

    def updates(self, part: Int[np.ndarray, "t"], accumulate: int = 1) -> int:
        """Updates that a run with this training part makes in an epoch (fillers make none)."""
        bags = np.bincount(self.rung[part], minlength=len(self.rungs))
        return int(-(-(-(-bags // self.batch)).sum() // accumulate))


def train_layout(
    lengths: Int[np.ndarray, "b"], rungs: tuple[int, ...], batch: int, parts: Sequence[np.ndarray]
) -> TrainLayout:
    """Lay out an epoch for every training part of a plan.

    Args:
        lengths: instances of each bag.
        rungs: padded lengths from `ladder`.
        batch: bags a step.
        parts: the training part (row indices) of every split of the plan.
    """
    rung = rung_of(lengths, rungs)
    most = np.zeros(len(rungs), int)
    for part in parts:
        most = np.maximum(most, np.bincount(rung[part], minlength=len(rungs)))
    return TrainLayout(rungs, rung, tuple(int(-(-m // batch)) for m in most), batch)


@dataclass(frozen=True)
class Epoch:
    """One epoch of several runs.

    Attributes:
        rung: which padded length each step has, [s].
        index: rows of the study, [s, r, b]; fillers hold 0.
        weight: 1 for a bag to learn from, 0 for a filler, [s, r, b].
        update: whether the run's parameters move after this step, [s, r].
    """

    rung: Int[np.ndarray, "s"]
    index: Int[np.ndarray, "s r b"]
    weight: Float[np.ndarray, "s r b"]
    update: Bool[np.ndarray, "s r"]


def draw_epoch(
    layout: TrainLayout,
    parts: Sequence[np.ndarray],
    keys: Sequence[tuple[int, ...]],
    shared: int,
    epoch: int,
    accumulate: int = 1,
) -> Epoch:
    """Draw the order of one epoch.

    Args:
        layout: the study's epoch shape.
        parts: each run's training part.
        keys: each run's own numbers (repeat, fold, inner, seed), from which its order is drawn.
        shared: the study's number; with `epoch` it draws the sequence of lengths that all runs share.
        epoch: counted from 0.
        accumulate: steps an update.
    """
    common = np.random.Generator(np.random.Philox(np.random.SeedSequence((shared, epoch, 0))))
    sequence = common.permutation(np.repeat(np.arange(len(layout.rungs)), layout.steps))
    places = [np.flatnonzero(sequence == k) for k in range(len(layout.rungs))]
    shape = (len(sequence), len(parts), layout.batch)
    index, weight = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for r, (part, key) in enumerate(zip(parts, keys, strict=True)):
        own = np.random.Generator(np.random.Philox(np.random.SeedSequence((shared, epoch, 1, *key))))
        for k, place in enumerate(places):
            bags = own.permutation(part[layout.rung[part] == k])
            slots, offset = np.arange(len(bags)) // layout.batch, np.arange(len(bags)) % layout.batch
            index[place[slots], r, offset] = bags
            weight[place[slots], r, offset] = 1.0
    return Epoch(sequence.astype(np.int32), index, weight, moves(weight, accumulate))


def moves(weight: Float[np.ndarray, "s r b"], accumulate: int) -> Bool[np.ndarray, "s r"]:
    """After which steps a run's parameters move: every `accumulate`-th that has a bag of its own, and its last one.

    The last one takes what is left.
    """
    real = weight.any(-1)
    count = np.cumsum(real, 0)
    return real & ((count % accumulate == 0) | (count == count[-1:]))


@dataclass(frozen=True)
class Steps:
    """An epoch as it is carried out: block by block, without the steps in which no run of a block has a bag.

    Runs of a block (neighbours on the run axis) share the first three; they stand there once a run.

    Attributes:
        count: steps to make, [r].
        number: of each step in the epoch's order, from which its draws follow, [r, s].
        rung: padded length of each step, [r, s].
        index, weight: as in `Epoch`, [r, s, b].
        update: as in `Epoch`, [r, s].
    """

    count: Int[np.ndarray, "r"]
    number: Int[np.ndarray, "r s"]
    rung: Int[np.ndarray, "r s"]
    index: Int[np.ndarray, "r s b"]
    weight: Float[np.ndarray, "r s b"]
    update: Bool[np.ndarray, "r s"]


def compact(epoch: Epoch, width: int, learning: Bool[np.ndarray, "r"]) -> Steps:
    """Leave out what nobody needs: steps without weight change nothing, so results stay as they are, to the bit.

    Args:
        epoch: the order.
        width: runs a block; divides the number of runs.
        learning: False for runs that have ended.
    """
    weight = epoch.weight * learning[:, None]
    steps, runs, _ = weight.shape
    used = weight.any(-1).reshape(steps, runs // width, width).any(-1)  # [s, blocks]
    # the steps that are used come first, in their order
    first = np.repeat(np.argsort(~used, axis=0, kind="stable").T, width, axis=0)  # [r, s]
    run = np.arange(runs)[:, None]
    return Steps(
        count=np.repeat(used.sum(0), width).astype(np.int32),
        number=first.astype(np.int32),
        rung=epoch.rung[first],
        index=epoch.index[first, run],
        weight=weight[first, run],
        update=epoch.update[first, run],
    )


@dataclass(frozen=True)
class PartLayout:
    """How a part (validation, test ...) of several runs is read for prediction: every bag once, by padded length.

    Attributes:
        lengths: padded length of each block.
        index: one array a block, [s, r, b]: steps, runs, bags; fillers hold 0.
        weight: likewise, 1 for a real bag.
    """

    lengths: tuple[int, ...]
    index: tuple[Int[np.ndarray, "_ r _"], ...]
    weight: tuple[Float[np.ndarray, "_ r _"], ...]


def part_layout(
    lengths: Int[np.ndarray, "b"],
    rungs: tuple[int, ...],
    parts: Sequence[np.ndarray],
    all_parts: Sequence[np.ndarray],
    instances: int = 4096,
) -> PartLayout:
    """Lay out the prediction of one part for several runs.

    Args:
        lengths: instances of each bag of the study.
        rungs: padded lengths.
        parts: this program's parts (row indices), one a run.
        all_parts: the same part of every split of the plan: they fix the shapes, so that programs share a compilation.
        instances: about how many padded instances a run's step may hold.
    """
    rung = rung_of(lengths, rungs)
    most = np.zeros(len(rungs), int)
    for part in all_parts:
        most = np.maximum(most, np.bincount(rung[part], minlength=len(rungs)))
    kept: list[int] = []
    indices: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for k, length in enumerate(rungs):
        if most[k] == 0:
            continue
        batch = int(min(most[k], max(1, instances // length)))
        steps = int(-(-most[k] // batch))
        index = np.zeros((len(parts), steps * batch), np.int32)
        weight = np.zeros(index.shape, np.float32)
        for r, part in enumerate(parts):
            bags = part[rung[part] == k]
            index[r, : len(bags)], weight[r, : len(bags)] = bags, 1.0
        kept.append(length)
        for out, a in ((indices, index), (weights, weight)):
            out.append(np.ascontiguousarray(a.reshape(len(parts), steps, batch).swapaxes(0, 1)))
    return PartLayout(tuple(kept), tuple(indices), tuple(weights))
