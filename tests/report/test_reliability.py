"""Reliability and decision curves: worked by hand, by plain loops, and what more seeds must not do."""

import csv
import io

import numpy as np
import pytest
from scipy import stats

from milkit.metrics import bootstrap_counts
from milkit.metrics.intervals import SEED
from milkit.report.decision import decision_csv, decision_curve
from milkit.report.reliability import reliability, wilson
from milkit.report.sections.probabilities import stretches


def test_a_patient_counts_once() -> None:
    # patient 0 tested twice (0.1 and 0.2), patient 1 once (0.15), patient 2 once (0.9)
    probability = np.array([0.05, 0.15, 0.12, 0.9])
    hit = np.array([False, False, True, True])
    got = reliability(probability, hit, np.array([0, 0, 1, 2]), bins=10)
    np.testing.assert_allclose(got.patients, [0.5, 1.5, 1.0])
    np.testing.assert_allclose(got.predicted, [0.05, (0.5 * 0.15 + 0.12) / 1.5, 0.9])
    np.testing.assert_allclose(got.observed, [0.0, 1 / 1.5, 1.0])
    np.testing.assert_allclose(got.share, np.array([0.5, 1.5, 0, 0, 0, 0, 0, 0, 1, 0]) / 3)


def sample(n=40, seed=1):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return p, rng.random(n) < p


def test_intervals_are_a_bootstrap_of_units_with_all_their_patients() -> None:
    p, hit = sample()
    unit = np.arange(40) // 4
    got = reliability(p, hit, np.arange(40), unit, bins=2, draws=300)
    shares: list[list[float]] = [[], []]
    for counts in bootstrap_counts(10, 300, SEED):
        again = np.repeat(np.arange(40), counts[unit].astype(int))
        for k in (0, 1):
            inside = (p[again] > 0.5) == bool(k)
            shares[k].append(hit[again][inside].mean())
    expected = np.array([np.quantile(s, [0.025, 0.975]) for s in shares])
    np.testing.assert_allclose(np.stack([got.low, got.high], 1), expected, atol=1e-12)


def test_a_bin_of_one_kind_has_wilsons_interval() -> None:
    got = reliability(np.full(8, 0.95), np.ones(8, bool), np.arange(8))
    expected = stats.binomtest(8, 8).proportion_ci(method="wilson")
    np.testing.assert_allclose([got.low[0], got.high[0]], [expected.low, expected.high], atol=1e-12)


def test_more_seeds_do_not_narrow_the_intervals() -> None:
    p, hit = sample(30)
    one = reliability(p, hit, np.arange(30))
    five = reliability(np.tile(p, 5), np.tile(hit, 5), np.tile(np.arange(30), 5))
    np.testing.assert_allclose(one.high - one.low, five.high - five.low)
    one, five = (decision_curve(np.tile(hit, k), np.tile(p, k), np.tile(np.arange(30), k), draws=50) for k in (1, 5))
    np.testing.assert_allclose(one.high - one.low, five.high - five.low, atol=1e-12)
    np.testing.assert_allclose(one.model, five.model)


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 10), (10, 10)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    low, high = wilson(np.array([hits / n]), np.array([float(n)]))
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high], atol=1e-12)


def test_the_decision_curve_by_counting() -> None:
    p, hit = sample()
    t = np.array([0.1, 0.35, 0.8])
    got = decision_curve(hit, p, np.arange(40), thresholds=t, draws=200)
    for k, at in enumerate(t):
        called = p >= at
        counted = ((called & hit).sum() - (called & ~hit).sum() * at / (1 - at)) / 40
        assert got.model[k] == pytest.approx(counted)
        assert got.treat_all[k] == pytest.approx(hit.mean() - (1 - hit.mean()) * at / (1 - at))
    drawn = []
    for counts in bootstrap_counts(40, 200, SEED):
        again = np.repeat(np.arange(40), counts.astype(int))
        called = p[again] >= 0.35
        drawn.append(((called & hit[again]).sum() - (called & ~hit[again]).sum() * 0.35 / 0.65) / 40)
    np.testing.assert_allclose([got.low[1], got.high[1]], np.quantile(drawn, [0.025, 0.975]), atol=1e-12)
    assert got.useful.tolist() == (got.model > np.maximum(got.treat_all, 0)).tolist()


def test_its_numbers_are_a_table() -> None:
    p, hit = sample()
    curve = decision_curve(hit, p, np.arange(40), thresholds=np.array([0.1, 0.5]), draws=20)
    rows = list(csv.DictReader(io.StringIO(decision_csv({"musk, yes": curve}))))
    assert [row["class"] for row in rows] == ["musk, yes"] * 2
    assert [float(row["net_benefit"]) for row in rows] == curve.model.tolist()
    assert rows[0]["treat_none"] == "0.0"
    assert rows[0]["net_benefit_scaled"] == ""


def test_stretches() -> None:
    t = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert stretches(t, np.array([True, True, False, False, True])) == [(0.1, 0.2), (0.5, 0.5)]
    assert stretches(t, np.zeros(5, bool)) == []
