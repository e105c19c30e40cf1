"""The two intervals: worked values, and how often they hold what they claim to hold."""

import numpy as np
import pytest
import scipy.stats

from milkit import metrics


def test_corrected_resampled_t_by_hand():
    # mean .8, variance .01, J = 5, one ninth: sqrt(.01 * (1/5 + 1/9)) = .0557773; t(4) = 2.7764451
    values = np.array([0.7, 0.7, 0.8, 0.9, 0.9])
    interval, note = metrics.corrected_resampled_t(values, 10, 90)
    assert note == ""
    half = 2.7764451051977987 * np.sqrt(0.01 * (0.2 + 1 / 9))
    assert interval == pytest.approx((0.8 - half, 0.8 + half))
    assert (interval.low, interval.high) == tuple(interval)


def test_without_the_correction_it_is_the_t_interval():
    values = np.random.default_rng(0).random(8)
    interval, _ = metrics.corrected_resampled_t(values, 0.0, 1.0, level=0.9)
    expected = scipy.stats.t.interval(0.9, 7, loc=values.mean(), scale=scipy.stats.sem(values))
    assert interval == pytest.approx(expected)


def test_sizes_may_differ_by_split_and_undefined_splits_are_left_out():
    values = np.array([0.7, np.nan, 0.9])
    several, _ = metrics.corrected_resampled_t(values, np.array([10.0, 99, 20]), np.array([90.0, 1, 80]))
    one, _ = metrics.corrected_resampled_t(np.array([0.7, 0.9]), (10 / 90 + 20 / 80) / 2, 1.0)
    assert several == pytest.approx(one)


@pytest.mark.parametrize(("values", "said"), [([0.7], "there is 1"), ([np.nan, np.nan], "there are 0")])
def test_one_split_has_no_procedure_interval(values, said):
    interval, note = metrics.corrected_resampled_t(np.array(values), 10, 90)
    assert interval is None
    assert said in note


def test_bootstrap_counts():
    counts = metrics.bootstrap_counts(7, draws=4000)
    assert counts.shape == (4000, 7)
    assert (counts.sum(1) == 7).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(counts.var(0), 6 / 7, atol=0.1)  # binomial(7, 1/7)
    np.testing.assert_array_equal(counts, metrics.bootstrap_counts(7, draws=4000))
    assert (counts != metrics.bootstrap_counts(7, draws=4000, seed=1)).any()


def test_blocks_are_the_same_draws():
    blocks = list(metrics.bootstrap_blocks(7, draws=100, cells=7 * 30))
    assert [len(b) for b in blocks] == [30, 30, 30, 10]
    np.testing.assert_array_equal(np.concatenate(blocks), metrics.bootstrap_counts(7, draws=100))
    assert len(list(metrics.bootstrap_blocks(10, draws=3, cells=1))) == 3


def test_percentiles():
    interval, note = metrics.percentile_interval(np.arange(1001.0))
    assert interval == pytest.approx((25, 975))
    assert note == ""
    interval, note = metrics.percentile_interval(np.r_[np.full(100, np.nan), np.arange(1001.0)])
    assert interval == pytest.approx((25, 975))
    assert note == "100 of 1101 bootstrap draws left out"
    interval, note = metrics.percentile_interval(np.r_[np.full(3, np.nan), 1.0])
    assert interval is None
    assert "3 of 4" in note


def test_the_bias_of_the_draws_is_taken_off():
    values = np.arange(1001.0) / 1000
    interval, _ = metrics.percentile_interval(values, centre=0.4)  # the draws' mean is .5
    assert interval == pytest.approx((0.025 - 0.1, 0.975 - 0.1))
    assert interval.within((0.0, 1.0)) == pytest.approx((0.0, 0.875))
    assert metrics.Interval(0.8, 1.2).within((0.0, 1.0)) == (0.8, 1.0)


def test_the_corrected_interval_holds_the_mean_in_95_of_100_studies():
    """Values of J splits with the correlation n_test / (n_test + n_train) that the correction assumes."""
    rng = np.random.default_rng(1)
    studies, j, n_test, n_train = 4000, 10, 10, 90
    rho = n_test / (n_test + n_train)
    shared, own = rng.normal(size=(studies, 1)), rng.normal(size=(studies, j))
    values = np.sqrt(rho) * shared + np.sqrt(1 - rho) * own
    corrected = [metrics.corrected_resampled_t(v, n_test, n_train)[0] for v in values]
    naive = [metrics.corrected_resampled_t(v, 0.0, 1.0)[0] for v in values]
    assert np.mean([i.low <= 0 <= i.high for i in corrected]) == pytest.approx(0.95, abs=0.012)
    assert np.mean([i.low <= 0 <= i.high for i in naive]) < 0.88


def test_the_bootstrap_of_patients_holds_the_true_auroc_in_about_95_of_100_samples():
    """One locked score on fresh patients: normal scores, positives shifted by 1, AUROC = Phi(1 / sqrt 2)."""
    rng = np.random.default_rng(2)
    truth = scipy.stats.norm.cdf(1 / np.sqrt(2))
    samples, n, held = 400, 60, 0
    y = np.repeat([0, 1], n // 2)
    counts = metrics.bootstrap_counts(n, draws=500)
    for _ in range(samples):
        values = metrics.auroc(y, rng.normal(size=n) + y, counts)
        interval, _ = metrics.percentile_interval(values)
        held += interval.low <= truth <= interval.high
    assert held / samples == pytest.approx(0.94, abs=0.03)  # percentile intervals fall a little short at n = 60


def test_a_bootstrap_of_rows_is_too_short_where_patients_stand_often():
    """Ten seeds a patient, all alike: resampling rows divides the width by sqrt 10, resampling patients does not."""
    rng = np.random.default_rng(3)
    n, seeds = 50, 10
    y = rng.integers(0, 2, n)
    score = np.repeat(rng.normal(size=n) + y, seeds)
    rows_y = np.repeat(y, seeds)
    of_rows = metrics.bootstrap_counts(n * seeds, draws=500)
    of_patients = np.repeat(metrics.bootstrap_counts(n, draws=500), seeds, axis=1)
    widths = []
    for weight in (of_rows, of_patients):
        interval, _ = metrics.percentile_interval(metrics.auroc(rows_y, score, weight))
        widths.append(interval.high - interval.low)
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(seeds), rel=0.25)
