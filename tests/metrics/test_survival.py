"""Survival metrics: by hand, against lifelines and the shared oracle file, and against plain loops."""

import json
import math

import lifelines
import numpy as np
import pandas
import pytest
from lifelines.statistics import logrank_test, multivariate_logrank_test
from lifelines.utils import concordance_index, median_survival_times

from milkit import metrics
from milkit.errors import DataError
from milkit.metrics import Undefined, why

CLOSE = {"rel": 1e-9, "abs": 1e-12}


def a(*values):
    return np.array(values, float)


def i(*values):
    return np.array(values)


def cohort(seed, n=60, ties=True):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 15, n).astype(float) if ties else rng.exponential(5.0, n)
    event = (rng.random(n) < 0.6).astype(int)
    return time, event, np.round(-time + 6 * rng.normal(size=n)), rng.integers(0, 3, n)


@pytest.fixture(scope="module")
def oracle(shared):
    with open(shared / "parity/pixel/metrics_oracle.json", encoding="utf-8") as file:
        found = [c for c in json.load(file)["cases"] if c["kind"] == "survival"]
    assert len(found) == 7
    return found


# Kaplan-Meier


def test_kaplan_meier_by_hand():
    # 6 patients; 1 of 6 dies at 2, at 3 one of 5 dies and one leaves, at 5 two of 3 die, 7 leaves
    curve = metrics.kaplan_meier([3, 2, 5, 5, 3, 7], [1, 1, 1, 1, 0, 0])
    assert curve.time.tolist() == [0, 2, 3, 5, 7]
    np.testing.assert_allclose(curve.survival, [1, 5 / 6, 5 / 6 * 4 / 5, 2 / 3 / 3, 2 / 9])
    assert curve.at_risk.tolist() == [6, 6, 5, 3, 1]
    assert curve.events.tolist() == [0, 1, 1, 2, 0]
    assert curve.censored.tolist() == [0, 0, 1, 0, 1]
    assert curve.median == 5
    assert curve.still_at_risk(a(0, 2, 2.5, 3, 5, 6, 7, 8)).tolist() == [6, 6, 5, 5, 3, 1, 1, 0]
    np.testing.assert_allclose(curve.at(a(0, 2, 6.9, 7)), [1, 5 / 6, 2 / 9, 2 / 9])
    assert np.isnan(curve.at(a(7.1))[0])  # nobody was followed up to there
    # Greenwood at 2: 1/(6*5); on the scale of log(-log S)
    log = math.log(5 / 6)
    half = 1.959963984540054 * math.sqrt(1 / 30) / -log
    assert curve.low[1] == pytest.approx(math.exp(log * math.exp(half)))
    assert curve.high[1] == pytest.approx(math.exp(log * math.exp(-half)))


def test_kaplan_meier_is_the_oracle_s(oracle):
    for case in oracle:
        expected = case["expected"]
        curve = metrics.kaplan_meier(case["time"], case["event"])
        np.testing.assert_allclose(curve.time, expected["km_times"])
        np.testing.assert_allclose(curve.survival, expected["km_survival"], atol=1e-12)
        alive = np.array(expected["km_survival"]) > 0  # at 0 lifelines says 0 to 0; there is no interval
        np.testing.assert_allclose(curve.low[alive], np.array(expected["km_ci95_lower"])[alive], atol=1e-9)
        np.testing.assert_allclose(curve.high[alive], np.array(expected["km_ci95_upper"])[alive], atol=1e-9)
        assert np.isnan(curve.low[~alive]).all()
        assert curve.median == float(expected["km_median"])


@pytest.mark.parametrize("seed", range(4))
def test_median_and_its_interval_are_those_of_lifelines(seed):
    time, event, *_ = cohort(seed, 50, ties=seed % 2 == 0)
    fitted = lifelines.KaplanMeierFitter().fit(time, event)
    curve = metrics.kaplan_meier(time, event)
    assert curve.median == fitted.median_survival_time_
    interval = median_survival_times(fitted.confidence_interval_).to_numpy()[0]
    np.testing.assert_allclose(curve.median_interval, interval)
    at = np.linspace(0, time.max(), 9)
    np.testing.assert_allclose(curve.at(at), fitted.survival_function_at_times(at).to_numpy(), atol=1e-12)


def test_median_that_is_never_reached_is_infinite():
    curve = metrics.kaplan_meier([1, 2, 3, 4, 5], [1, 0, 0, 0, 0])
    assert curve.median == math.inf
    assert curve.median_interval[1] == math.inf
    # and one that lies on 1/2 to the digit is reached, whatever rounding does to 6/7 * 5/6 ...
    assert metrics.kaplan_meier(np.arange(1.0, 15), np.ones(14, int)).median == 7


# log-rank


def test_log_rank_by_hand():
    # times 1A 2B 3A 4B, all events. At 1: 1/2 expected in B, variance 1/4; at 2 of 3 at risk 2 are B: 2/3, 2/9;
    # at 3 of A and B 1/2, 1/4; at 4 only B: 1, 0
    found = metrics.logrank([1, 2, 3, 4], [1, 1, 1, 1], np.array(["A", "B", "A", "B"]))
    observed, expected, variance = 2, 1 / 2 + 2 / 3 + 1 / 2 + 1, 1 / 4 + 2 / 9 + 1 / 4
    assert found.groups == ("A", "B")
    np.testing.assert_allclose(found.observed, [2, 2])
    np.testing.assert_allclose(found.expected, [4 - expected, expected])
    assert found.chi2 == pytest.approx((observed - expected) ** 2 / variance)


def test_log_rank_is_the_oracle_s(oracle):
    tested = 0
    for case in oracle:
        expected = case["expected"]
        if "logrank_chi2" not in expected:  # all censored
            continue
        tested += 1
        two = metrics.logrank(case["time"], case["event"], np.array(case["group"]))
        three = metrics.logrank(case["time"], case["event"], np.array(case["group3"]))
        assert (two.chi2, two.p) == pytest.approx((expected["logrank_chi2"], expected["logrank_p"]), **CLOSE)
        assert (three.chi2, three.p) == pytest.approx((expected["logrank3_chi2"], expected["logrank3_p"]), **CLOSE)
        assert (two.degrees, three.degrees) == (1, 2)
    assert tested == 6


@pytest.mark.parametrize("seed", range(4))
def test_log_rank_against_lifelines(seed):
    time, event, risk, group = cohort(10 + seed)
    high = risk >= np.median(risk)
    theirs = logrank_test(time[high], time[~high], event[high], event[~high])
    ours = metrics.logrank(time, event, high)
    assert (ours.chi2, ours.p) == pytest.approx((theirs.test_statistic, theirs.p_value), **CLOSE)
    theirs = multivariate_logrank_test(time, group, event)
    assert metrics.logrank(time, event, group).chi2 == pytest.approx(theirs.test_statistic, **CLOSE)


def test_stratified_log_rank_adds_the_sums_of_its_strata():
    time, event, risk, stratum = cohort(3)
    high = risk >= np.median(risk)
    difference, variance = 0.0, 0.0
    for s in range(3):
        for t in np.unique(time[(stratum == s) & (event == 1)]):  # plain loops, the definition
            at_risk = (stratum == s) & (time >= t)
            n, n1 = at_risk.sum(), (at_risk & high).sum()
            d = (at_risk & (time == t) & (event == 1)).sum()
            d1 = (at_risk & high & (time == t) & (event == 1)).sum()
            difference += d1 - d * n1 / n
            variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1) if n > 1 else 0
    found = metrics.logrank(time, event, high, stratum)
    assert found.chi2 == pytest.approx(difference**2 / variance, **CLOSE)
    assert found.strata == 3
    assert found.chi2 != pytest.approx(metrics.logrank(time, event, high).chi2, rel=1e-3)


@pytest.mark.parametrize(("ties", "strata", "effect"), [(False, 1, 0.5), (True, 1, 0.5), (True, 3, 2.0)])
def test_hazard_ratio_is_that_of_a_cox_model(ties, strata, effect):
    rng = np.random.default_rng(5)
    n = 200
    high, stratum = rng.integers(0, 2, n), rng.integers(0, strata, n)
    time = rng.exponential(10 * np.exp(-effect * high) * (1 + stratum))
    time = np.ceil(time) if ties else time
    censor = np.ceil(rng.exponential(30.0, n))
    event, time = (time <= censor).astype(int), np.minimum(time, censor)
    table = pandas.DataFrame({"time": time, "event": event, "high": high, "stratum": stratum})
    fitter = lifelines.CoxPHFitter()
    fitted = fitter.fit(table, "time", "event", strata="stratum", fit_options={"precision": 1e-12})
    found = metrics.hazard_ratio(time, event, high == 1, stratum)
    assert found.value == pytest.approx(float(np.exp(fitted.params_["high"])), rel=1e-6)
    interval = np.exp(fitted.confidence_intervals_.to_numpy()[0])
    assert (found.low, found.high) == pytest.approx(tuple(interval), rel=1e-6)
    turned = metrics.hazard_ratio(time, event, high == 0, stratum)
    assert turned.value == pytest.approx(1 / found.value, rel=1e-9)


def test_hazard_ratio_by_hand():
    # 1 high, 2 low, 3 high, 4 low: risk sets (high, low) (2,2) (1,2) (1,1); the last event is of one group alone.
    # score 2 - r/(r+1) - r/(r+2) - r/(r+1) = 0  <=>  r^2 - r - 4 = 0
    found = metrics.hazard_ratio([1, 2, 3, 4], [1, 1, 1, 1], np.array([True, False, True, False]))
    assert found.value == pytest.approx((1 + math.sqrt(17)) / 2)


def test_log_rank_is_nominal_under_the_null():
    # 2,000 cohorts without difference: 5 % of p below 0.05 within three standard errors (0.0049 each)
    rng = np.random.default_rng(0)
    small = 0
    for _ in range(2000):
        time, censor = rng.exponential(1.0, (2, 40))
        small += (
            metrics.logrank(np.minimum(time, censor), (time <= censor).astype(int), rng.integers(0, 2, 40)).p < 0.05
        )
    assert 0.05 - 0.015 < small / 2000 < 0.05 + 0.015


# IPCW


@pytest.mark.parametrize("seed", range(3))
def test_uno_with_the_censoring_of_training_patients_and_tau_by_plain_loops(seed):
    time, event, risk, _ = cohort(20 + seed, 40)
    train_time, train_event, *_ = cohort(50 + seed, 80)
    free = metrics.censoring(train_time, train_event)
    fitted = lifelines.KaplanMeierFitter().fit(train_time + 1e-6 * (1 - train_event), 1 - train_event)
    for tau in (None, 8.0):
        won = pairs = 0.0
        for p in range(40):
            g = float(fitted.survival_function_at_times(time[p] + 1e-5).iloc[0])
            if not event[p] or g == 0 or (tau is not None and time[p] >= tau):
                continue
            for q in range(40):
                if time[q] > time[p] or (time[q] == time[p] and not event[q]):
                    pairs += g**-2
                    won += g**-2 * ((risk[p] > risk[q]) + 0.5 * (risk[p] == risk[q]))
        found = metrics.c_index_ipcw(time, event, risk, estimate=free, tau=tau)
        assert found == pytest.approx(won / pairs, **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_brier_and_auroc_at_a_time_by_plain_loops(seed):
    rng = np.random.default_rng(seed)
    time, event, risk, _ = cohort(30 + seed, 40)
    free = metrics.censoring(*cohort(60 + seed, 80)[:2])
    at = a(3, 5, 9)
    survival = np.sort(rng.random((40, 3)))[:, ::-1].copy()
    scores = []
    for k, t in enumerate(at):
        total = 0.0
        for p in range(40):
            if time[p] <= t and event[p]:
                total += survival[p, k] ** 2 / free.at(a(time[p]))[0]
            elif time[p] > t:
                total += (1 - survival[p, k]) ** 2 / free.at(a(t))[0]
        scores.append(total / 40)
        assert metrics.brier_ipcw(time, event, survival[:, [k]], a(t), estimate=free) == pytest.approx(total / 40)
    expected = (2 * (scores[0] + scores[1]) / 2 + 4 * (scores[1] + scores[2]) / 2) / 6
    assert metrics.brier_ipcw(time, event, survival, at, estimate=free) == pytest.approx(expected, **CLOSE)
    won = pairs = 0.0
    for p in np.flatnonzero((time <= 5) & (event == 1)):
        for q in np.flatnonzero(time > 5):
            w = 1 / free.at(a(time[p]))[0]
            pairs += w
            won += w * ((risk[p] > risk[q]) + 0.5 * (risk[p] == risk[q]))
    assert metrics.auroc_at(time, event, risk, 5.0, estimate=free) == pytest.approx(won / pairs, **CLOSE)


def test_without_censoring_ipcw_is_the_plain_metric():
    rng = np.random.default_rng(4)
    time, risk = rng.random(50), rng.normal(size=50)
    event = np.ones(50, int)
    assert metrics.c_index_ipcw(time, event, risk) == pytest.approx(metrics.c_index(time, event, risk), **CLOSE)
    survival = rng.random((50, 1))
    plain = np.mean(((time > 0.4) - survival[:, 0]) ** 2)
    assert metrics.brier_ipcw(time, event, survival, a(0.4)) == pytest.approx(plain, **CLOSE)
    assert metrics.brier_ipcw(time, event, np.full((50, 2), 0.5), a(0.2, 0.7)) == pytest.approx(0.25)
    label = (time <= 0.4).astype(int)
    assert metrics.auroc_at(time, event, risk, 0.4) == pytest.approx(metrics.auroc(label, risk), **CLOSE)


def test_ipcw_takes_out_censoring_that_harrell_s_c_depends_on():
    # risk orders early events well and late ones not at all; heavy censoring hides the late ones from Harrell
    rng = np.random.default_rng(9)
    time = rng.random(3000)
    risk = np.where(time < 0.3, 1 - time, rng.random(3000) * 0.7)
    event, none = np.ones(3000, int), rng.exponential(0.25, 3000)
    truth = metrics.c_index(time[time < 0.9], event[time < 0.9], risk[time < 0.9])
    seen, known = np.minimum(time, none), (time <= none).astype(int)
    harrell, uno = metrics.c_index(seen, known, risk), metrics.c_index_ipcw(seen, known, risk, tau=0.9)
    assert abs(uno - truth) < 0.03 < harrell - truth


@pytest.mark.parametrize("name", ["brier_ipcw", "auroc_at"])
def test_weights_are_repeated_patients(name):
    time, event, risk, weight = cohort(40)
    free, rows = metrics.censoring(time, event), np.repeat(np.arange(60), weight)
    survival = 1 / (1 + np.exp(risk[:, None] / 5 + a(0, 1)))

    def value(r, w):
        if name == "auroc_at":
            return metrics.auroc_at(time[r], event[r], risk[r], 6.0, w, estimate=free)
        return metrics.brier_ipcw(time[r], event[r], survival[r], a(3, 8), w, estimate=free)

    both = value(np.arange(60), np.stack([weight, np.ones(60)]))
    assert both[0] == pytest.approx(value(rows, None), **CLOSE)
    assert both[1] == pytest.approx(value(np.arange(60), None), **CLOSE)


# risk groups


def test_groups_are_cut_at_the_locked_median():
    assert metrics.median_risk([3.0, 1.0, 2.0, 10.0]) == 2.5
    assert metrics.risk_groups([2.4, 2.5, 7.0], 2.5).tolist() == [False, True, True]
    assert metrics.risk_groups([2.4, 2.5, 7.0], a(1, 3, 7)).tolist() == [True, False, True]
    with pytest.raises(DataError, match="not a finite"):
        metrics.risk_groups([1.0, 2.0], float("nan"))
    assert "no patient" in why(metrics.median_risk([]))
    assert "not finite" in why(metrics.median_risk([1.0, math.nan]))


def test_comparison_of_groups_says_everything_once():
    time, event, risk, stratum = cohort(70)
    high = metrics.risk_groups(risk, metrics.median_risk(risk))
    found = metrics.compare_groups(time, event, high, stratum)
    json.dumps(found, allow_nan=False)
    assert found["groups"]["high"]["n"] == high.sum()
    assert found["groups"]["low"]["events"] == event[~high].sum()
    fitted = lifelines.KaplanMeierFitter().fit(time[high], event[high])
    assert found["groups"]["high"]["median"] == fitted.median_survival_time_
    test = metrics.logrank(time, event, high, stratum)
    assert found["logrank"] == {"chi2": test.chi2, "p": test.p, "strata": 3, "note": ""}
    assert found["hazard_ratio"]["value"] == metrics.hazard_ratio(time, event, high, stratum).value > 1
    assert found["curves"]["high"]["at_risk"][0] == high.sum()


def test_one_empty_group_has_no_test_and_says_so():
    found = metrics.compare_groups([1, 2, 3], [1, 1, 0], np.array([True, True, True]))
    assert found["groups"]["low"]["n"] == 0
    assert found["logrank"]["p"] is None
    assert "one group" in found["logrank"]["note"]
    assert found["hazard_ratio"]["value"] is None


# bad input

BAD = {
    "negative time": ([1.0, -2.0], [1, 0], r"time\[1\] is -2"),
    "NaN time": ([math.nan, 2.0], [1, 0], r"time\[0\] is nan"),
    "infinite time": ([1.0, math.inf], [1, 0], r"time\[1\] is inf"),
    "event 2": ([1.0, 2.0], [1, 2], r"event\[1\] is 2 .*competing"),
    "NaN event": ([1.0, 2.0], [1.0, math.nan], r"event\[1\] is nan"),
    "lengths": ([1.0, 2.0], [1], "one number a patient"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_what_cannot_be_is_an_error_that_names_the_patient(case):
    time, event, message = BAD[case]
    risk = [0.5, 0.1]
    for call in (
        lambda: metrics.c_index(time, event, risk),
        lambda: metrics.c_index_ipcw(time, event, risk),
        lambda: metrics.auroc_at(time, event, risk, 1.0),
        lambda: metrics.brier_ipcw(time, event, np.full((2, 1), 0.5), a(1)),
        lambda: metrics.kaplan_meier(time, event),
        lambda: metrics.censoring(time, event),
        lambda: metrics.logrank(time, event, np.array([0, 1])),
        lambda: metrics.hazard_ratio(time, event, np.array([True, False])),
        lambda: metrics.compare_groups(time, event, np.array([True, False])),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="risk has the shape"):
        metrics.c_index([1, 2], [1, 1], [1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="group has the shape"):
        metrics.logrank([1, 2], [1, 1], np.array([1, 2, 3]))
    with pytest.raises(DataError, match="expected \\(2, 1\\)"):
        metrics.brier_ipcw([1, 2], [1, 1], np.full((3, 1), 0.5), a(1))
    with pytest.raises(DataError, match="outside 0 to 1"):
        metrics.brier_ipcw([1, 2], [1, 1], np.full((2, 1), 1.5), a(1))
    with pytest.raises(DataError, match="no patient"):
        metrics.kaplan_meier([], [])


UNDEFINED = {
    "c_index, no event": lambda: metrics.c_index([1, 2], [0, 0], [1, 2]),
    "c_index, one patient": lambda: metrics.c_index([1.0], [1], [0.3]),
    "c_index_ipcw, no event": lambda: metrics.c_index_ipcw([1, 2], [0, 0], [1, 2]),
    "c_index_ipcw, tau before the first event": lambda: metrics.c_index_ipcw([3, 4], [1, 1], [1, 2], tau=2.0),
    "c_index_ipcw, NaN risk": lambda: metrics.c_index_ipcw([1, 2], [1, 1], [1, math.nan]),
    "auroc_at, no event by then": lambda: metrics.auroc_at([3, 4], [1, 1], [1, 2], 2.0),
    "auroc_at, nobody beyond": lambda: metrics.auroc_at([3, 4], [1, 1], [1, 2], 5.0),
    "brier_ipcw, nobody followed up": lambda: metrics.brier_ipcw([1, 2], [0, 0], np.full((2, 1), 0.5), a(3)),
    "brier_ipcw, NaN": lambda: metrics.brier_ipcw([1, 2], [1, 0], np.full((2, 1), math.nan), a(1)),
    "logrank, one group": lambda: metrics.logrank([1, 2], [1, 1], np.array([1, 1])).p,
    "logrank, no event": lambda: metrics.logrank([1, 2], [0, 0], np.array([0, 1])).chi2,
    "logrank, one patient": lambda: metrics.logrank([1.0], [1], np.array([1])).p,
    "logrank, groups never meet in a stratum": lambda: (
        metrics.logrank([1, 2, 3, 4], [1, 1, 1, 1], np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])).chi2
    ),
    "hazard_ratio, one group": lambda: metrics.hazard_ratio([1, 2], [1, 1], np.array([True, True])).value,
    "hazard_ratio, all events on one side": lambda: (
        metrics.hazard_ratio([1, 2, 3, 4], [1, 1, 0, 0], np.array([True, True, False, False])).value
    ),
}


@pytest.mark.parametrize("case", list(UNDEFINED))
def test_undefined_is_nan_with_a_reason_never_zero_or_a_half(case):
    value = UNDEFINED[case]()
    assert isinstance(value, Undefined)
    assert math.isnan(value)
    assert len(why(value)) > 8


def test_risks_as_another_paper_prints_them():
    # lists of whole numbers and booleans, a time of zero: no conversion is asked of the reader
    time, event, risk = [0, 5, 8, 8, 12], [True, False, True, False, False], [3, 1, 2, 2, 0]
    assert metrics.c_index(time, event, risk) == pytest.approx(
        concordance_index(time, [-r for r in risk], event), **CLOSE
    )
    assert metrics.c_index(time, event, [-r for r in risk]) == pytest.approx(1 - metrics.c_index(time, event, risk))
