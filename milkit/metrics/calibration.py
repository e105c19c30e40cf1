"""How far predicted probabilities lie from observed frequencies, and how likely they make what was seen."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Num

from milkit.metrics.draws import Value, Weight, as_draws, finish, not_finite, ratio, undefined
from milkit.metrics.temperature import SMALLEST

Bins = Literal["equal_width", "equal_mass"]


def nll(y: Int[np.ndarray, "n"], prob: Float[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean negative log-likelihood (natural logarithm) of the true classes; lower is better, 0 the least.

    Args:
        y: class index.
        prob: one column a class, two for a binary task; taken for at least 2.2e-16.
        weight: [n] or [draws, n].

    References:
        Good (1952), Rational decisions; Guo et al. (2017), section 2.
    """
    return _mean(-np.log(np.clip(prob[np.arange(len(y)), y], SMALLEST, None)), prob, weight)


def nll_labels(y: Num[np.ndarray, "n c"], prob: Float[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean over labels and patients of the negative log-likelihood of a label's being there or not.

    Args:
        y: 1 where a label holds.
        prob: of each label.
        weight: [n] or [draws, n].
    """
    own = np.where(y == 1, prob, 1.0 - prob)
    return _mean(-np.log(np.clip(own, SMALLEST, None)).mean(1), prob, weight)


def ece_labels(y: Num[np.ndarray, "n c"], prob: Float[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean over labels of each label's `ece`.

    Args:
        y: 1 where a label holds.
        prob: of each label.
        weight: [n] or [draws, n].
    """
    if reason := not_finite(prob):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    each = [np.asarray(ece(y[:, i], prob[:, i], w)) for i in range(y.shape[1])]
    return finish(np.mean(each, axis=0), weight, "no patient")


def _mean(loss: np.ndarray, prob: np.ndarray, weight: Weight) -> Value:
    if reason := not_finite(prob):
        return undefined(weight, reason)
    w = as_draws(weight, len(loss))
    return finish(ratio(w @ loss, w.sum(1)), weight, "no patient")


def ece(
    y: Num[np.ndarray, "n"],
    prob: Float[np.ndarray, "n"],
    weight: Weight = None,
    *,
    bins: int = 15,  # the usual number since Guo et al. (2017)
    kind: Bins = "equal_width",
) -> Value:
    """Expected calibration error of the probability of the positive class.

    The sum over bins of (share of patients in the bin) * |observed frequency - mean probability|. It is biased
    upwards by about 1 / sqrt(patients a bin): compare only where patients are equally many.

    Args:
        y: 1 = positive, 0 = negative.
        prob: probability of the positive class.
        weight: [n] or [draws, n].
        bins: number of bins.
        kind: `equal_width`: bounds i / bins, each bin open below and closed above, 0 in the first. `equal_mass`:
            bounds at the quantiles of `prob` as given, the same in every draw.

    References:
        Naeini et al. (2015); Guo et al. (2017), On calibration of modern neural networks, section 2; equal mass:
        Nixon et al. (2019), Measuring calibration in deep learning.
    """
    if reason := not_finite(prob):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    edges = np.linspace(0.0, 1.0, bins + 1)
    if kind == "equal_mass" and len(prob):
        edges = np.quantile(prob, edges)
    place = np.searchsorted(edges[1:-1], prob, side="left")
    member = place[:, None] == np.arange(bins)
    gap = np.abs((w * (y - prob)) @ member).sum(1)
    return finish(ratio(gap, w.sum(1)), weight, "no patient")


def ece_top_label(
    y: Int[np.ndarray, "n"],
    prob: Float[np.ndarray, "n c"],
    weight: Weight = None,
    *,
    bins: int = 15,
    kind: Bins = "equal_width",
) -> Value:
    """Expected calibration error of the predicted class: its probability against how often it is right.

    Args:
        y: class index.
        prob: one column a class.
        weight: [n] or [draws, n].
        bins: number of bins.
        kind: as in `ece`.

    References:
        Guo et al. (2017), section 2.
    """
    right = (prob.argmax(1) == y).astype(np.float64)
    return ece(right, prob.max(1), weight, bins=bins, kind=kind)
