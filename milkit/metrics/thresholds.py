"""Thresholds, chosen on validation patients and then applied to test patients as they are."""

import math

import numpy as np
from jaxtyping import Float, Num

from milkit.metrics.draws import ONE_CLASS, Undefined, not_finite


def youden_threshold(y: Num[np.ndarray, "n"], score: Float[np.ndarray, "n"]) -> float:
    """The threshold with the largest sensitivity + specificity - 1; positive means score >= threshold.

    Candidates lie half-way between neighbouring distinct scores, so that each splits the patients in two; a threshold
    that calls everybody the same is none. Of several with the same J the one nearest 0.5 is taken (few validation
    patients give many ties, and 0.5 is where an unfitted probability is cut), then the lower one. If all scores are
    equal, that score.

    Args:
        y: 1 = positive, 0 = negative, of validation patients.
        score: their probability of the positive class.

    Returns:
        The threshold, or an `Undefined` where there is only one class or a score is not finite.

    References:
        Youden (1950), Index for rating diagnostic tests.
    """
    if reason := not_finite(score):
        return Undefined(reason)
    distinct, place = np.unique(score, return_inverse=True)
    positive = np.bincount(place, weights=y == 1, minlength=len(distinct))
    negative = np.bincount(place, weights=y == 0, minlength=len(distinct))
    if not (positive.sum() and negative.sum()):
        return Undefined(ONE_CLASS)
    if len(distinct) == 1:
        return float(distinct[0])
    low, high = distinct[:-1], distinct[1:]
    middle = low + (high - low) / 2
    middle = np.where(middle > low, middle, high)  # neighbouring floats have no middle
    # J times both counts: whole numbers, so that ties are exact
    missed, spared = positive.cumsum()[:-1], negative.cumsum()[:-1]
    j = (positive.sum() - missed) * negative.sum() + spared * positive.sum()
    best = np.flatnonzero(j == j.max())
    return float(middle[best[np.argmin(np.abs(middle[best] - 0.5))]])


def youden_thresholds(y: Num[np.ndarray, "n c"], score: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "c"]:
    """One threshold a label; NaN where a label has one class only."""
    return np.array([youden_threshold(y[:, i], score[:, i]) for i in range(y.shape[1])])


def threshold_at_sensitivity(y: Num[np.ndarray, "n"], score: Float[np.ndarray, "n"], sensitivity: float) -> float:
    """The highest threshold with at least this sensitivity; positive means score >= threshold.

    It lies half-way between the last score that must be called positive and the next lower one; where there is no
    lower one it is that score, and everybody is called positive.

    Args:
        y: 1 = positive, 0 = negative, of validation patients.
        score: their probability of the positive class.
        sensitivity: wanted at least, above 0 to 1.

    Returns:
        The threshold, or an `Undefined` where there is only one class or a score is not finite.
    """
    if reason := not_finite(score):
        return Undefined(reason)
    hits = np.sort(score[y == 1])[::-1]
    if not 0 < len(hits) < len(y):
        return Undefined(ONE_CLASS)
    needed = math.ceil(sensitivity * len(hits) - 1e-9)  # 0.9 of ten positives are nine
    last = float(hits[max(needed, 1) - 1])
    lower = score[score < last]
    if not len(lower):
        return last
    below = float(lower.max())
    middle = below + (last - below) / 2
    return middle if middle > below else last
