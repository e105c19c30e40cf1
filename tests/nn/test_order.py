"""In which order instances are read: values by hand, and by plain lists."""

import jax.numpy as jnp
import numpy as np
import pytest

from milkit.nn.order import as_given, backwards, strided


def test_real_instances_without_gaps_and_back():
    mask = jnp.asarray([[False, True, False, True], [True, True, True, False], [False] * 4])
    order = as_given(mask)
    assert order.rows.tolist() == [[1, 3, -1, -1], [0, 1, 2, -1], [-1] * 4]
    assert order.places.tolist() == [[-1, 0, -1, 1], [0, 1, 2, -1], [-1] * 4]
    x = jnp.arange(12.0).reshape(3, 4, 1)
    assert order.read(x)[..., 0].tolist() == [[1, 3, 0, 0], [4, 5, 6, 0], [0] * 4]
    assert order.undo(order.read(x))[..., 0].tolist() == [[0, 1, 0, 3], [4, 5, 6, 0], [0] * 4]


def test_backwards_starts_at_each_bags_own_end():
    order = backwards(jnp.asarray([3, 1, 0]), 4)
    assert order.rows.tolist() == [[2, 1, 0, -1], [0, -1, -1, -1], [-1] * 4]
    assert order.places.tolist() == order.rows.tolist()


def test_strided_by_hand():
    order = strided(jnp.asarray([5]), 6, 2)
    assert order.rows.tolist() == [[0, 2, 4, 1, 3, -1]]
    assert order.places.tolist() == [[0, 3, 1, 4, 2, -1]]
    order = strided(jnp.asarray([5]), 6, 2, gaps=True)
    assert order.rows.tolist() == [[0, 2, 4, 1, 3, -1, -1]]
    order = strided(jnp.asarray([4]), 6, 3, gaps=True)
    assert order.rows.tolist() == [[0, 3, 1, -1, 2, -1, -1, -1]]
    assert order.places.tolist() == [[0, 2, 4, 1, -1, -1]]


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("rate", [1, 3, 5])
def test_strided_is_the_transpose_of_each_bags_own_table(rate, gaps):
    counts, length = np.arange(18), 17
    order = strided(jnp.asarray(counts), length, rate, gaps=gaps)
    for n, rows, places in zip(counts, np.asarray(order.rows), np.asarray(order.places), strict=True):
        table = np.full(-(-n // rate) * rate, -1)
        table[:n] = np.arange(n)
        want = table.reshape(-1, rate).T.ravel()
        want = want if gaps else want[want >= 0]
        assert rows[: len(want)].tolist() == want.tolist()
        assert (rows[len(want) :] == -1).all()
        assert [want.tolist().index(i) for i in range(n)] == places[:n].tolist()
        assert (places[n:] == -1).all()
