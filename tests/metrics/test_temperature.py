"""Temperatures against a plain minimisation, by hand, and where there is none."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from milkit.metrics import Temperature, fit_temperature, why
from milkit.metrics.temperature import HIGHEST, LOWEST


def sample(n, truth, seed=0, classes=0):
    """Logits that are `truth` times too large."""
    rng = np.random.default_rng(seed)
    if not classes:
        z = rng.normal(size=n)
        return z * truth, (rng.random(n) < expit(z)).astype(int)
    z = 1.5 * rng.normal(size=(n, classes))
    p = np.exp(log_softmax(z, 1))
    return z * truth, np.array([rng.choice(classes, p=row) for row in p])


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_the_binary_temperature_is_the_slope_of_a_logistic_regression(truth):
    # dividing by T is a logistic regression on the logit, without an intercept: 1/T is its slope
    logits, y = sample(60, truth, 1)
    slope = minimize(lambda a: np.logaddexp(0, -(2 * y - 1) * a[0] * logits).sum(), [1.0], tol=1e-12).x[0]
    assert fit_temperature(logits, y) == pytest.approx(1 / slope, rel=1e-5)


def test_the_temperature_of_several_classes_has_the_least_loss():
    logits, y = sample(80, 2.0, 2, classes=4)
    found = minimize(lambda t: -log_softmax(logits / t[0], 1)[np.arange(80), y].sum(), [1.0], tol=1e-12).x[0]
    assert fit_temperature(logits, y) == pytest.approx(found, rel=1e-5)


def test_by_hand():
    # 3 of 4 are right at |logit| = 2, so p should be 3/4: 2 / T = log 3
    logits = np.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0, 2.0])
    y = np.array([1, 1, 1, 0, 0, 0, 1, 0])
    assert fit_temperature(logits, y) == pytest.approx(2 / math.log(3), rel=1e-6)


def test_many_patients_give_back_what_was_planted():
    logits, y = sample(20_000, 2.5, 3)
    assert fit_temperature(logits, y) == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_slides_are_pooled_after_scaling(aggregate):
    logits, y = sample(40, 2.0, 4)
    patient = np.arange(40) // 2
    y = y[::2][patient]
    how = np.mean if aggregate == "mean" else np.max

    def loss(t):
        p = how(expit(logits / t).reshape(20, 2), axis=1)
        return -np.log(np.maximum(np.where(y[::2] == 1, p, 1 - p), 1e-15)).mean()

    grid = np.exp(np.linspace(np.log(LOWEST), np.log(HIGHEST), 20_001))
    found = fit_temperature(logits, y, patient, aggregate)
    assert loss(found) <= min(map(loss, grid)) + 1e-12


def test_a_part_without_an_error_leaves_the_model_as_it_is():
    logits, y = np.array([3.0, 1.0, 0.2, -0.1, -2.0, -1.0]), np.array([1, 1, 1, 0, 0, 0])
    found = fit_temperature(logits, y)
    assert isinstance(found, Temperature)
    assert found == 1.0
    assert "right side" in found.note
    assert fit_temperature(np.stack([-logits, logits], 1), y) == 1.0


def test_bounds_are_kept_and_told():
    y = np.array([1, 1, 1, 0, 0, 0])
    wrong = fit_temperature(np.array([-3.0, -1.0, 2.0, 1.0, 2.0, -1.0]), y)  # mostly wrong: the flatter the better
    assert isinstance(wrong, Temperature)
    assert wrong == pytest.approx(HIGHEST)
    assert "at the bound 10" in wrong.note
    timid = fit_temperature(np.array([0.01, 0.01, 0.01, -0.01, -0.01, 0.001]), y)
    assert timid == pytest.approx(LOWEST)


@pytest.mark.parametrize(
    ("logits", "y", "reason"),
    [
        ([1.0, 2.0, -1.0, -2.0], [1, 0, 1, 0], "4 validation patients; a temperature needs at least 5"),
        ([1.0, 2.0, -1.0, -2.0, 0.0], [1, 1, 1, 1, 1], "only one class"),
        ([1.0, np.nan, -1.0, -2.0, 0.0], [1, 0, 1, 0, 1], "1 of 5 scores are not finite"),
        ([], [], "0 validation patients"),
    ],
)
def test_undefined_with_its_reason(logits, y, reason):
    found = fit_temperature(np.array(logits, float), np.array(y, int))
    assert math.isnan(found)
    assert reason in why(found)
