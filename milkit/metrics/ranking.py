"""Metrics of how a score orders patients: ROC and precision-recall curves and what is read off them.

Letters: n patients, c classes or labels. Ties are one step of a curve: patients of equal score cannot be told apart.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from milkit.metrics.draws import (
    ONE_CLASS,
    Value,
    Weight,
    as_draws,
    finish,
    mean_of_defined,
    not_finite,
    ratio,
    undefined,
)

Labels = Num[np.ndarray, "n"]
Scores = Float[np.ndarray, "n"]


class Roc(NamedTuple):
    """Points of an ROC curve from (0, 0) to (1, 1); a patient is called positive at score >= threshold."""

    fpr: Float[np.ndarray, "p"]
    tpr: Float[np.ndarray, "p"]
    threshold: Float[np.ndarray, "p"]


class PrecisionRecall(NamedTuple):
    """Points of a precision-recall curve in order of falling threshold, starting at recall 0 and precision 1."""

    precision: Float[np.ndarray, "p"]
    recall: Float[np.ndarray, "p"]
    threshold: Float[np.ndarray, "p"]


class Auprc(NamedTuple):
    """Average precision with what a score without information would reach."""

    value: Value
    prevalence: Value


def auroc(y: Labels, score: Scores, weight: Weight = None) -> Value:
    """Probability that a random positive scores above a random negative, ties counted half.

    Args:
        y: 1 = positive, 0 = negative.
        score: any monotone score.
        weight: [n] or [draws, n].

    References:
        Hanley & McNeil (1982); Fawcett (2006), section 7.
    """
    if reason := not_finite(score):
        return undefined(weight, reason)
    return finish(_auroc(y, score, as_draws(weight, len(y))), weight, ONE_CLASS)


def average_precision(y: Labels, score: Scores, weight: Weight = None) -> Value:
    """Sum over thresholds of precision times the gain in recall (no interpolation).

    Undefined without positives, and without negatives, where precision is 1 whatever the scores.

    Args:
        y: 1 = positive, 0 = negative.
        score: any monotone score.
        weight: [n] or [draws, n].

    References:
        Boyd et al. (2013), Area under the precision-recall curve: point estimates and confidence intervals.
    """
    if reason := not_finite(score):
        return undefined(weight, reason)
    return finish(_average_precision(y, score, as_draws(weight, len(y))), weight, ONE_CLASS)


def prevalence(y: Labels, weight: Weight = None) -> Value:
    """Share of positives: the average precision that a score without information tends to."""
    w = as_draws(weight, len(y))
    return finish(ratio(w @ (y == 1), w.sum(1)), weight, "no patient")


def auprc(y: Labels, score: Scores, weight: Weight = None) -> Auprc:
    """Average precision beside the prevalence, without which it cannot be read."""
    return Auprc(average_precision(y, score, weight), prevalence(y, weight))


def macro_auroc(y: Num[np.ndarray, "n c"], score: Float[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean over classes or labels of the AUROC of one against the rest; those present in one value only are left out.

    Args:
        y: 1 where the class or label holds (one-hot for classes).
        score: one column a class or label.
        weight: [n] or [draws, n].
    """
    if reason := not_finite(score):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    each = [_auroc(y[:, i], score[:, i], w) for i in range(y.shape[1])]
    return finish(mean_of_defined(each), weight, ONE_CLASS)


def macro_average_precision(y: Num[np.ndarray, "n c"], score: Float[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """As `macro_auroc`, of the average precision."""
    if reason := not_finite(score):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    each = [_average_precision(y[:, i], score[:, i], w) for i in range(y.shape[1])]
    return finish(mean_of_defined(each), weight, ONE_CLASS)


def macro_prevalence(y: Num[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean prevalence of the classes or labels that `macro_average_precision` averages."""
    w = as_draws(weight, len(y))
    share = ratio(w @ (y == 1), np.repeat(w.sum(1, keepdims=True), y.shape[1], 1))
    share[(share <= 0) | (share >= 1)] = np.nan
    return finish(mean_of_defined(share.T), weight, ONE_CLASS)


def sensitivity_at_specificity(y: Labels, score: Scores, specificity: float, weight: Weight = None) -> Value:
    """The highest sensitivity of any threshold whose specificity is at least the one asked for.

    A property of the ROC curve of these very patients: the threshold is not one that was fixed beforehand (see
    `sensitivity` for that). Only thresholds that exist count, nothing is interpolated.

    Args:
        y: 1 = positive, 0 = negative.
        score: any monotone score.
        specificity: 0 to 1.
        weight: [n] or [draws, n].
    """
    if reason := not_finite(score):
        return undefined(weight, reason)
    positive, negative = _steps(y, score, as_draws(weight, len(y)), descending=True)
    tp, fp = positive.cumsum(1), negative.cumsum(1)
    all_p, all_n = positive.sum(1), negative.sum(1)
    # 1e-9: nine of ten negatives are a specificity of 0.9 though (1 - 0.9) * 10 falls short of 1 in binary
    allowed = fp <= ((1 - specificity) + 1e-9) * all_n[:, None]
    best = np.where(allowed, tp, 0.0).max(1)
    return finish(np.where(all_n > 0, ratio(best, all_p), np.nan), weight, ONE_CLASS)


def roc_curve(y: Labels, score: Scores, weight: Labels | None = None) -> Roc:
    """All points of the ROC curve, for plots.

    Raises:
        ValueError: only one class.
    """
    tp, fp, threshold = _counts(y, score, weight)
    return Roc(np.r_[0.0, fp / fp[-1]], np.r_[0.0, tp / tp[-1]], np.r_[np.inf, threshold])


def pr_curve(y: Labels, score: Scores, weight: Labels | None = None) -> PrecisionRecall:
    """All points of the precision-recall curve, for plots.

    Raises:
        ValueError: only one class.
    """
    tp, fp, threshold = _counts(y, score, weight)
    precision = np.divide(tp, tp + fp, out=np.ones_like(tp), where=tp + fp > 0)
    return PrecisionRecall(np.r_[1.0, precision], np.r_[0.0, tp / tp[-1]], np.r_[np.inf, threshold])


def _counts(y: np.ndarray, score: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True and false positives at each distinct score, from the highest."""
    positive, negative = _steps(y, score, as_draws(weight, len(y)), descending=True)
    tp, fp = positive[0].cumsum(), negative[0].cumsum()
    if not (len(y) and tp[-1] and fp[-1]):
        raise ValueError(f"A curve needs both classes; the {len(y)} patients are of one.")
    return tp, fp, np.unique(score)[::-1]


def _steps(
    y: np.ndarray, score: np.ndarray, w: Float[np.ndarray, "d n"], *, descending: bool = False
) -> tuple[Float[np.ndarray, "d g"], Float[np.ndarray, "d g"]]:
    """Weight of positives and of negatives at each distinct score, in its order."""
    order = np.argsort(-score if descending else score, kind="stable")
    ranked = score[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sorted_w = w[:, order]
    positive = sorted_w * (y[order] == 1)
    negative = sorted_w - positive
    if len(starts) < len(order):
        positive, negative = np.add.reduceat(positive, starts, 1), np.add.reduceat(negative, starts, 1)
    return positive, negative


def _auroc(y: np.ndarray, score: np.ndarray, w: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d"]:
    positive, negative = _steps(y, score, w)
    below = negative.cumsum(1) - 0.5 * negative
    return ratio((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def _average_precision(y: np.ndarray, score: np.ndarray, w: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d"]:
    positive, negative = _steps(y, score, w, descending=True)
    called = (positive + negative).cumsum(1)
    precision = np.divide(positive.cumsum(1), called, out=np.zeros_like(called), where=called > 0)
    value = ratio((positive * precision).sum(1), positive.sum(1))
    return np.where(negative.sum(1) > 0, value, np.nan)
