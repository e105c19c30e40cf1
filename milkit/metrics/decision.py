"""Net benefit of acting on a model: true positives, less the false positives that one accepts for them."""

import numpy as np
from jaxtyping import Float, Num

from milkit.metrics.draws import Weight, as_draws, ratio

THRESHOLDS = np.arange(1, 100) / 100


def net_benefit(
    y: Num[np.ndarray, "n"],
    prob: Float[np.ndarray, "n"],
    thresholds: Float[np.ndarray, "t"] = THRESHOLDS,
    weight: Weight = None,
) -> Float[np.ndarray, "*draws t"]:
    """True positives less false positives times t / (1 - t), a patient, where those with probability >= t are treated.

    The threshold probability t says how many false positives one true positive is worth: at t = 0.2 four.

    Args:
        y: 1 = positive, 0 = negative.
        prob: probability of the positive class; not finite ones give NaN.
        thresholds: t, from 0 to below 1.
        weight: [n] or [draws, n].

    References:
        Vickers & Elkin (2006), Decision curve analysis, equation of net benefit.
    """
    w = as_draws(weight, len(y))
    worth = np.where((y == 1)[:, None], 1.0, -thresholds / (1.0 - thresholds))
    gain = np.where(np.isfinite(prob)[:, None], (prob[:, None] >= thresholds) * worth, np.nan)
    value = ratio(w @ gain, np.broadcast_to(w.sum(1, keepdims=True), (len(w), len(thresholds))))
    return value[0] if weight is None else value.reshape(*weight.shape[:-1], len(thresholds))


def net_benefit_of_treating_all(
    y: Num[np.ndarray, "n"], thresholds: Float[np.ndarray, "t"] = THRESHOLDS, weight: Weight = None
) -> Float[np.ndarray, "*draws t"]:
    """Net benefit of treating everybody; that of treating nobody is 0.

    Args:
        y: 1 = positive, 0 = negative.
        thresholds: t, from 0 to below 1.
        weight: [n] or [draws, n].
    """
    return net_benefit(y, np.ones(len(y)), thresholds, weight)
