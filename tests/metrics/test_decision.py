"""Net benefit by hand and by counting; cuts chosen for a sensitivity."""

import math

import numpy as np
import pytest

from milkit.metrics import net_benefit, net_benefit_of_treating_all, threshold_at_sensitivity, why


def test_net_benefit_by_hand():
    # at 0.2 four are treated (two of them positive): 2/5 - 2/5 * 1/4; at 0.5 two, one positive: 1/5 - 1/5 * 1
    y, p = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.2, 0.6, 0.3, 0.1])
    assert net_benefit(y, p, np.array([0.2, 0.5])) == pytest.approx([0.3, 0.0])
    # all: 0.4 - 0.6 * odds
    assert net_benefit_of_treating_all(y, np.array([0.2, 0.5])) == pytest.approx([0.25, -0.2])


def test_net_benefit_is_what_counting_gives():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 50), np.round(rng.random(50), 2)
    weight = rng.integers(0, 3, (7, 50)).astype(float)
    found = net_benefit(y, p, weight=weight)
    assert found.shape == (7, 99)
    for d in range(7):
        again = np.repeat(np.arange(50), weight[d].astype(int))
        for k in (0, 24, 49, 98):
            t = (k + 1) / 100
            called = p[again] >= t
            counted = (called & (y[again] == 1)).sum() - (called & (y[again] == 0)).sum() * t / (1 - t)
            assert found[d, k] == pytest.approx(counted / len(again))


def test_a_perfect_model_gains_the_prevalence_and_a_useless_draw_nothing():
    y = np.array([1.0, 0, 0, 1])
    assert net_benefit(y, y, np.array([0.1, 0.9])) == pytest.approx([0.5, 0.5])
    assert np.isnan(net_benefit(y, y, np.array([0.1]), np.zeros((1, 4)))).all()
    assert np.isnan(net_benefit(y, np.array([0.1, np.nan, 0.2, 0.3]), np.array([0.1]))).all()


@pytest.mark.parametrize(
    ("wanted", "threshold"),
    [
        (1.0, 0.25),  # all four positives: between 0.3 and the negative at 0.2
        (0.75, 0.45),  # three: between 0.5 and 0.4
        (0.76, 0.25),
        (0.5, 0.6),
        (0.01, 0.85),  # one at least
    ],
)
def test_a_sensitivity_is_reached_with_the_fewest_false_positives(wanted, threshold):
    y = np.array([1, 1, 0, 1, 0, 1, 0])
    score = np.array([0.9, 0.7, 0.8, 0.5, 0.4, 0.3, 0.2])
    found = threshold_at_sensitivity(y, score, wanted)
    assert found == pytest.approx(threshold)
    assert ((score >= found) & (y == 1)).sum() / 4 >= wanted


def test_where_the_lowest_is_positive_everybody_is_called():
    assert threshold_at_sensitivity(np.array([1, 0]), np.array([0.2, 0.7]), 1.0) == 0.2
    found = threshold_at_sensitivity(np.array([1, 1]), np.array([0.2, 0.7]), 1.0)
    assert math.isnan(found)
    assert "one class" in why(found)
