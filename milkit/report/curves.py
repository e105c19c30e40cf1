"""What the figures show, as arrays: no drawing here, so that each can be checked by hand.

Curves compare the patients of one run with each other, never across runs: scores of different fits share no scale.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from milkit.metrics.ranking import pr_curve, roc_curve

GRID = np.linspace(0.0, 1.0, 201)


def roc_at(
    positive: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"], grid: Float[np.ndarray, "g"] = GRID
) -> Float[np.ndarray, "g"]:
    """True positive rate at each false positive rate of the grid; both classes have to be present.

    A step function where scores differ; patients of equal score make a slope, so that the area under the curve is
    AUROC with ties counted one half (Fawcett 2006, section 5). Its mean over folds is a vertical average (section 8).
    """
    x, y, _ = roc_curve(positive.astype(np.int64), score)
    # the last point at or before the grid (up to rounding): the top of a vertical step
    left = np.searchsorted(x, grid + 1e-12, side="right") - 1
    right = np.minimum(left + 1, len(x) - 1)
    width = np.where(x[right] > x[left], x[right] - x[left], 1.0)
    return y[left] + (y[right] - y[left]) * (grid - x[left]) / width


def pr_at(
    positive: Bool[np.ndarray, "n"], score: Float[np.ndarray, "n"], grid: Float[np.ndarray, "g"] = GRID
) -> Float[np.ndarray, "g"]:
    """Precision at each recall of the grid: that of the highest threshold which reaches this recall.

    These are the steps whose area is average precision; a straight line between points would be too optimistic
    (Davis & Goadrich 2006). Both classes have to be present.
    """
    precision, recall, _ = pr_curve(positive.astype(np.int64), score)
    # A recall that equals a grid value up to rounding belongs to it. No step of average precision ends at recall 0:
    # there the first step counts, not the point that stands for no patient at all.
    wanted = np.clip(grid - 1e-12, np.nextafter(0.0, 1.0), 1.0)
    return precision[np.searchsorted(recall, wanted, side="left")]


@dataclass(frozen=True)
class Curve:
    """One kind of curve over all folds, on a common grid.

    Attributes:
        folds: one row a fold that has both classes: the mean over its seeds, [f, g].
        mean: over folds, [g].
        low: 10th percentile over folds, [g].
        high: 90th percentile over folds, [g].
        undefined: folds with a single class, which have no curve.
        prevalence: mean share of positives over the folds that have a curve.
    """

    folds: Float[np.ndarray, "f g"]
    mean: Float[np.ndarray, "g"]
    low: Float[np.ndarray, "g"]
    high: Float[np.ndarray, "g"]
    undefined: int
    prevalence: float


def average_curve(
    kind: str,
    positive: Bool[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    run: Int[np.ndarray, "n"],
    fold: Int[np.ndarray, "n"],
) -> Curve | None:
    """Curve of each run, averaged over the seeds of a fold, then over folds; None where no fold has both classes.

    Args:
        kind: "roc" or "pr".
        positive: True for patients of the class that is ranked against the rest.
        score: higher means more of that class.
        run: which fit a row is of.
        fold: which split a row is of (repeat and fold together).
    """
    at = {"roc": roc_at, "pr": pr_at}[kind]
    by_fold: dict[int, list[np.ndarray]] = {}
    shares: dict[int, float] = {}
    for rows in groups(run):
        hits = positive[rows]
        curves = by_fold.setdefault(int(fold[rows[0]]), [])
        if hits.any() and not hits.all():
            curves.append(at(hits, score[rows]))
            shares[int(fold[rows[0]])] = float(hits.mean())
    folds = [np.mean(curves, 0) for _, curves in sorted(by_fold.items()) if curves]
    if not folds:
        return None
    stacked = np.stack(folds)
    low, high = np.quantile(stacked, [0.1, 0.9], axis=0)
    undefined = len(by_fold) - len(folds)
    return Curve(stacked, stacked.mean(0), low, high, undefined, float(np.mean(list(shares.values()))))


def groups(key: Int[np.ndarray, "n"]) -> list[Int[np.ndarray, "m"]]:
    """Rows of each distinct value, by one sort (500 runs times all rows would be slow)."""
    order = np.argsort(key, kind="stable")
    return [part for part in np.split(order, np.flatnonzero(np.diff(key[order])) + 1) if len(part)]


def confusion(truth: Int[np.ndarray, "n"], guess: Int[np.ndarray, "n"], classes: int) -> Int[np.ndarray, "c c"]:
    """Counts: a row a true class, a column a predicted one."""
    return np.bincount(truth * classes + guess, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Band:
    """Median and quartiles over runs at each epoch.

    Attributes:
        epoch: [e].
        median: [e].
        low: first quartile, [e].
        high: third quartile, [e].
        runs: runs that trained in this epoch with a finite value, [e].
    """

    epoch: Int[np.ndarray, "e"]
    median: Float[np.ndarray, "e"]
    low: Float[np.ndarray, "e"]
    high: Float[np.ndarray, "e"]
    runs: Int[np.ndarray, "e"]


def band(epoch: Int[np.ndarray, "n"], value: Float[np.ndarray, "n"]) -> Band | None:
    """Quartiles of a value over the runs that reached each epoch; None where no value is finite."""
    finite = np.isfinite(value)
    epoch, value = epoch[finite], value[finite]
    if not len(value):
        return None
    parts = groups(epoch)
    quartiles = np.array([np.quantile(value[rows], [0.25, 0.5, 0.75]) for rows in parts])
    epochs = np.array([epoch[rows[0]] for rows in parts])
    counts = np.array([len(rows) for rows in parts])
    return Band(epochs, quartiles[:, 1], quartiles[:, 0], quartiles[:, 2], counts)


def effective_number(attention: Float[np.ndarray, "n"]) -> float:
    """The exponential of the entropy of attention weights: 1 where one instance has all, n where all weigh the same."""
    total = attention.sum()
    if not np.isfinite(total) or total <= 0:
        return float("nan")
    share = attention[attention > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def risk_rank(risk: Float[np.ndarray, "n"], run: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Rank of each risk within its run, from 0 (lowest) to 1 (highest); ties share their mean rank, one alone has 0.5.

    Risks of different fits share no scale, ranks do.
    """
    out = np.full(len(risk), 0.5)
    for rows in groups(run):
        if len(rows) < 2:
            continue
        ordered = np.sort(risk[rows])
        below = np.searchsorted(ordered, risk[rows], side="left")
        upto = np.searchsorted(ordered, risk[rows], side="right")
        out[rows] = ((below + upto - 1) / 2) / (len(rows) - 1)
    return out
