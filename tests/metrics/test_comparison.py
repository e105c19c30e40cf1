"""Tests of paired differences: worked values, brute force, SciPy, scikit-learn and the shared oracle."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from milkit.metrics import bootstrap_counts, corrected_resampled_t
from milkit.metrics.comparison import (
    bootstrap_test,
    corrected_standard_error,
    corrected_t_test,
    delong_test,
    mcnemar_p,
    mcnemar_test,
)
from milkit.metrics.delong import DeLong, delong, placements


def test_the_corrected_t_by_hand():
    # differences .1 .1 .2 .3 .3: mean .2, variance .01; standard error sqrt(.01 (1/5 + 10/90)) = .0557773
    # t = .2 / .0557773 = 3.5856859 with 4 degrees of freedom: two-sided p = .0230484
    differences = np.array([0.1, 0.1, 0.2, 0.3, 0.3])
    error, dof = corrected_standard_error(differences, 10, 90)
    assert error == pytest.approx(math.sqrt(0.01 * (0.2 + 1 / 9)))
    assert dof == 4
    found = corrected_t_test(differences, 10, 90)
    assert found.difference == pytest.approx(0.2)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(0.2 / 0.0557773351, 4), rel=1e-7)
    assert found.p == pytest.approx(0.0230, abs=1e-4)
    assert (found.low, found.high) == pytest.approx(corrected_resampled_t(differences, 10, 90)[0])
    # detectable: (t(.975) + t(.8)) = 2.7764451 + .9409646 at 4 degrees of freedom
    assert found.detectable == pytest.approx((2.7764451 + 0.9409646) * error, rel=1e-6)


def test_without_its_correction_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.random(8), rng.random(8)
    assert corrected_t_test(a - b, 0, 1).p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)


def test_splits_without_a_value_are_left_out():
    assert corrected_t_test(np.array([0.1, np.nan, 0.3]), 1, 9) == corrected_t_test(np.array([0.1, 0.3]), 1, 9)
    assert math.isnan(corrected_t_test(np.array([0.1, np.nan]), 1, 9).p)


def test_equal_differences_prove_nothing():
    """.1 + .2 - .3 is not 0 in binary: a variance of rounding errors must not make a p of 0."""
    found = corrected_t_test(np.array([0.1 + 0.2 - 0.3, 0.0, 0.0]), 1, 9)
    assert (found.verdict, found.p, found.difference) == ("indistinguishable", 1.0, 0.0)
    found = corrected_t_test(np.array([0.1 + 0.2, 0.3, 0.3]), 1, 9)
    assert found.verdict == "no power"
    assert math.isnan(found.p)


def brute_auroc_components(y, score):
    """Each positive against each negative, one by one."""
    kernel = [[1.0 if p > n else 0.5 if p == n else 0.0 for n in score[y == 0]] for p in score[y == 1]]
    return np.mean(kernel, axis=1), np.mean(kernel, axis=0)


@pytest.mark.parametrize("ties", [1, 8])
def test_delong_against_brute_force(ties):
    rng = np.random.default_rng(1)
    y = (rng.random(40) < 0.4).astype(float)
    a, b = (np.round((rng.normal(size=40) + y) * 8 / ties) for _ in range(2))
    (a10, a01), (b10, b01) = brute_auroc_components(y, a), brute_auroc_components(y, b)
    variance = np.cov(a10, b10) / len(a10) + np.cov(a01, b01) / len(a01)
    found = delong(y, a[:, None], b[:, None])
    assert found.difference == pytest.approx(roc_auc_score(y, a) - roc_auc_score(y, b))
    assert found.standard_error**2 == pytest.approx(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1])
    np.testing.assert_allclose(placements(y, a).positive, a10)
    np.testing.assert_allclose(placements(y, a).negative, a01)


def test_delong_by_hand():
    # positives 3, 1; negatives 2, 0. First score: V10 = 1, 1/2 (AUROC 3/4), V01 = 1/2, 1.
    # second score, all equal: V10 = V01 = 1/2, 1/2 (AUROC 1/2). Differences: 1/2, 0 and 0, 1/2, variance 1/8 each:
    # 1/8 / 2 + 1/8 / 2 = 1/8
    y = np.array([1.0, 1, 0, 0])
    found = delong(y, np.array([[3.0], [1], [2], [0]]), np.zeros((4, 1)))
    assert found == pytest.approx((0.25, math.sqrt(1 / 8)))


def test_delong_against_the_shared_oracle(shared):
    """Computed by the definition, and equal to MLstatkit 0.1.91."""
    cases = json.loads((shared / "parity/pixel/metrics_oracle.json").read_text())["cases"]
    cases = [c for c in cases if c["kind"] == "delong_paired"]
    assert len(cases) == 4
    for case in cases:
        y, a, b = (np.array(case[k], np.float64) for k in ("y", "score_a", "score_b"))
        found = delong(y, a[:, None], b[:, None])
        assert found.standard_error**2 == pytest.approx(case["expected"]["var_difference"], rel=1e-10)
        assert found.difference == pytest.approx(case["expected"]["auc_a"] - case["expected"]["auc_b"])
        assert delong_test(found).p == pytest.approx(case["expected"]["p_two_sided"], rel=1e-10)


def test_seeds_add_no_patients():
    rng = np.random.default_rng(2)
    y = (rng.random(60) < 0.5).astype(float)
    a, b = rng.normal(size=(60, 3)) + y[:, None], rng.normal(size=(60, 1))
    once, copies = delong(y, a[:, :1], b), delong(y, np.repeat(a[:, :1], 5, 1), b)
    assert copies == pytest.approx(once)
    mean = np.mean([roc_auc_score(y, column) for column in a.T])
    assert delong(y, a, b).difference == pytest.approx(mean - roc_auc_score(y, b[:, 0]))


def test_delong_needs_two_of_each_class():
    assert delong(np.array([1.0, 0, 0]), np.zeros((3, 1)), np.ones((3, 1))) is None
    assert delong_test(DeLong(0.0, 0.0)).p == 1.0


def test_the_bootstrap_against_a_plain_loop():
    """The same draws, one patient at a time."""
    rng = np.random.default_rng(3)
    right_a, right_b = rng.random(30) < 0.8, rng.random(30) < 0.6
    counts = bootstrap_counts(30, draws=300)
    fast = (counts @ right_a - counts @ right_b) / 30
    slow = []
    for row in counts.astype(int):
        drawn = [i for i, times in enumerate(row) for _ in range(times)]
        slow.append(np.mean([float(right_a[i]) - float(right_b[i]) for i in drawn]))
    np.testing.assert_allclose(fast, slow, atol=1e-12)
    difference = float(right_a.mean() - right_b.mean())
    found = bootstrap_test(difference, fast, 30)
    moved = np.array(slow) - np.mean(slow) + difference
    p = 2 * (min((moved <= 0).sum(), (moved >= 0).sum()) + 1) / 301
    assert found.p == pytest.approx(p)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(moved, [0.025, 0.975])))
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * np.std(slow, ddof=1), rel=1e-5)


def test_the_bootstrap_of_a_mean_is_about_the_normal_test():
    rng = np.random.default_rng(4)
    d = rng.normal(0.25, 1.0, 200)
    found = bootstrap_test(float(d.mean()), bootstrap_counts(200, draws=20_000) @ d / 200, 200)
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(d.mean() / (d.std() / math.sqrt(200))), abs=0.005)


def test_p_and_interval_of_the_bootstrap_agree():
    """The test says p < alpha where the interval leaves zero out (within a draw or two)."""
    rng = np.random.default_rng(5)
    for shift in np.linspace(-3, 3, 25):
        found = bootstrap_test(float(shift), rng.normal(shift, 1.0, 1000), 50)
        if abs(found.p - 0.05) > 0.005:
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_a_bootstrap_with_nothing_to_draw():
    assert bootstrap_test(0.0, np.zeros(100), 20).verdict == "indistinguishable"
    assert bootstrap_test(0.2, np.full(100, np.nan), 20).verdict == "no power"
    assert math.isnan(bootstrap_test(0.2, np.full(100, 0.2), 1).p)


def test_a_difference_that_no_draw_changes():
    """One model right and the other wrong on all n patients: McNemar's p is 2 * (1/2)^n, and so is ours."""
    for n in (2, 4, 8):
        found = bootstrap_test(1.0, np.ones(2000), n)
        assert found.p == pytest.approx(mcnemar_p(np.ones(n, bool), np.zeros(n, bool)))
        assert found.verdict == ("different" if n == 8 else "no power")
        assert math.isnan(found.detectable)
    assert bootstrap_test(1.0, np.ones(2000), 50).p == pytest.approx(2 / 2001)


@pytest.mark.parametrize(("alone", "other"), [(0, 0), (5, 0), (3, 3), (9, 2), (30, 17)])
def test_mcnemar_against_scipy(alone, other):
    first = np.r_[np.ones(alone, bool), np.zeros(other, bool), np.ones(20, bool), np.zeros(4, bool)]
    second = np.r_[np.zeros(alone, bool), np.ones(other, bool), np.ones(20, bool), np.zeros(4, bool)]
    expected = scipy.stats.binomtest(alone, alone + other).pvalue if alone + other else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected)


def test_mcnemar_takes_interval_and_detectable_from_the_draws():
    # 9 against 2 discordant patients of 31: p = 2 (1 + 11 + 55) / 2^11 = .0654297
    first = np.r_[np.ones(9, bool), np.zeros(2, bool), np.ones(20, bool)]
    second = np.r_[np.zeros(9, bool), np.ones(2, bool), np.ones(20, bool)]
    counts = bootstrap_counts(31, draws=500)
    draws = counts @ (first.astype(float) - second) / 31
    found, plain = mcnemar_test(first, second, draws), bootstrap_test(7 / 31, draws, 31)
    assert found.p == pytest.approx(134 / 2048)
    assert found.difference == pytest.approx(7 / 31)
    assert (found.low, found.high, found.detectable) == pytest.approx((plain.low, plain.high, plain.detectable))
    assert mcnemar_test(first, first, 0 * draws).p == 1.0
