"""Running k-means by hand: who moves, how far, and who does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.nn.kmeans import RunningKMeans, nearest, squared_distances


def of(centres, count):
    found = RunningKMeans(len(centres), len(centres[0]), rngs=nnx.Rngs(0))
    found.centres[...], found.count[...] = jnp.asarray(centres), jnp.asarray(count)
    return found


def test_a_centre_is_the_mean_of_what_it_was_nearest_to():
    found = of([[0.0, 0.0], [10.0, 0.0]], [2.0, 1.0])
    x = jnp.asarray([[[3.0, 0.0], [9.0, 3.0]], [[11.0, 0.0], [500.0, 500.0]]])
    mask = jnp.asarray([[True, True], [True, False]])
    cluster = found(x, mask, deterministic=False, rngs=nnx.Rngs(0))
    assert cluster[0].tolist() == [0, 1]
    assert cluster[1, 0] == 1
    np.testing.assert_allclose(found.centres[...], [[1, 0], [10, 1]], rtol=1e-6)  # (2*0 + 3)/3; (10 + 9 + 11)/3, 3/3
    assert found.count[...].tolist() == [3, 3]


def test_a_batch_of_fillers_and_evaluation_move_nothing():
    for deterministic, mask in ((False, jnp.zeros((2, 2), bool)), (True, jnp.ones((2, 2), bool))):
        found = of([[0.0, 0.0], [10.0, 0.0]], [0.0, 1.0])
        found(jnp.ones((2, 2, 2)), mask, deterministic=deterministic, rngs=nnx.Rngs(0))
        np.testing.assert_array_equal(found.centres[...], [[0, 0], [10, 0]])
        assert found.count[...].tolist() == [0, 1]


def test_an_unused_centre_goes_where_instances_are_far_from_the_others():
    """Of five instances four lie on the centre in use, so only the fifth can be drawn, whatever the key."""
    x, mask = jnp.asarray([[[1.0], [1.0], [1.0], [1.0], [7.0]]]), jnp.ones((1, 5), bool)
    for seed in range(5):
        found = of([[1.0], [-90.0]], [3.0, 0.0])
        found(x, mask, deterministic=False, rngs=nnx.Rngs(seed))
        np.testing.assert_allclose(found.centres[...], [[1.0], [7.0]], rtol=1e-6)
        assert found.count[...].tolist() == [7, 1]


def test_more_centres_than_instances_wait_for_more():
    found = of([[50.0], [60.0], [70.0]], [0.0, 0.0, 0.0])
    found(jnp.asarray([[[1.0], [4.0]]]), jnp.ones((1, 2), bool), deterministic=False, rngs=nnx.Rngs(0))
    assert sorted(found.count[...].tolist()) == [0, 1, 1]
    assert set(np.asarray(found.centres[...])[np.asarray(found.count[...]) > 0, 0].tolist()) == {1.0, 4.0}


def test_distances_by_hand():
    x, centres = jnp.asarray([[3.0, 4.0], [0.0, 1.0]]), jnp.asarray([[0.0, 0.0], [3.0, 5.0]])
    np.testing.assert_allclose(squared_distances(x, centres), [[25, 1], [1, 25]], rtol=1e-6)
    assert nearest(x, centres).tolist() == [1, 0]
    assert nearest(jnp.zeros((1, 2)), jnp.zeros((3, 2))).tolist() == [0]


def test_no_draws_are_refused():
    with pytest.raises(ConfigError, match="first centres"):
        of([[0.0]], [0.0])(jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool), deterministic=False)


def test_no_gradient_goes_into_the_clusters():
    found = of([[0.0], [2.0]], [1.0, 1.0])
    graph, state = nnx.split(found)

    def moved(x):
        module = nnx.merge(graph, state, copy=True)
        module(x, jnp.ones((1, 2), bool), deterministic=False, rngs=nnx.Rngs(0))
        return module.centres[...].sum()

    assert (jax.grad(moved)(jnp.asarray([[[0.5], [3.0]]])) == 0).all()
