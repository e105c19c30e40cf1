"""Metrics of predicted values; n patients, one value each, in the target's unit."""

import numpy as np
from jaxtyping import Float, Num

from milkit.metrics.draws import Value, Weight, as_draws, finish, not_finite, ratio, undefined

Truth = Num[np.ndarray, "n"]
Predicted = Float[np.ndarray, "n"]

CONSTANT = "the true or the predicted values are all equal"


def mae(y: Truth, predicted: Predicted, weight: Weight = None) -> Value:
    """Mean absolute error, in the target's unit."""
    return _mean(np.abs(y - predicted), weight)


def rmse(y: Truth, predicted: Predicted, weight: Weight = None) -> Value:
    """Root of the mean squared error, in the target's unit."""
    value = _mean((y - predicted) ** 2, weight)
    return value if isinstance(value, float) and np.isnan(value) else _root(value)


def r2(y: Truth, predicted: Predicted, weight: Weight = None) -> Value:
    """One minus squared error over the squared error of predicting the mean of these very patients.

    At most 1; below 0 where that mean is better. Undefined if all true values are equal.
    """
    if reason := not_finite(predicted):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    total = _spread(np.broadcast_to(y.astype(np.float64), w.shape), w)
    return finish(1.0 - ratio(w @ (y - predicted) ** 2, total), weight, "the true values are all equal")


def pearson(y: Truth, predicted: Predicted, weight: Weight = None) -> Value:
    """Linear correlation; undefined if the true or the predicted values are all equal."""
    if reason := not_finite(predicted):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    return finish(_correlation(y.astype(np.float64), predicted, w), weight, CONSTANT)


def spearman(y: Truth, predicted: Predicted, weight: Weight = None) -> Value:
    """Correlation of ranks, ties at their middle rank; undefined as for `pearson`."""
    if reason := not_finite(predicted):
        return undefined(weight, reason)
    w = as_draws(weight, len(y))
    return finish(_correlation(_ranks(y, w), _ranks(predicted, w), w), weight, CONSTANT)


def _mean(error: np.ndarray, weight: Weight) -> Value:
    if reason := not_finite(error):
        return undefined(weight, reason)
    w = as_draws(weight, len(error))
    return finish(ratio(w @ error, w.sum(1)), weight, "no patient")


def _root(value: Value) -> Value:
    return float(np.sqrt(value)) if isinstance(value, float) else np.sqrt(value)


def _centred(x: np.ndarray, w: np.ndarray) -> Float[np.ndarray, "d n"]:
    return x - ratio((w * x).sum(1), w.sum(1))[:, None]


def _spread(x: Float[np.ndarray, "d n"], w: np.ndarray) -> Float[np.ndarray, "d"]:
    """Weighted sum of squares about the mean; exactly 0 where the values that count are all equal."""
    low = np.where(w > 0, x, np.inf).min(1, initial=np.inf)
    high = np.where(w > 0, x, -np.inf).max(1, initial=-np.inf)
    return np.where(low < high, np.nan_to_num((w * _centred(x, w) ** 2).sum(1)), 0.0)


def _correlation(x: np.ndarray, y: np.ndarray, w: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d"]:
    x, y = np.broadcast_to(x, w.shape), np.broadcast_to(y, w.shape)
    covariance = (w * _centred(x, w) * _centred(y, w)).sum(1)
    return ratio(covariance, np.sqrt(_spread(x, w) * _spread(y, w)))


def _ranks(x: np.ndarray, w: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d n"]:
    """Middle rank of each value among the weighted values, up to a constant, which no correlation sees."""
    distinct, place = np.unique(x, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    mass = np.add.reduceat(w[:, order], starts, 1)
    return (mass.cumsum(1) - 0.5 * mass)[:, place]
