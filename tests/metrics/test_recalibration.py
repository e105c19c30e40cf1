"""Calibration slope and intercepts: by hand, against logistic regression, and where they do not exist."""

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression

from milkit.metrics import why
from milkit.metrics.recalibration import (
    SEPARATED,
    calibration_in_the_large,
    calibration_intercept,
    calibration_slope,
    observed_to_expected,
)

RNG = np.random.default_rng(3)
Z = RNG.normal(size=400) * 1.5
PROB = 1 / (1 + np.exp(-Z))
Y = (RNG.uniform(size=400) < 1 / (1 + np.exp(-(0.4 + 0.6 * Z)))).astype(np.int64)


def test_slope_and_intercept_are_those_of_a_logistic_regression():
    oracle = LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-10).fit(Z[:, None], Y)
    assert calibration_slope(Y, PROB) == pytest.approx(oracle.coef_[0, 0], abs=1e-6)
    assert calibration_intercept(Y, PROB) == pytest.approx(oracle.intercept_[0], abs=1e-6)


def test_two_groups_by_hand():
    """8 patients at 1/5 of whom 2 are positive, 8 at 4/5 of whom 6: the fit goes through both observed odds.

    logit(1/5) = -ln 4 -> ln(2/6) = -ln 3; logit(4/5) = ln 4 -> ln 3: slope ln 3 / ln 4, intercept 0.
    """
    prob = np.repeat([0.2, 0.8], 8)
    y = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    assert calibration_slope(y, prob) == pytest.approx(np.log(3) / np.log(4), abs=1e-9)
    assert calibration_intercept(y, prob) == pytest.approx(0, abs=1e-9)
    assert calibration_in_the_large(y, prob) == pytest.approx(0, abs=1e-9)
    assert observed_to_expected(y, prob) == pytest.approx(1)
    # the same score for all: 4 of 16 positive at 1/2 is off by ln(4/12) in the large
    four = (np.arange(16) < 4).astype(np.int64)
    assert calibration_in_the_large(four, np.full(16, 0.5)) == pytest.approx(np.log(4 / 12), abs=1e-9)
    assert observed_to_expected(four, np.full(16, 0.5)) == pytest.approx(0.5)


def test_in_the_large_makes_the_mean_risk_right():
    root = brentq(lambda a: (Y - 1 / (1 + np.exp(-(a + Z)))).sum(), -5, 5, xtol=1e-12)
    assert calibration_in_the_large(Y, PROB) == pytest.approx(root, abs=1e-8)


@pytest.mark.parametrize("metric", [calibration_slope, calibration_intercept, calibration_in_the_large])
def test_a_weight_is_a_patient_that_stands_so_often(metric):
    weight = RNG.integers(0, 3, (2, 400)).astype(np.float64)
    found = metric(Y, PROB, weight)
    for w, value in zip(weight.astype(int), found, strict=True):
        assert value == pytest.approx(metric(np.repeat(Y, w), np.repeat(PROB, w)), abs=1e-7)


def test_what_does_not_exist_has_a_reason():
    one = np.ones(4, np.int64)
    for metric in (calibration_slope, calibration_intercept, calibration_in_the_large):
        value = metric(one, np.array([0.2, 0.4, 0.6, 0.8]))
        assert np.isnan(value)
        assert "one class" in why(value)
    separated = calibration_slope(np.array([0, 0, 1, 1]), np.array([0.2, 0.4, 0.6, 0.8]))
    assert np.isnan(separated)
    assert why(separated) == SEPARATED
    assert np.isnan(calibration_slope(np.array([0, 1, 0, 1]), np.full(4, 0.5)))  # a constant score has no slope
    assert "not finite" in why(calibration_slope(np.array([0, 1]), np.array([np.nan, 0.5])))


def test_extreme_probabilities_do_not_break_it():
    value = calibration_slope(np.array([0, 1, 0, 1, 1]), np.array([0.0, 1.0, 1.0, 0.0, 1.0]))
    assert np.isfinite(value)
