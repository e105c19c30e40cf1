"""In which order bags are read while they are trained on: one order for all runs, drawn anew every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from milkit.data.batches import TrainLayout, moves, rung_of
from milkit.data.reading import Wanted


@dataclass(frozen=True)
class StreamLayout(TrainLayout):
    """The shape of an epoch in which every run sees the same batches, one for the whole study.

    Attributes:
        bags: rows of the study that some split of the plan trains or validates on.
        share: of the plan's splits, how many predict a bag in one role, at most; in (0, 1].
    """

    bags: tuple[int, ...]
    share: float

    def updates(self, part: Int[np.ndarray, "t"], accumulate: int = 1) -> int:
        """The most updates that a run with this training part makes in an epoch; exact for batches of one bag.

        Of larger batches some may hold none of the run's bags, which ones differs from epoch to epoch.
        """
        bags = np.bincount(self.rung[part], minlength=len(self.rungs))
        return int(-(-np.minimum(bags, self.steps).sum() // accumulate))


def stream_layout(
    lengths: Int[np.ndarray, "b"],
    rungs: tuple[int, ...],
    batch: int,
    train: Sequence[np.ndarray],
    validation: Sequence[np.ndarray],
    test: Sequence[np.ndarray] = (),
) -> StreamLayout:
    """Lay out the epochs of a plan.

    Args:
        lengths: instances of each bag.
        rungs: padded lengths from `ladder`; the last one holds the longest bag.
        batch: bags a step.
        train, validation, test: the parts (row indices) of every split of the plan.
    """
    rung = rung_of(lengths, rungs)
    bags = np.unique(np.concatenate([*train, *validation]))
    counts = np.bincount(rung[bags], minlength=len(rungs))
    shares = [
        np.bincount(np.concatenate(parts), minlength=1).max() / len(parts) for parts in (validation, test) if len(parts)
    ]
    share = max([s for s in shares if s > 0], default=1.0)
    steps = tuple(int(-(-c // batch)) for c in counts)
    return StreamLayout(rungs, rung, steps, batch, tuple(bags.tolist()), float(share))


def draw_order(layout: StreamLayout, seed: int, epoch: int) -> list[Wanted]:
    """The batches of one training epoch, in order; a batch holds bags of one padded length.

    Args:
        layout: of the study.
        seed: the experiment's number.
        epoch: counted from 0.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, 2))))
    batches = batches_of(layout, rng.permutation(np.asarray(layout.bags)))
    return [batches[i] for i in rng.permutation(len(batches))]


def batches_of(layout: StreamLayout, bags: Int[np.ndarray, "n"]) -> list[Wanted]:
    """Bags in the order given, as batches of one padded length each, the shorter ones first."""
    out = []
    for k, length in enumerate(layout.rungs):
        own = bags[layout.rung[bags] == k].tolist()
        out += [
            Wanted(tuple(own[i : i + layout.batch]), layout.batch, int(length))
            for i in range(0, len(own), layout.batch)
        ]
    return out


@dataclass(frozen=True)
class Steps:
    """What the runs of a program do with the batches of an epoch.

    Attributes:
        index: rows of the study, shared by all runs; fillers hold 0.
        weight: 1 where a bag is in the run's training part, else 0.
        update: whether the run's parameters move after this step.
    """

    index: Int[np.ndarray, "s b"]
    weight: Float[np.ndarray, "s r b"]
    update: Bool[np.ndarray, "s r"]


def steps_of(wanted: Sequence[Wanted], member: Bool[np.ndarray, "r n"], accumulate: int = 1) -> Steps:
    """Weights of an epoch's batches for some runs.

    Args:
        wanted: the batches.
        member: whether each bag of the study is in the run's training part.
        accumulate: steps an update; only steps with a bag of the run's own count.
    """
    size = wanted[0].size if wanted else 1
    index = np.zeros((len(wanted), size), np.int32)
    real = np.zeros(index.shape, bool)
    for s, batch in enumerate(wanted):
        index[s, : len(batch.bags)] = batch.bags
        real[s, : len(batch.bags)] = True
    weight = (member.T[index].swapaxes(1, 2) & real[:, None]).astype(np.float32)
    return Steps(index, weight, moves(weight, accumulate))
