"""1.5-entmax against bisection and finite differences, and the selector by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.optimize import brentq

from milkit.nn.entmax import masked_entmax
from milkit.nn.spatial_sparse import SpatialSparseSelector, highest


def by_bisection(scores):
    """The threshold at which max(s / 2 - t, 0)^2 sums to 1."""
    half = scores / 2
    t = brentq(lambda t: (np.maximum(half - t, 0) ** 2).sum() - 1, half.max() - 1, half.max(), xtol=1e-15)
    return np.maximum(half - t, 0) ** 2


def test_entmax_is_what_bisection_finds():
    rng = np.random.default_rng(0)
    bags = [
        rng.normal(size=50) * 3,
        rng.normal(size=7) + 1e4,
        np.zeros(31),
        np.array([-5.0]),
        rng.normal(size=50) * 0.1,
    ]
    n = max(map(len, bags)) + 2
    with jax.enable_x64(True):
        scores = jnp.asarray(np.stack([np.pad(b, (0, n - len(b)), constant_values=1e6) for b in bags] + [np.ones(n)]))
        mask = jnp.asarray(np.arange(n) < np.array([len(b) for b in bags] + [0])[:, None])
        p = np.asarray(jax.jit(masked_entmax)(scores[..., None], mask))[..., 0]
    for found, bag in zip(p, bags, strict=False):
        np.testing.assert_allclose(found[: len(bag)], by_bisection(bag), atol=1e-12)
        assert not found[len(bag) :].any()
    assert 0 < (p[0] > 0).sum() < 50
    assert not p[-1].any()


def test_entmax_by_hand():
    # halves 0, -1/2 and -2: with both of the first, t = -(1/2 + sqrt(7/4)) / 2 keeps them; the third gets nothing
    t = -(0.5 + 1.75**0.5) / 2
    p = masked_entmax(jnp.asarray([[[0.0], [-1], [-4]]]), jnp.ones((1, 3), bool))[0, :, 0]
    np.testing.assert_allclose(p, [t**2, (-0.5 - t) ** 2, 0], rtol=1e-6)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)


def test_the_gradient_of_entmax_is_that_of_finite_differences():
    rng = np.random.default_rng(1)
    scores, up = rng.normal(size=9), rng.normal(size=9)
    with jax.enable_x64(True):
        mask = jnp.ones((1, 9), bool)
        value = jax.jit(jax.grad(lambda s: (masked_entmax(s[None, :, None], mask)[0, :, 0] * up).sum()))
        found = value(jnp.asarray(scores))
    step = 1e-6 * np.eye(9)
    expected = [((by_bisection(scores + e) - by_bisection(scores - e)) * up).sum() / 2e-6 for e in step]
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("n", [1, 100_000])
def test_equal_scores_share_alike_however_many(n):
    p = jax.jit(masked_entmax)(jnp.full((1, n, 1), 3.0), jnp.ones((1, n), bool))
    np.testing.assert_allclose(p, 1 / n, rtol=1e-4)


def test_the_highest_are_chosen_among_real_instances():
    scores = jnp.asarray([[0.1, 0.9, 0.5, 7.0], [0.3, -9.0, 8.0, 8.0]])
    mask = jnp.asarray([[True, True, True, False], [True, False, False, False]])
    assert highest(scores, mask, 2).tolist() == [[False, True, True, False], [True, False, False, False]]
    assert highest(scores, mask, 9).tolist() == mask.tolist()


@pytest.mark.parametrize("select", ["entmax", "topk"])
def test_the_mean_of_what_goes_on_is_the_sum_by_share(select):
    h = jnp.asarray(np.random.default_rng(2).normal(size=(2, 6, 3)), jnp.float32)
    mask = jnp.asarray([[True] * 6, [True] * 2 + [False] * 4])
    selector = SpatialSparseSelector(3, 4, rngs=nnx.Rngs(0), select=select, k=3 * (select == "topk"))
    selector.score.kernel[...] = 8 * selector.score.kernel[...]  # apart enough that entmax leaves some out
    found = nnx.jit(selector)(h, mask)
    scores = np.tanh(h @ selector.hidden.kernel[...] + selector.hidden.bias[...]) @ selector.score.kernel[...]
    for i, n in enumerate((6, 2)):
        own = np.asarray(scores)[i, :n, 0]
        if select == "entmax":
            share = by_bisection(own)
        else:
            share = np.where(own >= np.sort(own)[-min(3, n)], np.exp(own), 0)
            share = share / share.sum()
        np.testing.assert_allclose(found.share[i, :n, 0], share, atol=1e-5)
        assert (found.kept[i, :n] == (share > 0)).all()
        assert not found.kept[i, n:].any()
        mean = np.asarray(found.h)[i][np.asarray(found.kept)[i]].mean(0)
        np.testing.assert_allclose(mean, share @ np.asarray(h)[i, :n], rtol=1e-4, atol=1e-6)
    assert 0 < found.kept[0].sum() < 6
