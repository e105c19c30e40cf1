"""The same tiles in two bags: a bag given twice, a slide scanned twice, tiles of one bag pasted into another.

Two looks. **Hashes** of rows find rows that are equal to the bit, of all rows of the cohort; a row counts only if it
is rare (in at most `RARE` bags), since blank tiles may be equal anywhere. **Sketches** find rows that are nearly equal:
two rows of different bags match if each is the other's nearest row outside its own bag, nearer than half the distance
to the nearest row of any third bag (Lowe's ratio test), and nearer than `NEAR` of what is usual between bags. So the
cohort itself says what near means. Rows nearer than `COPY` are copies by themselves, and may stand in `RARE` bags.

References:
    Lowe (2004), section 7.1: the ratio of the nearest to the second nearest as a test of a match.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from milkit.check.gather import Gathered

RARE = 4
"""A row in more bags than this is common (blank tiles); it says nothing of two bags."""
RATIO = 0.5
NEAR = 0.4
"""In medians over rows of the distance to the nearest row of another bag."""
COPY = 0.2
"""Below this distance a single row is taken for the same tile."""
ROWS = 3
"""Rows that two bags must share before a part is called copied: one or two may be alike by chance."""
SHARE = 0.5
"""Of a bag's rows, to be called the same slide."""
CHANCE = 1e-3
"""Features of few columns, or few values, have rows that are alike by chance; then a pair must have more than that."""
SMALL = 0.4
"""Of a bag's rows, equal to the bit elsewhere, to be called copied where the bag has too few for `ROWS`."""
WIDESPREAD = 0.2
"""Of all bags: where more than this part of bags of counts share rows, shared rows are the nature of the data."""


@dataclass(frozen=True)
class Pair:
    """Two bags with tiles in common.

    Attributes:
        first, second: numbers of the bags, first < second.
        equal: rows equal to the bit, of all rows; scaled up where hashes were let go.
        part_equal: `equal` over the instances of the smaller bag.
        near: rows matched by their sketches, of those kept.
        share, least: part of the larger and of the smaller bag's kept rows that are matched.
        close: rows that lie nearer than `COPY`.
        same: both hold the same rows to the bit, in any order.
        chance_equal, chance_near: chance that any pair of the cohort shares as many rows, equal or near-equal, if rows
            that are alike were scattered over bags as those of the pairs with one or two such rows are.
    """

    first: int
    second: int
    equal: int = 0
    part_equal: float = 0.0
    near: int = 0
    share: float = 0.0
    least: float = 0.0
    close: int = 0
    same: bool = False
    chance_equal: float = 0.0
    chance_near: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether it is the same slide, rather than a part of it."""
        two = self.close >= 2 and self.share >= SHARE  # of bags so small, both rows must be copies
        near = two or (self.near >= ROWS and self.least >= SHARE)
        return self.same or (near and self.chance_near < CHANCE)

    @property
    def part(self) -> bool:
        """Whether a part of one bag stands in the other."""
        equal = (self.equal >= ROWS or self.part_equal >= SMALL) and self.chance_equal < CHANCE
        return equal or (self.close >= ROWS and self.chance_near < CHANCE)


def alike(g: Gathered) -> tuple[list[Pair], int]:
    """Pairs of bags that share tiles, and how many distinct rows stand in more than `RARE` bags."""
    equal, common = _equal_rows(g)
    near = _near_rows(g)
    same = _same_bags(g)
    kept = np.bincount(g.kept_bag, minlength=len(g.ids))
    by_equal = _chances(equal, g.finite)
    by_near = _chances({key: max(counts) for key, counts in near.items()}, kept)
    pairs = []
    for key in sorted(set(equal) | set(near) | same):
        a, b = key
        matched, close = near.get(key, (0, 0))
        shared = equal.get(key, 0)
        sizes = int(kept[a]), int(kept[b])
        part = shared / max(1, int(min(g.finite[a], g.finite[b])))
        larger, smaller = matched / max(1, *sizes), matched / max(1, min(sizes))
        chances = by_equal.get(key, 0.0), by_near.get(key, 0.0)
        pairs.append(Pair(a, b, shared, part, matched, larger, smaller, close, key in same, *chances))
    return pairs, common


def _chances(counts: Mapping[tuple[int, int], int], lengths: np.ndarray) -> dict[tuple[int, int], float]:
    """Chance, over all pairs, of as many shared rows as each pair has.

    A Poisson law, whose mean for two bags goes with the product of their lengths. Its rate is that of the pairs with
    fewer than `ROWS`, or of the median pair if that is higher, so that copies do not hide each other.
    """
    from scipy.stats import poisson

    n = lengths.astype(np.float64)
    products = (n.sum() ** 2 - (n**2).sum()) / 2
    pairs = int(len(n) * (len(n) - 1) // 2)
    few = sum(count for count in counts.values() if count < ROWS) / max(products, 1.0)
    rates = sorted(count / (n[a] * n[b]) for (a, b), count in counts.items())
    median = rates[-(pairs // 2) - 1] if len(rates) > pairs // 2 else 0.0  # pairs that share nothing have 0
    rate = max(few, median)
    return {
        (a, b): min(1.0, pairs * float(poisson.sf(count - 1, rate * n[a] * n[b]))) for (a, b), count in counts.items()
    }


def by_nature(g: Gathered, pairs: list[Pair]) -> bool:
    """Whether bags share instances by the nature of the data: counts of words, and rows shared all over the cohort.

    A web page may be linked from two index pages; a tile lies on one slide only.
    """
    sharing = {bag for p in pairs if (p.equal or p.close) and not p.same for bag in (p.first, p.second)}
    return g.counts and g.zero_share > 0.8 and len(sharing) > WIDESPREAD * max(1, int(g.usable.sum()))


def _same_bags(g: Gathered) -> set[tuple[int, int]]:
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in np.flatnonzero(g.usable & (g.zero_rows < g.finite)).tolist():
        groups[(int(g.digest[i]), int(g.finite[i]))].append(i)
    return {(a, b) for members in groups.values() for n, b in enumerate(members) for a in members[:n]}


def _equal_rows(g: Gathered) -> tuple[dict[tuple[int, int], int], int]:
    """Distinct rare rows that two bags have in common, by pair; and the number of rows that are not rare."""
    if not len(g.hashes):
        return {}, 0
    order = np.lexsort((g.hash_bag, g.hashes))
    h, bag = g.hashes[order], g.hash_bag[order]
    new = np.r_[True, (h[1:] != h[:-1]) | (bag[1:] != bag[:-1])]  # a row counts once a bag
    h, bag = h[new], bag[new]
    starts = np.flatnonzero(np.r_[True, h[1:] != h[:-1]])
    sizes = np.diff(np.r_[starts, len(h)])
    pairs: dict[tuple[int, int], int] = defaultdict(int)
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        if size <= RARE:
            members = bag[start : start + size].tolist()
            for n, b in enumerate(members):
                for a in members[:n]:
                    pairs[(a, b)] += 1
    scale = (2**64 - 1) / g.limit
    return {key: round(count * scale) for key, count in pairs.items()}, int((sizes > RARE).sum())


def _near_rows(g: Gathered) -> Mapping[tuple[int, int], tuple[int, int]]:
    """(matched rows, of these nearer than `COPY`) of every pair of bags with a match."""
    bags = np.unique(g.kept_bag)
    if len(bags) < 2:
        return {}
    row, bag, first, second, rare = _nearest(g.kept, g.kept_bag)
    usual = float(np.median(first))
    if usual <= 0:  # most rows have an equal elsewhere: the hashes say so
        usual = float(np.median(first[first > 0])) if (first > 0).any() else 0.0
    mutual = row[row] == np.arange(len(row))
    near = mutual & (first <= NEAR * usual) & (first <= RATIO * second) & (second > COPY * usual)
    copied = mutual & (first <= COPY * usual) & (first <= RATIO * rare) & (rare > COPY * usual)
    found: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for i in np.flatnonzero(near | copied).tolist():
        a, b = int(bag[i]), int(bag[row[i]])
        if a < b:
            held = found[(a, b)]
            held[0] += bool(near[i])
            held[1] += bool(copied[i])
    return {key: (matched, close) for key, (matched, close) in found.items()}


def _nearest(x: np.ndarray, bag: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every row: the nearest row outside its bag, bags, that distance, those to the 2nd and `RARE`-th other bag."""
    n = len(x)
    starts = np.flatnonzero(np.r_[True, bag[1:] != bag[:-1]])
    own = np.searchsorted(starts, np.arange(n), side="right") - 1
    square = np.einsum("nd,nd->n", x, x)
    row, ordered = np.zeros(n, np.int64), np.full((n, RARE), np.inf, np.float32)
    few = min(RARE, len(starts))
    block = max(1, 2**24 // max(1, n))
    for begin in range(0, n, block):
        here = slice(begin, min(n, begin + block))
        lines = np.arange(here.stop - begin)
        far = x[here] @ x.T  # squared distances, less the row's own square, which moves no minimum
        far *= -2
        far += square
        by_bag = np.minimum.reduceat(far, starts, axis=1)
        by_bag[lines, own[here]] = np.inf
        nearest = by_bag.argmin(1)
        ordered[here, :few] = np.sort(np.partition(by_bag, few - 1, axis=1)[:, :few], axis=1)
        for line, place in zip(lines.tolist(), nearest.tolist(), strict=True):
            end = starts[place + 1] if place + 1 < len(starts) else n
            row[begin + line] = starts[place] + far[line, starts[place] : end].argmin()
    ordered = np.sqrt(np.maximum(ordered + square[:, None], 0))
    return row, bag, ordered[:, 0], ordered[:, 1], ordered[:, RARE - 1]
