"""The exact posterior of ShiftedMean: against brute force, a closed form, and the bags it was derived for."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from milkit.errors import ConfigError
from milkit.testing.draws import Sizes
from milkit.testing.shifted_mean import SHIFTED, ShiftedMean, log_odds


def brute_force(x, delta, run, features, prior):
    """Bayes' rule with every density of every instance multiplied out."""
    n, d = x.shape
    without = norm.pdf(x).prod()
    ways = list(product(range(n - run + 1), features))
    with_shift = 0.0
    for start, feature in ways:
        mean = np.zeros((n, d))
        mean[start : start + run, feature] = delta
        with_shift += norm.pdf(x, mean).prod() / len(ways)
    return np.log(prior * with_shift) - np.log((1 - prior) * without)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("n", "run"), [(3, 3), (6, 3), (5, 1), (4, 2)])
def test_log_odds_by_brute_force(n, run, known):
    x = np.random.default_rng(n).normal(size=(n, 3)) + 0.7
    for delta, prior in ((0.5, 0.5), (2.0, 0.3)):
        expected = brute_force(x, delta, run, [1] if known else [0, 1, 2], prior)
        found = log_odds(x, delta, run, 1 if known else None, prior)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_bags_are_made_as_stated():
    bags = ShiftedMean(3.0, features=4).draw(0, Sizes(2000, 4, 4)).train
    lengths = np.array([len(x) for x in bags.x])
    assert (lengths.min(), lengths.max()) == (15, 45)
    np.testing.assert_allclose(lengths.mean(), 30, atol=4 * 8.94 / np.sqrt(2000))  # SD of a uniform on 15..45
    starts = []
    for x, kinds, label in zip(bags.x, bags.kinds, bags.labels, strict=True):
        assert x.dtype == np.float32
        where = np.flatnonzero(kinds == SHIFTED)
        assert len(where) == 3 * label
        if label:
            assert where.tolist() == list(range(where[0], where[0] + 3))  # neighbours
            starts.append(where[0] / (len(x) - 3))
    np.testing.assert_allclose(np.mean(starts), 0.5, atol=4 * 0.29 / np.sqrt(1000))  # every place equally likely
    x, kinds = np.concatenate(bags.x), np.concatenate(bags.kinds)
    np.testing.assert_allclose(x[kinds == SHIFTED].mean(0), [3, 0, 0, 0], atol=4 / np.sqrt(3000))
    np.testing.assert_allclose(x[kinds != SHIFTED].std(0), 1, rtol=0.02)


def test_with_one_place_for_the_run_auroc_has_a_closed_form():
    """The odds rise with a sum whose classes lie Delta sqrt(3) SDs apart: AUROC is Phi(Delta sqrt(3) / sqrt(2))."""
    bags = ShiftedMean(0.5, features=1, shortest=3, longest=3).draw(0, Sizes(4, 4, 20_000)).test
    odds = [log_odds(x, 0.5) for x in bags.x]
    expected = norm.cdf(0.5 * np.sqrt(3) / np.sqrt(2))
    assert abs(roc_auc_score(bags.labels, odds) - expected) < 4 * 0.0035  # about 4 standard errors at 20,000 bags


def test_the_posterior_is_calibrated_on_the_bags_it_was_derived_for():
    bags = ShiftedMean(1.5, features=1).draw(1, Sizes(4, 4, 20_000)).test
    p = 1 / (1 + np.exp(-np.array([log_odds(x, 1.5) for x in bags.x])))
    for part in np.array_split(np.argsort(p), 5):
        error = np.sqrt((p[part] * (1 - p[part])).sum()) / len(part)
        assert abs(bags.labels[part].mean() - p[part].mean()) < 4 * error


def test_nothing_underflows_and_not_knowing_the_feature_costs():
    bags = ShiftedMean(2.0).draw(0, Sizes(4, 4, 200)).test
    known = [log_odds(x, 2.0) for x in bags.x]
    unknown = [log_odds(x, 2.0, feature=None) for x in bags.x]
    assert np.isfinite(known).all()
    assert np.isfinite(unknown).all()  # 45 x 768 densities of about .24 multiply to 1e-21,000
    assert roc_auc_score(bags.labels, known) > roc_auc_score(bags.labels, unknown) + 0.1


def test_a_run_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="must fit the shortest bag"):
        ShiftedMean(1.0, run=5, shortest=4)
