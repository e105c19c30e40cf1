"""Neighbours on the device against scipy's tree on the host, and what is read off them against loops in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.bag import Bag
from milkit.data.neighbours import Nearest
from milkit.data.neighbours import neighbours_of as on_the_host
from milkit.errors import DataError
from milkit.nn.graph import (
    as_graph,
    attend,
    neighbour_max,
    neighbour_mean,
    neighbour_softmax,
    neighbour_sum,
    neighbours_of,
)
from milkit.types import Bags

LENGTHS = (23, 1, 5, 40)


def tissue(n, seed):
    """Tiles on a grid with holes, in a random order, far from the origin."""
    cells = np.random.default_rng(seed).permutation(64)[:n]
    return (np.stack([cells % 8, cells // 8], 1) * 256 + 40_000).astype(np.float32)


def some_bags(places, extra=3):
    n = max(map(len, places)) + extra
    xy, mask = np.full((len(places), n, 2), 40_100, np.float32), np.zeros((len(places), n), bool)
    for i, place in enumerate(places):
        xy[i, : len(place)], mask[i, : len(place)] = place, True
    return Bags(jnp.zeros((*mask.shape, 1)), jnp.asarray(mask), jnp.asarray(xy))


@pytest.mark.parametrize(("count", "radius"), [(8, None), (4, 256.0), (3, 500.0), (50, None)])
@pytest.mark.parametrize("scattered", [False, True], ids=["grid", "scattered"])
def test_the_nearest_are_those_of_the_tree(count, radius, scattered):
    places = [tissue(n, i) for i, n in enumerate(LENGTHS)]
    if scattered:
        places = [np.random.default_rng(len(p)).uniform(0, 900, p.shape).astype(np.float32) for p in places]
    bags = some_bags(places)
    index, exists = neighbours_of(bags, count, radius)
    assert index.shape == (*bags.mask.shape, count)
    for i, place in enumerate(places):
        want = on_the_host(Bag("a", np.zeros((len(place), 1), np.float32), place), Nearest(count, radius))
        assert (np.asarray(index)[i, : len(place)] == want).all()
        assert (np.asarray(exists)[i, : len(place)] == (want >= 0)).all()
        assert (np.asarray(index)[i, len(place) :] == -1).all()
        assert not np.asarray(exists)[i, len(place) :].any()


@pytest.mark.parametrize("at_once", [1, 4 * 43 * 7, 4 * 43 * 42])
def test_blocks_change_nothing(at_once):
    bags = some_bags([tissue(n, i) for i, n in enumerate(LENGTHS)])
    whole, blocks = neighbours_of(bags, 8), neighbours_of(bags, 8, at_once=at_once)
    assert all((a == b).all() for a, b in zip(whole, blocks, strict=True))


def test_ties_do_not_depend_on_the_order_of_instances():
    place = tissue(40, 0)
    order = np.random.default_rng(0).permutation(40)
    index = np.asarray(neighbours_of(some_bags([place]), 3)[0])[0, :40]
    moved = np.asarray(neighbours_of(some_bags([place[order]]), 3)[0])[0, :40]
    assert (order[moved] == index[order]).all()


def test_memory_is_that_of_a_block():
    """No array of the program is as large as all pairs."""
    n = 4000
    xy, mask = jnp.zeros((1, n, 2)), jnp.ones((1, n), bool)
    compiled = jax.jit(lambda xy: neighbours_of(Bags(xy, mask, xy), 8, at_once=1 << 16)).lower(xy).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * n / 10


def test_given_neighbours_are_taken_and_padding_is_none():
    bags = some_bags([np.zeros((3, 2), np.float32)], extra=2)
    given = jnp.asarray([[[1, -1], [0, 2], [3, 4], [0, 1], [2, -1]]])
    index, exists = neighbours_of(dataclasses.replace(bags, neighbours=given, coords_um=None), 8)
    assert index.tolist() == [[[1, -1], [0, 2], [-1, -1], [-1, -1], [-1, -1]]]
    assert exists.tolist() == (index >= 0).tolist()


def test_without_places_there_is_no_graph():
    with pytest.raises(DataError, match=r"PatchGCN works on a graph.*coords_um.*docs/data"):
        neighbours_of(Bags(jnp.zeros((1, 2, 1)), jnp.ones((1, 2), bool)), 8, model="PatchGCN")


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(1)
    mask = np.arange(9) < np.array([[9], [5], [0]])
    given = np.maximum(rng.integers(-3, 9, (3, 9, 4)), -1)
    given[0, 2] = -1
    index, exists = as_graph(jnp.asarray(given), jnp.asarray(mask))
    return rng.normal(size=(3, 9, 5)).astype(np.float32), index, exists


def by_hand(h, index, exists, read):
    """`read` of the list of neighbours of each instance; 0 where it is empty."""
    result = np.zeros(h.shape)
    for i, j in np.ndindex(*index.shape[:2]):
        found = [h[i, m] for m, e in zip(index[i, j], exists[i, j], strict=True) if e]
        result[i, j] = read(np.asarray(found, np.float64)) if found else 0
    return result


def test_sum_mean_and_maximum(graph):
    h, index, exists = graph
    reads = ((neighbour_sum, np.sum), (neighbour_mean, np.mean), (neighbour_max, np.max))
    for function, read in reads:
        want = by_hand(h, np.asarray(index), np.asarray(exists), lambda found, read=read: read(found, axis=0))
        np.testing.assert_allclose(function(jnp.asarray(h), index, exists), want, atol=1e-5)


def test_weighted_sum_and_its_gradients_are_those_of_the_matrix(graph):
    h, index, exists = graph
    weight = jnp.asarray(np.random.default_rng(2).normal(size=index.shape), jnp.float32)
    turn = jnp.asarray(np.random.default_rng(3).normal(size=h.shape), jnp.float32)

    def dense(h, weight):
        hot = jax.nn.one_hot(index, h.shape[1]) * jnp.where(exists, weight, 0)[..., None]
        return (jnp.einsum("bnjm,bme->bne", hot, h, precision="highest") * turn).sum()

    def sparse(h, weight):
        return (neighbour_sum(h, index, exists, weight) * turn).sum()

    for got, want in zip(*(jax.jit(jax.grad(f, (0, 1)))(jnp.asarray(h), weight) for f in (sparse, dense)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_attention_sums_to_one_over_what_exists(graph):
    _, index, exists = graph
    scores = jnp.asarray(np.random.default_rng(4).normal(size=(*index.shape, 2)), jnp.float32)
    weight = np.asarray(attend(scores, exists))
    assert (weight[~np.asarray(exists)] == 0).all()
    np.testing.assert_allclose(weight.sum(2), np.asarray(exists).any(2)[..., None] * np.ones(2), atol=1e-6)
    i, j = np.argwhere(np.asarray(exists).sum(2) > 1)[0]
    there = np.asarray(exists)[i, j]
    e = np.exp(np.asarray(scores, np.float64)[i, j, there])
    np.testing.assert_allclose(weight[i, j, there], e / e.sum(0), rtol=1e-5)


def test_softmax_of_the_values_themselves(graph):
    """Values, also steep ones, and the gradients against finite differences of the same in float64."""
    h, index, exists = graph
    hand = (np.asarray(index), np.asarray(exists))

    def mean(found, sharp):
        weight = np.exp(sharp * (found - found.max(0)))
        return (weight * found).sum(0) / weight.sum(0)

    for sharp in (0.0, 1.5, 200.0):
        got = neighbour_softmax(jnp.asarray(h), jnp.array([sharp]), index, exists)
        np.testing.assert_allclose(got, by_hand(h, *hand, lambda found, s=sharp: mean(found, s)), atol=1e-5)

    turn = np.random.default_rng(3).normal(size=h.shape)

    def value(h, sharp):
        return (neighbour_softmax(h, sharp, index, exists) * turn).sum()

    grad_h, grad_sharp = jax.jit(jax.grad(value, (0, 1)))(jnp.asarray(h), jnp.array([1.5]))

    def exact(h, sharp):
        return (by_hand(h, *hand, lambda found: mean(found, sharp)) * turn).sum()

    step = 1e-5
    wide = h.astype(np.float64)
    slope = (exact(wide, 1.5 + step) - exact(wide, 1.5 - step)) / (2 * step)
    np.testing.assert_allclose(grad_sharp[0], slope, rtol=1e-4)
    for place in ((0, 0, 0), (0, 7, 3), (1, 2, 1)):
        moved = np.zeros(h.shape)
        moved[place] = step
        slope = (exact(wide + moved, 1.5) - exact(wide - moved, 1.5)) / (2 * step)
        np.testing.assert_allclose(grad_h[place], slope, rtol=1e-4, atol=1e-6)
