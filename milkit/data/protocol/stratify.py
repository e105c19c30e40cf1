"""Stratified draws of units: deal them into folds, or draw a share of them.

Classes (or events) come first: each fold gets its share of each to within one unit. Within a class, values
such as survival times are spread evenly: the class is sorted, cut into blocks of neighbours, and each block
is dealt over the folds (for folds of size k these are the k-unit quantile bins). Multi-label outcomes are
dealt by iterative stratification.

References:
    Sechidis, Tsoumakas, Vlahavas (2011), On the stratification of multi-label data, ECML PKDD, Algorithm 1.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64

from milkit.data.protocol.rng import shuffled
from milkit.data.protocol.units import Outcome


def deal(
    outcome: Outcome, members: Int64[np.ndarray, " m"], folds: int, rng: np.random.Generator
) -> Int64[np.ndarray, " m"]:
    """Deal units into folds of equal size (to within one), balanced over the outcome.

    Args:
        outcome: of all units.
        members: the units to deal.
        folds: how many folds, at most as many as members.
        rng: the stream of this draw.

    Returns:
        The fold of each member, 0 .. folds-1.
    """
    if outcome.labels is not None:
        sizes = np.full(folds, len(members) // folds)
        sizes[shuffled(folds, rng)[: len(members) % folds]] += 1
        return iterative(outcome.labels[members], sizes.astype(np.int64), rng)
    fold_of = np.full(len(members), -1, np.int64)
    for stratum in range(len(outcome.names)):
        ordered = _ordered(outcome, members, stratum, rng)
        left_over = np.zeros(len(ordered), bool)
        left_over[shuffled(len(ordered), rng)[: len(ordered) % folds]] = True
        blocks = ordered[~left_over].reshape(-1, folds)
        for block in blocks:
            fold_of[block] = shuffled(folds, rng)
        # What does not fill a block goes to the smallest folds so far: sizes stay within one of each other.
        smallest_first = np.lexsort((rng.random(folds), np.bincount(fold_of[fold_of >= 0], minlength=folds)))
        fold_of[ordered[left_over]] = smallest_first[: int(left_over.sum())]
    return fold_of


def draw(
    outcome: Outcome, members: Int64[np.ndarray, " m"], share: float, rng: np.random.Generator
) -> Bool[np.ndarray, " m"]:
    """Draw round(share * members) units, balanced over the outcome.

    Each class that has two units or more gives at least one and keeps at least one, where the size drawn
    allows it.

    Args:
        outcome: of all units.
        members: the units to draw from.
        share: of the members, between 0 and 1.
        rng: the stream of this draw.

    Returns:
        True for the members drawn; all False where the share yields no unit.
    """
    total = size_of_share(share, len(members))
    if outcome.labels is not None:
        sizes = np.array([len(members) - total, total], np.int64)
        return iterative(outcome.labels[members], sizes, rng) == 1
    drawn = np.zeros(len(members), bool)
    wanted = _allocate(outcome.counts(members), total, rng)
    for stratum, count in enumerate(wanted.tolist()):
        ordered = _ordered(outcome, members, stratum, rng)
        # One of each of `count` blocks of neighbours.
        cuts = np.arange(count + 1) * len(ordered) // max(count, 1)
        picks = cuts[:-1] + np.floor(rng.random(count) * np.diff(cuts)).astype(np.int64)
        drawn[ordered[picks]] = True
    return drawn


def size_of_share(share: float, n: int) -> int:
    """round(share * n), halves upwards."""
    return int(np.floor(share * n + 0.5))


def iterative(
    labels: Int64[np.ndarray, "m t"], sizes: Int64[np.ndarray, " k"], rng: np.random.Generator
) -> Int64[np.ndarray, " m"]:
    """Deal units with several labels into parts of given sizes by iterative stratification.

    The label with the fewest units left is dealt first; each of its units goes to the part that still wants
    most of that label, ties to the part that wants most units, further ties at random.

    Args:
        labels: 0 or 1.
        sizes: of each part; their sum is the number of units. Unlike Sechidis et al., a part that is full is
            closed, so that sizes are exact.
        rng: the stream of this draw.

    Returns:
        The part of each unit.

    References:
        Sechidis et al. (2011), Algorithm 1.
    """
    part = np.full(len(labels), -1, np.int64)
    room = sizes.astype(np.float64)
    wanted = np.outer(labels.sum(0), sizes / max(int(sizes.sum()), 1))  # [t, k]
    while (part < 0).any():
        open_units = part < 0
        left = labels[open_units].sum(0)
        if left.any():
            label = int(np.lexsort((rng.random(len(left)), np.where(left > 0, left, np.inf)))[0])
            queue = np.flatnonzero(open_units & (labels[:, label] == 1))
            want = wanted[label]
        else:  # units without any label fill what room there is
            queue, want = np.flatnonzero(open_units), np.zeros(len(sizes))
        for unit in queue[shuffled(len(queue), rng)]:
            best = _most_wanting(want, room, rng)
            part[unit] = best
            room[best] -= 1
            wanted[labels[unit] == 1, best] -= 1
    return part


def _most_wanting(want: Float[np.ndarray, " k"], room: Float[np.ndarray, " k"], rng: np.random.Generator) -> int:
    keys = (rng.random(len(room)), -room, -want, room <= 0)  # lexsort: the last key decides first
    return int(np.lexsort(keys)[0])


def _ordered(
    outcome: Outcome, members: Int64[np.ndarray, " m"], stratum: int, rng: np.random.Generator
) -> Int64[np.ndarray, " s"]:
    """Positions in `members` of one stratum, by the value to spread; equal values in random order."""
    positions = np.flatnonzero(outcome.stratum[members] == stratum)
    tie_break = rng.random(len(positions))
    return positions[np.lexsort((tie_break, outcome.spread[members[positions]]))].astype(np.int64)


def _allocate(counts: Int64[np.ndarray, " s"], total: int, rng: np.random.Generator) -> Int64[np.ndarray, " s"]:
    """How many to draw from each stratum: nearest to proportional, one taken and one left where possible."""
    ideal = counts * (total / max(int(counts.sum()), 1))
    low, high = np.minimum(counts // 2, 1), np.maximum(counts - 1, 0)
    if low.sum() > total:
        low = np.zeros_like(low)
    if high.sum() < total:
        high = counts
    taken = low.astype(np.int64)
    tie_break = rng.random(len(counts))
    while taken.sum() < total:  # one more where most is missing: least squares under the bounds
        missing = np.where(taken < high, ideal - taken, -np.inf)
        taken[np.lexsort((tie_break, -missing))[0]] += 1
    return taken
