"""Verdicts in words, Holm's correction and the smallest difference that could be seen: worked values, then SciPy."""

import math

import numpy as np
import pytest
import scipy.stats

from milkit.metrics.verdict import against_published, detectable, holm, t_verdict


def test_the_normal_test_by_hand():
    # .06 / .02 = 3 standard errors: p = 2 (1 - Phi(3)) = .0026998; interval .06 +- 1.9599640 * .02;
    # detectable (1.9599640 + .8416212) * .02 = .0560317
    found = t_verdict(0.06, 0.02, math.inf)
    assert found.verdict == "different"
    assert found.p == pytest.approx(0.0026997961, rel=1e-7)
    assert (found.low, found.high) == pytest.approx((0.0208007, 0.0991993), abs=1e-7)
    assert found.detectable == pytest.approx(0.0560317, abs=1e-7)


def test_the_t_test_against_scipy():
    values = np.random.default_rng(0).normal(0.3, 1.0, 12)
    expected = scipy.stats.ttest_1samp(values, 0.0)
    interval = expected.confidence_interval(0.9)
    found = t_verdict(float(values.mean()), float(scipy.stats.sem(values)), 11, alpha=0.1)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("difference", "error", "said"),
    [
        (0.02, 0.02, "no power"),  # could have shown .056 only
        (0.02, 0.0175, "indistinguishable"),  # could have shown .049
        (-0.06, 0.02, "different"),
        (0.0, 0.0, "indistinguishable"),  # the same predictions twice
        (0.1, 0.0, "no power"),  # no spread to test by
        (0.1, math.nan, "no power"),
        (math.nan, 0.1, "no power"),
    ],
)
def test_words(difference, error, said):
    assert t_verdict(difference, error, math.inf).verdict == said


def test_no_test_has_no_p():
    found = t_verdict(0.1, 0.0, 9)
    assert np.isnan([found.p, found.low, found.high, found.detectable]).all()
    assert t_verdict(0.0, 0.0, 9).p == 1.0
    with pytest.raises(ValueError, match="must be >= 0"):
        t_verdict(0.1, -0.1, 9)


def test_published_numbers():
    # errors .03 and .04 make .05 in quadrature
    both = against_published(0.85, 0.03, 9, 0.90, 0.04)
    assert both == t_verdict(0.85 - 0.90, 0.05, 9)
    alone = against_published(0.85, 0.03, 9, 0.90)
    assert alone == t_verdict(0.85 - 0.90, 0.03, 9)
    assert alone.difference == pytest.approx(-0.05)
    assert alone.verdict == "no power"


def test_holm_by_hand():
    # sorted .01 .03 .04: times 3, 2, 1 = .03 .06 .04; the last may not fall below the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    np.testing.assert_allclose(holm([0.02, math.nan, 0.03]), [0.04, math.nan, 0.04])
    assert len(holm([])) == 0


@pytest.mark.parametrize(("dof", "power"), [(4, 0.791), (9, 0.799), (200, 0.800)])
def test_the_detectable_difference_is_found_in_80_of_100(dof, power):
    least = detectable(1.0, dof)
    cut = scipy.stats.t.ppf(0.975, dof)
    found = scipy.stats.nct.sf(cut, dof, least) + scipy.stats.nct.cdf(-cut, dof, least)
    assert found == pytest.approx(power, abs=0.001)
