"""The variance of an AUROC, and of the difference of two on the same patients, without resampling.

Only for models that were locked before they met these patients, on one held-out set: it knows nothing of training.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from scipy.stats import rankdata


class Placements(NamedTuple):
    """How often each patient lies on the right side of the other class, ties half; the mean of each is the AUROC.

    Attributes:
        positive: share of the negatives that score below each positive, [m].
        negative: share of the positives that score above each negative, [k].
    """

    positive: Float[np.ndarray, "m"]
    negative: Float[np.ndarray, "k"]


class DeLong(NamedTuple):
    """Difference of two AUROCs and its standard error."""

    difference: float
    standard_error: float


def placements(y: Num[np.ndarray, "n"], score: Float[np.ndarray, "n"]) -> Placements:
    """Structural components of one score, by mid-ranks.

    Args:
        y: 1 = positive, 0 = negative.
        score: any monotone score.

    References:
        DeLong, DeLong & Clarke-Pearson (1988), equations 3 and 4; by ranks as in Sun & Xu (2014).
    """
    positive, negative = score[y == 1], score[y == 0]
    m, k = len(positive), len(negative)
    together = rankdata(np.r_[positive, negative])
    return Placements((together[:m] - rankdata(positive)) / k, 1 - (together[m:] - rankdata(negative)) / m)


def delong(
    y: Num[np.ndarray, "n"], first: Float[np.ndarray, "n seeds_a"], second: Float[np.ndarray, "n seeds_b"]
) -> DeLong | None:
    """AUROC of the first minus that of the second, with its standard error.

    Several seeds of a model: the mean of their AUROCs is compared. That mean is a U statistic whose components are the
    mean components, so seeds make each patient's share steadier and add no patients.

    Args:
        y: 1 = positive, 0 = negative.
        first: scores, one column a seed.
        second: of the same patients in the same order.

    Returns:
        None where a class has fewer than two patients, so that there is no variance.

    References:
        DeLong, DeLong & Clarke-Pearson (1988), Comparing the areas under two or more correlated receiver operating
        characteristic curves.
    """
    m, k = int((y == 1).sum()), int((y == 0).sum())
    if min(m, k) < 2:
        return None
    a, b = _mean_placements(y, first), _mean_placements(y, second)
    above, below = a.positive - b.positive, a.negative - b.negative
    variance = above.var(ddof=1) / m + below.var(ddof=1) / k
    return DeLong(float(above.mean()), float(np.sqrt(variance)))


def _mean_placements(y: np.ndarray, scores: Float[np.ndarray, "n seeds"]) -> Placements:
    each = [placements(y, column) for column in scores.T]
    return Placements(np.mean([p.positive for p in each], 0), np.mean([p.negative for p in each], 0))
