import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from milkit.report import curves


def ties(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes and scores of which many are equal."""
    rng = np.random.default_rng(seed)
    return np.r_[True, False, rng.random(38) < 0.4], np.round(rng.random(40), 1)


def test_roc_steps_by_hand() -> None:
    # ranked: + - + -; after each: (0, .5) (.5, .5) (.5, 1) (1, 1)
    positive, score = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1])
    grid = np.array([0.0, 0.25, 0.499, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(curves.roc_at(positive, score, grid), [0.5, 0.5, 0.5, 1, 1, 1])


def test_equal_scores_are_the_diagonal() -> None:
    grid = np.linspace(0, 1, 11)
    np.testing.assert_allclose(curves.roc_at(np.array([True, False, True]), np.zeros(3), grid), grid, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_area_of_the_roc_curve_is_auroc(seed: int) -> None:
    positive, score = ties(seed)
    x = np.unique(sk.roc_curve(positive, score, drop_intermediate=False)[0])
    # linear between these points, so the value in the middle times the width is exact
    area = (curves.roc_at(positive, score, (x[1:] + x[:-1]) / 2) * np.diff(x)).sum()
    assert area == pytest.approx(sk.roc_auc_score(positive, score), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_area_of_the_precision_recall_curve_is_average_precision(seed: int) -> None:
    positive, score = ties(seed)
    recall = np.unique(sk.precision_recall_curve(positive, score)[1])
    area = (curves.pr_at(positive, score, recall[1:]) * np.diff(recall)).sum()
    assert area == pytest.approx(sk.average_precision_score(positive, score), abs=1e-9)


def test_precision_by_hand() -> None:
    # ranked: - + +; recall 0 at precision 0, then 1/2 at 1/2, then 1 at 2/3
    positive, score = np.array([False, True, True]), np.array([0.9, 0.8, 0.7])
    got = curves.pr_at(positive, score, np.array([0.0, 0.3, 0.5, 0.51, 1.0]))
    np.testing.assert_allclose(got, [0.5, 0.5, 0.5, 2 / 3, 2 / 3])


def test_seeds_are_averaged_before_folds() -> None:
    right, wrong = [0.9, 0.1], [0.1, 0.9]  # of (positive, negative): TPR at FPR 0 is 1 and 0
    score = np.array(right + wrong + right)
    positive = np.tile([True, False], 3)
    run, fold = np.repeat([0, 1, 2], 2), np.repeat([0, 0, 1], 2)
    got = curves.average_curve("roc", positive, score, run, fold)
    assert got is not None
    np.testing.assert_allclose(got.folds[:, 0], [0.5, 1.0])
    assert got.mean[0] == 0.75  # over runs it would be 2/3
    np.testing.assert_allclose([got.low[0], got.high[0]], [0.55, 0.95])
    assert (got.undefined, got.prevalence) == (0, 0.5)


def test_folds_of_one_class_are_counted_not_drawn() -> None:
    positive = np.array([True, False, True, True])
    args = (np.array([0.9, 0.1, 0.5, 0.4]), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    got = curves.average_curve("pr", positive, *args)
    assert got is not None
    assert (len(got.folds), got.undefined) == (1, 1)
    assert curves.average_curve("roc", np.ones(4, bool), *args) is None


def test_groups_are_the_rows_of_each_key() -> None:
    assert [g.tolist() for g in curves.groups(np.array([2, 0, 2, 1]))] == [[1], [3], [0, 2]]
    assert curves.groups(np.array([], np.int64)) == []


def test_confusion_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    np.testing.assert_array_equal(curves.confusion(truth, guess, 4), sk.confusion_matrix(truth, guess, labels=range(4)))


def test_band_by_hand() -> None:
    epoch = np.array([1, 1, 1, 2, 2, 3])
    value = np.array([0.0, 1.0, 4.0, 2.0, 4.0, np.nan])
    got = curves.band(epoch, value)
    assert got is not None
    assert got.epoch.tolist() == [1, 2]
    np.testing.assert_allclose(got.median, [1.0, 3.0])
    np.testing.assert_allclose(got.low, [0.5, 2.5])
    np.testing.assert_allclose(got.high, [2.5, 3.5])
    assert got.runs.tolist() == [3, 2]
    assert curves.band(epoch, np.full(6, np.nan)) is None


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([0.25] * 4, 4.0), ([1.0, 0.0, 0.0], 1.0), ([0.5, 0.25, 0.25], 2**1.5), ([2.0, 2.0], 2.0)],
)
def test_effective_number(weights: list[float], expected: float) -> None:
    assert curves.effective_number(np.array(weights)) == pytest.approx(expected)


def test_effective_number_of_no_weight_is_undefined() -> None:
    assert np.isnan(curves.effective_number(np.zeros(3)))


def test_risk_ranks_are_scipys_within_each_run() -> None:
    rng = np.random.default_rng(0)
    risk, run = np.round(rng.normal(size=20), 0), np.repeat([0, 1], 10)
    got = curves.risk_rank(risk, run)
    for r in (0, 1):
        np.testing.assert_allclose(got[run == r], (stats.rankdata(risk[run == r]) - 1) / 9)
    assert curves.risk_rank(np.array([3.0]), np.array([0])).tolist() == [0.5]
