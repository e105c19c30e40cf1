"""The Sm operator against dense matrices in numpy, float64, and its graph against scipy's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.spatial.distance import cdist

from milkit.errors import DataError
from milkit.nn.smooth import Sm, adjacent, edges_of
from milkit.types import Bags

LENGTHS, EXTRA = (11, 1, 29), 4


@pytest.fixture
def bags():
    """Three bags of tiles on a grid with holes, shuffled, one tile of the last far from all others; float64."""
    rng = np.random.default_rng(3)
    shape = (len(LENGTHS), max(LENGTHS) + EXTRA)
    x, mask, xy = rng.normal(size=(*shape, 3)), np.zeros(shape, bool), np.full((*shape, 2), 512.0, np.float32)
    for i, n in enumerate(LENGTHS):
        cells = rng.permutation(36)[:n]
        mask[i, :n], xy[i, :n] = True, np.stack([cells % 6, cells // 6], 1) * 256
    xy[2, 5] = 50_000
    with jax.enable_x64(True):
        yield Bags(jnp.asarray(x), jnp.asarray(mask), jnp.asarray(xy))


def matrices(bags, *, keep_isolated):
    """Normalised adjacency of touching tiles, one bag after the other, unpadded."""
    for i, n in enumerate(LENGTHS):
        apart = cdist(bags.coords_um[i, :n], bags.coords_um[i, :n])
        a = ((apart < 400) & (apart > 0)).astype(float)
        degree = a.sum(1)
        a /= np.sqrt(np.outer(np.maximum(degree, 1), np.maximum(degree, 1)))
        yield i, n, a + np.diag(degree == 0) * keep_isolated


@pytest.mark.parametrize("keep_isolated", [True, False])
def test_the_graph_joins_touching_tiles(bags, keep_isolated):
    edges = edges_of(bags, 8, 256 * 1.5, model="M", keep_isolated=keep_isolated)
    found = jax.jit(adjacent)(jnp.broadcast_to(jnp.eye(bags.mask.shape[1]), (3, *[bags.mask.shape[1]] * 2)), edges)
    for i, n, a in matrices(bags, keep_isolated=keep_isolated):
        np.testing.assert_allclose(found[i, :n, :n], a, atol=1e-15)
        assert not found[i, n:].any()
        assert not found[i, :, n:].any()


def test_a_neighbour_must_be_mutual_and_is_never_oneself():
    neighbours = [[1, 2, -1], [0, 1, -1], [1, -1, -1], [0, -1, -1]]  # 0-1 is mutual; 0-2, 2-1, 3-0 are not; 1-1 is self
    bags = Bags(jnp.zeros((1, 4, 1)), jnp.ones((1, 4), bool), neighbours=jnp.asarray([neighbours]))
    edges = edges_of(bags, 8, None, model="M")
    assert edges.weight[0].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert edges.own[0].tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match="M works on a graph"):
        edges_of(dataclasses.replace(bags, neighbours=None), 8, None, model="M")


@pytest.mark.parametrize(
    ("mode", "compat", "gamma"),
    [
        ("approximate", "correct", -0.7),
        ("approximate", "authors", 2.0),
        ("exact", "correct", -0.7),
        ("exact", "correct", 60),
    ],
)
def test_values_and_gradients_are_those_of_dense_matrices(bags, mode, compat, gamma):
    steps, cotangent = 4, np.random.default_rng(5).normal(size=bags.x.shape)
    graph, state = nnx.split(Sm(mode=mode, steps=steps, compat=compat))
    garbage = jnp.where(bags.mask[..., None], bags.x, 1e6)
    edges = edges_of(bags, 8, 256 * 1.5, model="M", keep_isolated=compat == "correct")

    def value(f, coef):
        g = nnx.merge(graph, jax.tree.map(lambda _: coef, state))(f, bags.mask, edges)
        return (jnp.where(bags.mask[..., None], g, 0) * cotangent).sum(), g

    (grad_f, grad_coef), g = jax.jit(jax.grad(value, (0, 1), has_aux=True))(garbage, jnp.asarray(float(gamma)))
    size, slope = (abs(gamma), np.sign(gamma)) if compat == "correct" else (gamma, 1)
    total = 0.0
    for i, n, a in matrices(bags, keep_isolated=compat == "correct"):
        f, bar, eye = np.asarray(bags.x)[i, :n], cotangent[i, :n], np.eye(n)
        if mode == "exact":
            operator = np.linalg.inv(eye + size * (eye - a))
            by_gamma = -operator @ (eye - a) @ operator
        else:
            share = size / (1 + size) if compat == "correct" else 1 / (1 + size)
            powers = [np.linalg.matrix_power(a, k) for k in range(steps + 1)]
            operator = (1 - share) * sum(share**k * powers[k] for k in range(steps)) + share**steps * powers[steps]
            by_share = sum((k * share ** max(k - 1, 0) - (k + 1) * share**k) * powers[k] for k in range(steps))
            by_share = by_share + steps * share ** (steps - 1) * powers[steps]
            by_gamma = by_share / (1 + size) ** 2 * (1 if compat == "correct" else -1)
        np.testing.assert_allclose(g[i, :n], operator @ f, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(grad_f[i, :n], operator.T @ bar, rtol=1e-11, atol=1e-12)
        assert not grad_f[i, n:].any()
        total += (bar * (by_gamma @ f)).sum() * slope
    np.testing.assert_allclose(grad_coef, total, rtol=1e-9)


def test_many_steps_tend_to_the_exact_operator_and_an_isolated_tile_stays(bags):
    edges = edges_of(bags, 8, 256 * 1.5, model="M")
    exact, steps = (Sm(alpha=0.8, mode=mode, steps=200)(bags.x, bags.mask, edges) for mode in ("exact", "approximate"))
    np.testing.assert_allclose(steps, exact, atol=1e-13)
    np.testing.assert_allclose(exact[2, 5], bags.x[2, 5], rtol=1e-14)
    np.testing.assert_allclose(exact[1, 0], bags.x[1, 0], rtol=1e-14)


def test_a_long_bag_and_small_numbers_are_solved_to_rounding_in_float32():
    side = 40
    cells = np.arange(side * side)
    xy = jnp.asarray(np.stack([cells % side, cells // side], 1)[None] * 256.0, jnp.float32)
    f = np.random.default_rng(0).normal(size=(1, side * side, 1)).astype(np.float32)
    f = np.concatenate([f, f * 1e-30, 0 * f], -1)  # the second column's squares would be 0
    bags = Bags(jnp.asarray(f), jnp.ones((1, side * side), bool), xy)
    edges = edges_of(bags, 8, 400.0, model="M")
    g = nnx.jit(Sm(alpha=0.9, mode="exact"))(bags.x, bags.mask, edges)
    again = np.asarray(10 * g - 9 * adjacent(g, edges), np.float64)  # I + gamma (I - A), gamma = 9
    np.testing.assert_allclose(again / np.array([1, 1e-30, 1]), f / np.array([1, 1e-30, 1]), atol=2e-5)
