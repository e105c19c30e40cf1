"""Calibration of a locked model on other patients: slope, intercept, calibration-in-the-large, observed to expected.

A logistic regression of the outcome on the logit of the predicted probability. A slope below 1 means probabilities too
extreme (as after overfitting), an intercept below 0 (slope held at 1) means that risks are overstated on the whole.
"""

import numpy as np
from jaxtyping import Float, Num

from milkit.metrics.draws import ONE_CLASS, Value, Weight, as_draws, finish, not_finite, ratio, undefined

SMALLEST = 1e-15
STEPS, TOLERANCE = 50, 1e-10
STEEPEST = 1e3
"""A larger slope is that of separated classes, whose likelihood grows without end."""
SEPARATED = "the classes are separated by the predicted probability, so the likelihood has no maximum"


def calibration_slope(y: Num[np.ndarray, "n"], prob: Float[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Slope b of logit P(y = 1) = a + b logit(prob); 1 where predictions are neither too extreme nor too modest.

    Args:
        y: 1 = positive, 0 = negative.
        prob: probability of the positive class.
        weight: [n] or [draws, n].

    References:
        Cox (1958), Two further applications of a model for binary regression; Van Calster et al. (2019), Calibration:
        the Achilles heel of predictive analytics.
    """
    return _fitted(y, prob, weight, 1)


def calibration_intercept(y: Num[np.ndarray, "n"], prob: Float[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Intercept a of the same regression, its slope fitted along; arguments as in `calibration_slope`."""
    return _fitted(y, prob, weight, 0)


def calibration_in_the_large(y: Num[np.ndarray, "n"], prob: Float[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Intercept a with the slope held at 1: 0 where the mean risk is right; arguments as in `calibration_slope`.

    References:
        Steyerberg (2019), Clinical prediction models, 2nd edition, section 15.3.
    """
    if reason := not_finite(prob):
        return undefined(weight, reason)
    w, z = as_draws(weight, len(y)), _logit(prob)
    a = np.zeros(len(w))
    for _ in range(STEPS):
        p = _sigmoid(a[:, None] + z)
        gradient, bend = (w * (y - p)).sum(1), (w * p * (1 - p)).sum(1)
        step = np.clip(ratio(gradient, bend), -5.0, 5.0)
        a = a + np.nan_to_num(step)
        if np.nanmax(np.abs(step), initial=0.0) < TOLERANCE:
            break
    return finish(np.where(_both(y, w), a, np.nan), weight, ONE_CLASS)


def observed_to_expected(y: Num[np.ndarray, "n"], prob: Float[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Positives seen over the sum of predicted probabilities; 1 where the mean risk is right.

    Args:
        y: 1 = positive, 0 = negative.
        prob: probability of the positive class.
        weight: [n] or [draws, n].
    """
    if reason := not_finite(prob):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    return finish(ratio(w @ (y == 1), w @ prob), weight, "all predicted probabilities are 0")


def _fitted(y: np.ndarray, prob: np.ndarray, weight: Weight, which: int) -> Value:
    if reason := not_finite(prob):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    both = _both(y, w)
    found, ended = _newton(np.asarray(y, np.float64), _logit(prob), w)
    values = np.where(both & ended, found[:, which], np.nan)
    return finish(values, weight, SEPARATED if both[0] else ONE_CLASS)


def _newton(
    y: Float[np.ndarray, "n"], z: Float[np.ndarray, "n"], w: Float[np.ndarray, "d n"]
) -> tuple[Float[np.ndarray, "d 2"], np.ndarray]:
    """Maximum likelihood (intercept, slope) of every draw, and whether it was reached; too long steps are halved."""
    theta = np.zeros((len(w), 2))
    like = _likelihood(theta, y, z, w)
    ended = np.zeros(len(w), bool)
    for _ in range(STEPS):
        p = _sigmoid(theta[:, :1] + theta[:, 1:] * z)
        bend, error = w * p * (1 - p), w * (y - p)
        g0, g1 = error.sum(1), (error * z).sum(1)
        h00, h01, h11 = bend.sum(1), (bend * z).sum(1), (bend * z * z).sum(1)
        # relative to the diagonal: a constant score has no slope
        det = h00 * h11 - h01**2
        good = (det > 1e-12 * h00 * h11) & (det > 0)
        safe = np.where(good, det, 1.0)
        step = np.stack([(h11 * g0 - h01 * g1) / safe, (h00 * g1 - h01 * g0) / safe], 1)
        step = np.where((good & ~ended)[:, None], step, 0.0)
        for _ in range(30):
            tried = _likelihood(theta + step, y, z, w)
            worse = tried < like - 1e-12 * np.abs(like)
            if not worse.any():
                break
            step = np.where(worse[:, None], step / 2, step)
        theta, like = theta + step, _likelihood(theta + step, y, z, w)
        ended |= good & (np.abs(step).max(1) < TOLERANCE * (1 + np.abs(theta).max(1)))
        if (ended | ~good).all():
            break
    return theta, ended & (np.abs(theta[:, 1]) < STEEPEST)


def _likelihood(theta: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray) -> np.ndarray:
    eta = theta[:, :1] + theta[:, 1:] * z
    return (w * (y * eta - np.logaddexp(0.0, eta))).sum(1)


def _both(y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Draws with both classes."""
    return ((w @ (y == 1)) > 0) & ((w @ (y == 0)) > 0)


def _logit(prob: np.ndarray) -> np.ndarray:
    kept = np.clip(prob, SMALLEST, 1.0 - SMALLEST)
    return np.log(kept) - np.log1p(-kept)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
