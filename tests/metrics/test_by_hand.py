"""Metrics on a few patients, worked by hand."""

import math

import numpy as np
import pytest

from milkit import metrics
from milkit.metrics import Undefined, why


def a(*values):
    return np.array(values, np.float64)


def i(*values):
    return np.array(values, np.int64)


def test_auroc_counts_pairs():
    # positives .8 .4, negatives .6 .4 .1: of six pairs 3 + 1.5 are won
    assert metrics.auroc(i(1, 1, 0, 0, 0), a(0.8, 0.4, 0.6, 0.4, 0.1)) == 4.5 / 6
    # the negative at .1 stands three times: 5 + 2.5... pairs: .8 beats 1+1+3, .4 beats 3 and ties 1
    assert metrics.auroc(i(1, 1, 0, 0, 0), a(0.8, 0.4, 0.6, 0.4, 0.1), a(1, 1, 1, 1, 3)) == 8.5 / 10


def test_average_precision_with_a_tie():
    # thresholds .9 (1 of 1), .5 (2 of 4, one step of two), .1: recall 1/2 at precision 1, 1/2 at 2/4
    assert metrics.average_precision(i(1, 0, 0, 1, 0), a(0.9, 0.5, 0.5, 0.5, 0.1)) == 0.5 * 1 + 0.5 * 0.5
    value, prevalence = metrics.auprc(i(1, 0, 0, 1, 0), a(0.9, 0.5, 0.5, 0.5, 0.1))
    assert (value, prevalence) == (0.75, 0.4)


def test_sensitivity_at_specificity_is_a_step_of_the_curve():
    y = i(*[0] * 10, *[1] * 4)
    score = a(*np.arange(10) / 10, 0.95, 0.85, 0.75, 0.35)
    # one false positive of ten is allowed: the threshold .85 calls .9 of the negatives and two positives
    assert metrics.sensitivity_at_specificity(y, score, 0.9) == 0.5
    assert metrics.sensitivity_at_specificity(y, score, 0.91) == 0.25
    assert metrics.sensitivity_at_specificity(y, score, 1.0) == 0.25
    assert metrics.sensitivity_at_specificity(y, score, 0.0) == 1.0
    # a tie of a positive with the best negative cannot be cut between
    assert metrics.sensitivity_at_specificity(i(0, 1), a(0.5, 0.5), 0.9) == 0.0


def test_hard_predictions_by_their_matrix():
    # truth 0: 3 right, 1 as 1; truth 1: 1 as 0, 1 right; truth 2: 2 as 1, 0 right
    y, called = i(0, 0, 0, 0, 1, 1, 2, 2), i(0, 0, 0, 1, 0, 1, 1, 1)
    assert metrics.confusion(y, called, 3).tolist() == [[3, 1, 0], [1, 1, 0], [0, 2, 0]]
    assert metrics.accuracy(y, called) == 0.5
    assert metrics.balanced_accuracy(y, called, 3) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert metrics.macro_f1(y, called, 3) == pytest.approx((6 / 8 + 2 / 6 + 0) / 3)
    # squared distances: observed 1 + 1 + 2 = 4; expected (4*4 + 2*4 + 2*(16) + 2*4) / 8 = 8
    assert metrics.quadratic_kappa(y, called, 3) == pytest.approx(1 - 4 / 8)
    # 8*4 - (4*4 + 2*4) = 8; sqrt((64 - 24) (64 - 32))
    assert metrics.mcc(y, called, 3) == pytest.approx(8 / math.sqrt(40 * 32))


def test_sensitivity_and_specificity():
    y, called = i(1, 1, 1, 0, 0), np.array([True, True, False, True, False])
    assert metrics.sensitivity(y, called) == 2 / 3
    assert metrics.specificity(y, called) == 1 / 2
    assert metrics.sensitivity(y, called, a(1, 0, 1, 1, 1)) == 1 / 2


def test_who_was_called_rightly():
    # called: 2 positives and a negative; not called: 1 positive, 1 negative
    y, called = i(1, 1, 1, 0, 0), np.array([True, True, False, True, False])
    assert metrics.ppv(y, called) == 2 / 3
    assert metrics.npv(y, called) == 1 / 2
    assert metrics.f1(y, called) == 2 * 2 / (3 + 3)
    nobody = np.zeros(5, bool)
    assert "called positive" in why(metrics.ppv(y, nobody))
    assert "called negative" in why(metrics.npv(y, ~nobody))
    assert metrics.f1(y, nobody) == 0.0
    assert "no positive" in why(metrics.f1(i(0, 0), nobody[:2]))


def test_log_likelihood_by_hand():
    prob = np.array([[0.75, 0.25], [0.5, 0.5]])
    assert metrics.nll(i(1, 0), prob) == pytest.approx((math.log(4) + math.log(2)) / 2)
    labels = np.array([[1, 0], [0, 1]])
    assert metrics.nll_labels(labels, prob) == pytest.approx(sum(map(math.log, (4 / 3, 4 / 3, 2, 2))) / 4)
    certain = metrics.nll(i(1, 1), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert certain == pytest.approx(-math.log(np.finfo(float).eps) / 2)
    # both labels in one bin each: |1/2 - 5/8| and |1/2 - 3/8|
    assert metrics.ece_labels(labels, np.array([[0.62, 0.38], [0.63, 0.37]])) == pytest.approx(0.125)


def test_labels():
    y = np.array([[1, 0], [1, 1], [0, 0]])
    called = np.array([[1, 0], [0, 1], [0, 1]], bool)
    assert metrics.subset_accuracy(y, called) == 1 / 3
    assert metrics.macro_f1_labels(y, called) == pytest.approx((2 / 3 + 2 / 3) / 2)
    prob = np.array([[1.0, 0.5], [0.5, 1.0], [0.0, 0.0]])
    assert metrics.brier_labels(y, prob) == pytest.approx((0.25 + 0.25) / 6)


def test_brier():
    assert metrics.brier(i(1, 0), a(0.75, 0.5)) == (1 / 16 + 1 / 4) / 2
    two = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert metrics.brier(i(1, 0), two) == 2 * (1 / 16 + 1 / 4) / 2  # summed over classes


def test_ece_by_hand():
    # bins of width 1/5: (.1, .2] hold outcomes 0, 1 and 1/5 is still in the first
    y, prob = i(0, 1, 1, 1), a(0.1, 0.2, 0.7, 0.9)
    assert metrics.ece(y, prob, bins=5) == pytest.approx((abs(1 - 0.3) + 0.3 + 0.1) / 4)
    # two bins of equal mass: .1 .2 | .7 .9
    assert metrics.ece(y, prob, bins=2, kind="equal_mass") == pytest.approx((0.7 + 0.4) / 4)
    # three classes, all top labels in one bin of one: 2 of 3 right at mean confidence .6
    three = np.array([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]])
    assert metrics.ece_top_label(i(0, 1, 1), three, bins=1) == pytest.approx(2 / 3 - 0.6)


def test_c_index_by_hand():
    time, event, risk = a(1, 2, 2, 3, 4), i(1, 1, 0, 0, 1), a(5, 3, 3, 4, 1)
    # pairs: 1 before all four (won 4); the event at 2 before the censored at 2 (tie), 3 (lost), 4 (won)
    assert metrics.c_index(time, event, risk) == (4 + 0.5 + 0 + 1) / 7
    # censoring: at 2 one of 4-1=3 leaves (2/3), at 3 one of 2 (1/3): weights 1 and 9/4
    km = metrics.censoring(time, event)
    np.testing.assert_allclose(km.free, [1, 2 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(km.at(a(0.5, 2, 2.5, 99)), [1, 2 / 3, 2 / 3, 1 / 3])
    assert metrics.c_index_ipcw(time, event, risk) == pytest.approx((4 + 1.5 * 9 / 4) / (4 + 3 * 9 / 4))


def test_regression_by_hand():
    y, guess = a(1, 2, 3, 6), a(1, 4, 3, 2)
    assert metrics.mae(y, guess) == 6 / 4
    assert metrics.rmse(y, guess) == pytest.approx(math.sqrt(20 / 4))
    assert metrics.r2(y, guess) == pytest.approx(1 - 20 / 14)
    # ranks 1 2 3 4 against 1 4 3 2: 1 - 6 * (0 + 4 + 0 + 4) / (4 * 15)
    assert metrics.spearman(y, guess) == pytest.approx(1 - 48 / 60)
    # deviations -2 -1 0 3 and -1.5 1.5 .5 -.5: covariance 3 - 1.5 - 1.5 = 0
    assert metrics.pearson(y, guess) == pytest.approx(0, abs=1e-12)


def test_curves():
    roc = metrics.roc_curve(i(1, 0, 1, 0), a(0.9, 0.9, 0.5, 0.1))
    assert roc.fpr.tolist() == [0, 0.5, 0.5, 1]
    assert roc.tpr.tolist() == [0, 0.5, 1, 1]
    assert roc.threshold.tolist() == [np.inf, 0.9, 0.5, 0.1]
    pr = metrics.pr_curve(i(1, 0, 1, 0), a(0.9, 0.9, 0.5, 0.1))
    assert pr.recall.tolist() == [0, 0.5, 1, 1]
    np.testing.assert_allclose(pr.precision, [1, 1 / 2, 2 / 3, 1 / 2])
    with pytest.raises(ValueError, match="both classes"):
        metrics.roc_curve(i(1, 1), a(0.1, 0.2))


def test_youden_by_hand():
    # cuts at .25 (J 1/3), .45 (2/3), .7 (1/3): the middle one
    assert metrics.youden_threshold(i(0, 0, 0, 1, 1), a(0.1, 0.2, 0.5, 0.4, 0.9)) == pytest.approx(0.3)
    # J is 1/2 at .3 and at .8: .3 is nearer to .5
    assert metrics.youden_threshold(i(0, 1, 0, 1), a(0.2, 0.4, 0.7, 0.9)) == pytest.approx(0.3)
    # J is equal at .2 and .8, equally far: the lower
    assert metrics.youden_threshold(i(0, 1, 0, 1), a(0.125, 0.25, 0.75, 0.875)) == 0.1875
    assert metrics.youden_threshold(i(0, 1), a(0.3, 0.3)) == 0.3
    both = metrics.youden_thresholds(np.array([[0, 1], [1, 1]]), np.array([[0.2, 0.1], [0.4, 0.9]]))
    assert both[0] == pytest.approx(0.3)
    assert math.isnan(both[1])


def test_a_threshold_between_neighbouring_floats_still_parts_them():
    low = 0.5
    high = np.nextafter(low, 1)
    cut = metrics.youden_threshold(i(0, 1), a(low, high))
    assert (a(low, high) >= cut).tolist() == [False, True]


UNDEFINED = {
    "auroc": lambda: metrics.auroc(i(1, 1), a(0.1, 0.2)),
    "average_precision without positives": lambda: metrics.average_precision(i(0, 0), a(0.1, 0.2)),
    "average_precision without negatives": lambda: metrics.average_precision(i(1, 1), a(0.1, 0.2)),
    "balanced_accuracy": lambda: metrics.balanced_accuracy(i(1, 1), i(1, 0), 2),
    "macro_f1": lambda: metrics.macro_f1(i(1, 1), i(1, 1), 2),
    "mcc": lambda: metrics.mcc(i(1, 1), i(1, 0), 2),
    "quadratic_kappa": lambda: metrics.quadratic_kappa(i(1, 1), i(1, 0), 2),
    "sensitivity_at_specificity": lambda: metrics.sensitivity_at_specificity(i(1, 1), a(0.1, 0.2), 0.9),
    "sensitivity": lambda: metrics.sensitivity(i(0, 0), np.array([True, False])),
    "specificity": lambda: metrics.specificity(i(1, 1), np.array([True, False])),
    "accuracy": lambda: metrics.accuracy(i(1, 0), i(1, 0), a(0, 0)),
    "c_index": lambda: metrics.c_index(a(1, 2), i(0, 0), a(1, 2)),
    "c_index of two events at one time": lambda: metrics.c_index(a(1, 1), i(1, 1), a(1, 2)),
    "c_index_ipcw": lambda: metrics.c_index_ipcw(a(1, 2), i(0, 0), a(1, 2)),
    "r2": lambda: metrics.r2(a(0.1, 0.1, 0.1), a(1, 2, 3)),
    "pearson": lambda: metrics.pearson(a(1, 2, 3), a(0.1, 0.1, 0.1)),
    "spearman": lambda: metrics.spearman(a(1, 2, 3), a(0.1, 0.1, 0.1)),
    "youden_threshold": lambda: metrics.youden_threshold(i(1, 1), a(0.1, 0.2)),
    "auroc of NaN": lambda: metrics.auroc(i(1, 0), a(0.1, np.nan)),
    "brier of NaN": lambda: metrics.brier(i(1, 0), a(0.1, np.nan)),
    "ece of infinity": lambda: metrics.ece(i(1, 0), a(0.1, np.inf)),
    "c_index of NaN": lambda: metrics.c_index(a(1, 2), i(1, 0), a(0.1, np.nan)),
    "mae of NaN": lambda: metrics.mae(a(1, 2), a(0.1, np.nan)),
    "rmse of NaN": lambda: metrics.rmse(a(1, 2), a(0.1, np.nan)),
    "youden of NaN": lambda: metrics.youden_threshold(i(1, 0), a(0.1, np.nan)),
}


@pytest.mark.parametrize("case", list(UNDEFINED))
def test_undefined_is_nan_with_a_reason_never_zero(case):
    value = UNDEFINED[case]()
    assert isinstance(value, Undefined)
    assert math.isnan(value)
    assert len(why(value)) > 8
    assert why(value) in repr(value)


def test_a_model_that_says_the_same_of_everybody_has_values_to_be_averaged():
    y, score, called = i(0, 0, 1), a(0.5, 0.5, 0.5), i(1, 1, 1)
    assert metrics.auroc(y, score) == 0.5
    assert metrics.average_precision(y, score) == pytest.approx(1 / 3)
    assert metrics.mcc(y, called, 2) == 0
    assert metrics.quadratic_kappa(y, called, 2) == 0
    assert metrics.balanced_accuracy(y, called, 2) == 0.5
    assert metrics.macro_f1(y, called, 2) == pytest.approx(0.25)
    assert metrics.c_index(a(1, 2), i(1, 1), a(3, 3)) == 0.5
    assert why(metrics.auroc(y, score)) == ""
