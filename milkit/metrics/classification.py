"""Metrics of hard predictions, by confusion matrices, and the Brier score.

Letters: n patients, c classes or labels. Rows of a confusion matrix are the truth, columns the prediction.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Num

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

Classes = Int[np.ndarray, "n"]


def confusion(y: Classes, predicted: Classes, classes: int, weight: Weight = None) -> Float[np.ndarray, "*draws c c"]:
    """Confusion matrix of each draw: weight of truth i (row) predicted as j (column).

    Args:
        y: class index, 0 to classes - 1.
        predicted: likewise.
        classes: number of classes.
        weight: [n] or [draws, n].
    """
    w = as_draws(weight, len(y))
    cell = np.zeros((len(y), classes * classes))
    cell[np.arange(len(y)), y * classes + predicted] = 1.0
    leading = () if weight is None else weight.shape[:-1]
    return (w @ cell).reshape(*leading, classes, classes)


def accuracy(y: Classes, predicted: Classes, weight: Weight = None) -> Value:
    """Share of patients whose class was predicted."""
    w = as_draws(weight, len(y))
    return finish(ratio(w @ (y == predicted), w.sum(1)), weight, "no patient")


def balanced_accuracy(y: Classes, predicted: Classes, classes: int, weight: Weight = None) -> Value:
    """Mean recall of the classes that are present; undefined if only one is.

    Args:
        y: class index.
        predicted: class index.
        classes: number of classes.
        weight: [n] or [draws, n].

    References:
        Brodersen et al. (2010), The balanced accuracy and its posterior distribution.
    """
    matrix = _matrix(y, predicted, classes, weight)
    recall = ratio(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(2))
    return finish(np.where(_varied(matrix), mean_of_defined(recall.T), np.nan), weight, ONE_CLASS)


def macro_f1(y: Classes, predicted: Classes, classes: int, weight: Weight = None) -> Value:
    """Mean F1 of the classes that are present or predicted; undefined if only one is present.

    Args:
        y: class index.
        predicted: class index.
        classes: number of classes.
        weight: [n] or [draws, n].

    References:
        Opitz & Burst (2019), Macro F1 and macro F1 (the mean of F1s, not the F1 of means).
    """
    matrix = _matrix(y, predicted, classes, weight)
    f1 = ratio(2 * np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(2) + matrix.sum(1))
    return finish(np.where(_varied(matrix), mean_of_defined(f1.T), np.nan), weight, ONE_CLASS)


def mcc(y: Classes, predicted: Classes, classes: int, weight: Weight = None) -> Value:
    """Matthews correlation; 0 where one class only is predicted (its limit), undefined if one only is present.

    Args:
        y: class index.
        predicted: class index.
        classes: number of classes.
        weight: [n] or [draws, n].

    References:
        Gorodkin (2004), Comparing two K-category assignments; Chicco & Jurman (2020), section on undefined cases.
    """
    matrix = _matrix(y, predicted, classes, weight)
    total, truth, called = matrix.sum((1, 2)), matrix.sum(2), matrix.sum(1)
    covariance = np.trace(matrix, axis1=1, axis2=2) * total - (truth * called).sum(1)
    spread = (total**2 - (truth**2).sum(1)) * (total**2 - (called**2).sum(1))
    constant = (called > 0).sum(1) < 2
    value = np.where(constant, 0.0, ratio(covariance, np.sqrt(np.maximum(spread, 0.0))))
    return finish(np.where(_varied(matrix), value, np.nan), weight, ONE_CLASS)


def quadratic_kappa(y: Classes, predicted: Classes, classes: int, weight: Weight = None) -> Value:
    """Cohen's kappa with disagreements weighed by the squared distance of class indices; undefined for one class.

    The order of the classes matters; for two classes it is Cohen's unweighted kappa.

    Args:
        y: class index.
        predicted: class index.
        classes: number of classes.
        weight: [n] or [draws, n].

    References:
        Cohen (1968), Weighted kappa.
    """
    matrix = _matrix(y, predicted, classes, weight)
    distance = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2.0
    expected = np.einsum("di,ij,dj->d", matrix.sum(2), distance, matrix.sum(1))
    observed = np.einsum("dij,ij->d", matrix, distance) * matrix.sum((1, 2))
    return finish(np.where(_varied(matrix), 1.0 - ratio(observed, expected), np.nan), weight, ONE_CLASS)


def sensitivity(y: Classes, called: Bool[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Share of positives that were called positive."""
    w = as_draws(weight, len(y))
    return finish(ratio(w @ ((y == 1) & called), w @ (y == 1)), weight, "no positive patient")


def specificity(y: Classes, called: Bool[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Share of negatives that were not called positive."""
    w = as_draws(weight, len(y))
    return finish(ratio(w @ ((y == 0) & ~called), w @ (y == 0)), weight, "no negative patient")


def ppv(y: Classes, called: Bool[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Share of positives among those called positive (precision); undefined where nobody was called positive."""
    w = as_draws(weight, len(y))
    return finish(ratio(w @ ((y == 1) & called), w @ called), weight, "no patient was called positive")


def npv(y: Classes, called: Bool[np.ndarray, "n"], weight: Weight = None) -> Value:
    """Share of negatives among those not called positive; undefined where everybody was called positive."""
    w = as_draws(weight, len(y))
    return finish(ratio(w @ ((y == 0) & ~called), w @ ~called), weight, "no patient was called negative")


def f1(y: Classes, called: Bool[np.ndarray, "n"], weight: Weight = None) -> Value:
    """F1 of the positive class; undefined without a positive patient, 0 where none of them was called so."""
    w = as_draws(weight, len(y))
    held = w @ (y == 1)
    value = ratio(2 * (w @ ((y == 1) & called)), held + w @ called)
    return finish(np.where(held > 0, value, np.nan), weight, "no positive patient")


def subset_accuracy(y: Num[np.ndarray, "n c"], called: Bool[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Share of patients all of whose labels are right."""
    w = as_draws(weight, len(y))
    return finish(ratio(w @ ((y == 1) == called).all(1), w.sum(1)), weight, "no patient")


def macro_f1_labels(y: Num[np.ndarray, "n c"], called: Bool[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean over labels of the F1 of its positives; labels without a positive patient are left out.

    Args:
        y: 1 where a label holds.
        called: True where it was predicted.
        weight: [n] or [draws, n].
    """
    w = as_draws(weight, len(y))
    held = w @ (y == 1)
    f1 = ratio(2 * (w @ ((y == 1) & called)), held + w @ called)
    return finish(mean_of_defined(np.where(held > 0, f1, np.nan).T), weight, "no label with a positive patient")


def brier(y: Classes, prob: Float[np.ndarray, "n"] | Float[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean squared distance of probabilities and truth; lower is better.

    Args:
        y: class index.
        prob: of the positive class, [n] (range of the score 0 to 1), or of all classes, [n, c]: the squares are then
            summed over classes as Brier did (range 0 to 2).
        weight: [n] or [draws, n].

    References:
        Brier (1950), Verification of forecasts expressed in terms of probability.
    """
    truth = y if prob.ndim == 1 else np.arange(prob.shape[1]) == y[:, None]
    error = (prob - truth) ** 2
    return _mean(error if prob.ndim == 1 else error.sum(1), prob, weight)


def brier_labels(y: Num[np.ndarray, "n c"], prob: Float[np.ndarray, "n c"], weight: Weight = None) -> Value:
    """Mean over labels and patients of (probability - truth)^2; 0 to 1."""
    return _mean(((prob - y) ** 2).mean(1), prob, weight)


def _mean(error: np.ndarray, prob: np.ndarray, weight: Weight) -> Value:
    if reason := not_finite(prob):
        return undefined(weight, reason)
    w = as_draws(weight, len(error))
    return finish(ratio(w @ error, w.sum(1)), weight, "no patient")


def _matrix(y: np.ndarray, predicted: np.ndarray, classes: int, weight: Weight) -> Float[np.ndarray, "d c c"]:
    return confusion(y, predicted, classes, as_draws(weight, len(y)))


def _varied(matrix: np.ndarray) -> np.ndarray:
    """Draws in which at least two classes are present."""
    return (matrix.sum(2) > 0).sum(1) > 1
