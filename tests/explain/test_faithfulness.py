"""Deletion and insertion, on a model whose answers can be counted: the share of points that are still there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.errors import DataError
from milkit.explain import deletion, insertion
from milkit.explain.faithfulness import part, ranks
from milkit.types import Bags

POINTS = [np.array([[8.0], [4.0], [2.0], [1.0]], np.float32), np.array([[5.0], [5.0]], np.float32)]
BAGS = Bags.of(POINTS)


def share_there(bags):
    """Sum of what is there over the sum of all."""
    return jnp.where(bags.mask, bags.x[..., 0], 0).sum(1) / jnp.array([15.0, 10.0])


def test_curves_by_hand():
    quarters = (0.0, 0.25, 0.5, 0.75, 1.0)
    relevance = np.where(BAGS.mask, BAGS.x[..., 0], 99.0)  # padding's relevance is nobody's
    gone = deletion(share_there, BAGS, relevance, shares=quarters)
    np.testing.assert_allclose(gone.value[0], [1, 7 / 15, 3 / 15, 1 / 15, 1 / 15], rtol=1e-6)  # the last one stays
    np.testing.assert_allclose(gone.value[1], [1, 0.5, 0.5, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(gone.area[0], (1 / 2 + 7 / 15 + 3 / 15 + 1 / 15 + 1 / 30) / 4, rtol=1e-6)
    come = insertion(share_there, BAGS, relevance, shares=quarters)
    np.testing.assert_allclose(come.value[0], [8 / 15, 8 / 15, 12 / 15, 14 / 15, 1], rtol=1e-6)
    np.testing.assert_allclose(come.value[1], [0.5, 0.5, 0.5, 1, 1], rtol=1e-6)


def test_what_is_faithful_beats_random_orders_and_what_is_turned_round_loses_to_them():
    rng = np.random.default_rng(0)
    bags = Bags.of([rng.exponential(size=(30, 1)).astype(np.float32) for _ in range(4)])
    total = bags.x[..., 0].sum(1)

    def there(b):
        return jnp.where(b.mask, b.x[..., 0], 0).sum(1) / total

    true, false = bags.x[..., 0], -bags.x[..., 0]
    gone = deletion(there, bags, true, orders=20)
    assert (gone.area < gone.random_area - 0.1).all()
    assert (deletion(there, bags, false).area > gone.random_area + 0.1).all()
    come = insertion(there, bags, true, orders=20)
    assert (come.area > come.random_area + 0.1).all()
    np.testing.assert_allclose(gone.random_area, 0.5, atol=0.1)  # a random order takes shares in proportion
    again = deletion(there, bags, true, orders=20, key=jax.random.key(0))
    assert (again.random == gone.random).all()


def test_equal_relevance_goes_in_the_bags_order_and_padding_last():
    mask = jnp.array([[True, True, False, True]])
    np.testing.assert_array_equal(ranks(jnp.array([[1.0, 1.0, 9.0, 2.0]]), mask), [[1, 2, 3, 0]])


@pytest.mark.parametrize("share", [0.05, 0.15, 0.35, 0.55, 0.85])
def test_shares_are_of_the_bags_own_instances(share):
    mask = jnp.arange(40) < 20
    rank = jnp.arange(40)[None]
    assert int(part(mask[None], rank, share, leaving=True).sum()) == 20 - round(20 * share)
    assert int(part(mask[None], rank, share, leaving=False).sum()) == round(20 * share)


@pytest.mark.parametrize(
    ("relevance", "shares", "said"),
    [
        (np.full((2, 4), np.nan), (0.0, 1.0), "not finite"),
        (np.zeros((2, 3)), (0.0, 1.0), "shape"),
        (np.zeros((2, 4)), (0.0, 0.5), "rise from 0 to 1"),
        (np.zeros((2, 4)), (0.0, 0.6, 0.5, 1.0), "rise from 0 to 1"),
    ],
)
def test_what_cannot_be_followed_is_refused(relevance, shares, said):
    with pytest.raises(DataError, match=said):
        deletion(share_there, BAGS, relevance, shares=shares)
