"""A feature column that is the label, and columns that predict it.

Every column is pooled over each bag by mean, maximum and minimum, and judged by the AUROC of each class against the
others. What the best of so many columns reaches by chance is measured: labels are dealt anew among the bags
`PERMUTATIONS` times, and the largest AUROC over columns and poolings is noted (Westfall & Young 1993, max statistic).

Predictive is not leaking: on real features the best column nearly always beats that threshold. So a column is an error
only if it is near-perfect *and* constant within bags, as no feature of a tile is; or a copy of the label: its pooled
values lie in clumps, one a class, with a gap between the clumps that is wider than the clumps.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.stats import rankdata

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding, plural

PERMUTATIONS = 200
NEAR_PERFECT = 0.95
OWN = 0.75
"""From this AUROC, a column of two values of which one stands in bags of one class only is looked at."""
GAP = 2.0
"""Gap between the clumps of a copied label, in widths of the wider clump. 20 draws of a normal law are about 4 SD wide,
so classes would have to lie 12 SD apart: no natural feature does."""
FEWEST = 3
"""Bags of each of two classes; with fewer, chance makes columns that are perfect."""


@dataclass(frozen=True, eq=False)
class Columns:
    """What each column says of the label.

    Attributes:
        auroc: best over classes of each pooling (mean, max, min), at least .5, [3, d].
        chance: 95 % quantile of the largest over columns and poolings when labels are dealt anew.
        instance: best over classes of single instances, from a sample, [d].
        instance_chance: its own threshold.
    """

    auroc: Float[np.ndarray, "p d"]
    chance: float
    instance: Float[np.ndarray, " d"]
    instance_chance: float


def look(e: Evidence) -> list[Finding]:
    """Columns that are the label (error), that come close (warning), and the best of the others (note)."""
    g = e.g
    if g is None or e.label is None:
        return []
    use = g.usable & (e.bag_y >= 0)
    y = e.bag_y[use]
    counts = np.bincount(y, minlength=2)
    if (counts >= FEWEST).sum() < 2:
        return []
    pooled = [g.mean[use], g.high[use].astype(np.float64), g.low[use].astype(np.float64)]
    columns = judge(pooled, y, g.sample, g.sample_bag, e.bag_y)
    perfect, why = _is_label(e, columns, pooled, y, use)
    best = columns.auroc.max(0)
    order = np.argsort(-best, kind="stable")
    found = []
    if len(perfect):
        found.append(
            finding(
                "label_column",
                "error",
                [f"column {j} (no. {j + 1}; {why[j]})" for j in perfect],
                f"{plural(len(perfect), 'feature column')} (of {len(best)}, from 0) that hold {e.label.column!r}",
                "Drop the column from the features and extract the store anew; every number made with it is void.",
                f"chance reaches AUROC {columns.chance:.2f} (95 % of {PERMUTATIONS} permutations, best column); no "
                "feature of an instance is so",
            )
        )
    two = _two_values(e)
    own = _of_one_class(pooled[1], y) | _of_one_class(-pooled[2], y)
    telling = two & (best > columns.chance) & ((best >= NEAR_PERFECT) | (own & (best >= OWN)))
    near = [j for j in order.tolist() if j not in why and telling[j]]
    if near:
        found.append(
            finding(
                "label_column",
                "warning",
                [f"column {j} (AUROC {best[j]:.3f}, two values)" for j in near],
                f"{plural(len(near), 'column')} of two values that nearly tell the label",
                "Find out what the column is.",
                "likely: features of tiles seldom take two values",
            )
        )
    rest = [j for j in order.tolist() if j not in why and j not in near]
    if rest and (best[rest[0]] > columns.chance or columns.instance[rest].max() > columns.instance_chance):
        found.append(_predictive(columns, rest))
    return found


def _predictive(columns: Columns, rest: list[int]) -> Finding:
    best = columns.auroc.max(0)
    beat = [j for j in rest if best[j] > columns.chance]
    by_instance = max(rest, key=lambda j: columns.instance[j])
    shown = beat[:5] or [by_instance]
    return finding(
        "predictive_column",
        "note",
        [f"column {j} (bag AUROC {best[j]:.3f}, instance AUROC {columns.instance[j]:.3f})" for j in shown],
        f"{plural(len(beat), 'column')} tell the label of bags better than chance ({columns.chance:.3f}); best "
        f"single instances: column {by_instance}, {columns.instance[by_instance]:.3f} "
        f"(threshold {columns.instance_chance:.3f})",
        "Nothing: features are meant to be predictive. Look at a column that you cannot explain.",
        "the threshold is the 95 % quantile of the best of all columns when labels are dealt anew",
    )


def judge(
    pooled: list[np.ndarray], y: Int64[np.ndarray, " b"], rows: np.ndarray, row_bag: np.ndarray, bag_y: np.ndarray
) -> Columns:
    """AUROC of every column, and what chance reaches."""
    rng = np.random.default_rng(0)
    dealt = np.stack([y, *(rng.permutation(y) for _ in range(PERMUTATIONS))])
    tops, best = np.zeros(PERMUTATIONS), []
    for values in pooled:
        reached = aurocs(values, dealt)
        best.append(reached[0])
        tops = np.maximum(tops, reached[1:].max(1))
    labelled = bag_y >= 0
    keep = labelled[row_bag]
    row_y = np.full((PERMUTATIONS + 1, len(bag_y)), -1)
    row_y[0, labelled] = bag_y[labelled]
    for p in range(PERMUTATIONS):
        row_y[p + 1, labelled] = rng.permutation(bag_y[labelled])
    single = aurocs(rows[keep], row_y[:, row_bag[keep]])
    return Columns(
        np.stack(best), float(np.quantile(tops, 0.95)), single[0], float(np.quantile(single[1:].max(1), 0.95))
    )


def aurocs(values: Float[np.ndarray, "r d"], dealt: Int64[np.ndarray, "p r"]) -> Float[np.ndarray, "p d"]:
    """Best over classes of max(AUROC, 1 - AUROC) of every column, for each deal of the labels."""
    classes = [c for c in range(int(dealt.max()) + 1) if (dealt[0] == c).sum() >= FEWEST]
    classes = classes[:1] if len(classes) == 2 and int(dealt.max()) == 1 else classes  # the other is its mirror
    n = values.shape[0]
    best = np.full((len(dealt), values.shape[1]), 0.5)
    for start in range(0, values.shape[1], 256):
        ranks = rankdata(values[:, start : start + 256], axis=0)
        for c in classes:
            own = (dealt == c).astype(np.float64)
            size = own.sum(1, keepdims=True)
            area = (own @ ranks - size * (size + 1) / 2) / (size * (n - size))
            held = best[:, start : start + 256]
            np.maximum(held, np.maximum(area, 1 - area), out=held)
    return best


def _two_values(e: Evidence) -> Bool[np.ndarray, " d"]:
    """Columns with exactly two values: then (x - low) (high - x) is 0 everywhere, and so is its sum."""
    g = e.g
    assert g is not None
    use = g.usable
    low, high = g.low[use].min(0).astype(np.float64), g.high[use].max(0).astype(np.float64)
    n = g.finite[use][:, None]
    total, square = (n * g.mean[use]).sum(0), (n * g.square[use]).sum(0)
    inside = -square + (low + high) * total - n.sum() * low * high
    scale = n.sum() * np.maximum(np.maximum(low**2, high**2), 1e-300)
    return (high > low) & (np.abs(inside) <= 1e-9 * scale)


def _of_one_class(high: Float[np.ndarray, "b d"], y: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, " d"]:
    """Columns whose largest value stands in bags of one class only, as a label of instances does."""
    holds = high == high.max(0)
    return np.sum([holds[y == c].any(0) for c in np.unique(y)], axis=0) == 1


def _is_label(
    e: Evidence, columns: Columns, pooled: list[np.ndarray], y: Int64[np.ndarray, " b"], use: Bool[np.ndarray, " B"]
) -> tuple[list[int], dict[int, str]]:
    """Columns that are the label, and why."""
    g = e.g
    assert g is not None
    best = columns.auroc.max(0)
    flat = (g.high[use] == g.low[use]).mean(0) if (g.finite[use] > 1).any() else np.zeros(len(best))
    several = g.finite[use] > 1
    flat = (g.high[use][several] == g.low[use][several]).mean(0) if several.any() else flat
    flat = np.where(several.sum() >= FEWEST, flat, 0)
    why: dict[int, str] = {}
    for j in np.flatnonzero((best >= NEAR_PERFECT) & (best > columns.chance)).tolist():
        pool = next((name for name, v in zip(("mean", "max", "min"), pooled, strict=True) if _copy(v[:, j], y)), "")
        if pool:
            why[j] = f"its {pool} over a bag is a copy of the label"
        elif flat[j] >= 0.99:
            why[j] = f"constant within bags, AUROC {best[j]:.3f}"
    return list(why), why


def _copy(value: Float[np.ndarray, " b"], y: Int64[np.ndarray, " b"]) -> bool:
    """Whether values lie in clumps, one a class, with gaps wider than the clumps."""
    ends = sorted((float(value[y == c].min()), float(value[y == c].max())) for c in np.unique(y))
    width = max(high - low for low, high in ends)
    gaps = [after[0] - before[1] for before, after in pairwise(ends)]
    return bool(gaps) and min(gaps) > GAP * width and min(gaps) > 0
