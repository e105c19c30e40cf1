"""The generalised mean against its formula in float64, and where the formula fails."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.nn.generalised_mean import generalised_mean

R = (0.5, 1.0, 4.0, 8.0, math.inf)


def formula(p, r):
    p = p.astype(np.float64)
    return p.max(0) if math.isinf(r) else (p**r).mean(0) ** (1 / r)


@pytest.mark.parametrize("r", R)
def test_the_formula_over_real_pixels(r):
    rng = np.random.default_rng(1)
    p = rng.uniform(1e-3, 1, (2, 6, 5, 3)).astype(np.float32) ** 4
    mask = np.zeros((2, 6, 5), bool)
    mask[0, :4, :3], mask[1] = True, True
    want = np.stack([formula(p[i][mask[i]], r) for i in range(2)])
    p[~mask] = np.nan
    got = np.asarray(generalised_mean(jnp.asarray(np.where(mask[..., None], p, 0.7)), jnp.asarray(mask), r))
    np.testing.assert_allclose(got, np.log(want / (1 - want)), rtol=0, atol=2e-5)


@pytest.mark.parametrize("r", R)
def test_one_sure_pixel_of_many_keeps_its_digits(r):
    p = jnp.full((1, 64, 64, 1), 1e-6).at[0, 3, 4].set(0.9)
    want = formula(np.asarray(p).reshape(-1, 1), r)
    got = 1 / (1 + np.exp(-np.asarray(generalised_mean(p, jnp.ones((1, 64, 64), bool), r), np.float64)))
    np.testing.assert_allclose(got[0], want, rtol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-12])
def test_finite_at_the_ends(dtype, value):
    p, mask = jnp.full((1, 4, 4, 2), value, dtype), jnp.ones((1, 4, 4), bool)
    for r in R:
        for sign in (1.0, -1.0):
            loss, gradient = jax.value_and_grad(
                lambda v, r=r, sign=sign: jax.nn.softplus(sign * generalised_mean(v, mask, r)).sum()
            )(p)
            assert np.isfinite(loss)
            assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_sure_and_wrong_maps_still_learn_where_the_complement_is_known():
    mask = jnp.ones((1, 4, 4), bool)

    def loss(z, r):
        return jax.nn.softplus(generalised_mean(jax.nn.sigmoid(z), mask, r, jax.nn.sigmoid(-z))).sum()

    for r in (1.0, 4.0, math.inf):
        # -log(1 - P) of equal pixels is about their logit: all gradients together are 1
        gradient = jax.grad(loss)(jnp.full((1, 4, 4, 1), 40.0), r)
        np.testing.assert_allclose(gradient.sum(), 1, rtol=1e-4)
        gradient = jax.grad(loss)(jnp.full((1, 4, 4, 1), -40.0), r)
        assert np.isfinite(gradient).all()
        assert gradient.sum() > 0


def test_a_filler_gives_zero():
    p = jnp.full((1, 3, 3, 1), 0.2)
    value, gradient = jax.value_and_grad(lambda v: generalised_mean(v, jnp.zeros((1, 3, 3), bool), 4.0).sum())(p)
    assert value == 0
    assert (gradient == 0).all()


def test_even_odds_have_the_whole_gradient():
    """A fresh network's probabilities are 0.5, where the logarithm changes its form."""
    mask = jnp.ones((1, 2, 2), bool)
    gradient = jax.grad(lambda z: generalised_mean(jax.nn.sigmoid(z), mask, 4.0, jax.nn.sigmoid(-z)).sum())
    np.testing.assert_allclose(gradient(jnp.zeros((1, 2, 2, 1))), 0.25, rtol=1e-6)
