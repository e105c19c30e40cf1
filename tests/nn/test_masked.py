"""Pooling over real instances: values by hand or from scipy, then what must hold for any input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from milkit.nn import (
    gm_of_probabilities,
    lse_of_probabilities,
    masked_gm,
    masked_lse,
    masked_max,
    masked_mean,
    masked_sd,
    masked_softmax,
    masked_topk,
)

GARBAGE = 1e4
# two bags of one feature: (1, 2, 6) with two padding rows, (3) with four
X = jnp.array([[1.0, 2.0, 6.0, GARBAGE, -GARBAGE], [3.0, GARBAGE, GARBAGE, -GARBAGE, GARBAGE]])[..., None]
MASK = jnp.array([[True, True, True, False, False], [True, False, False, False, False]])

POOLS = {
    "mean": masked_mean,
    "max": masked_max,
    "sd": masked_sd,
    "lse": lambda x, m: masked_lse(x, m, 4.0),
    "gm": lambda x, m: masked_gm(jnp.abs(x), m, 4.0),
    "topk": lambda x, m: masked_topk(x, m, k=2),
    "fraction": lambda x, m: masked_topk(x, m, fraction=0.5),
    "gm_p": lambda x, m: gm_of_probabilities(x, m, 4.0),
    "lse_p": lambda x, m: lse_of_probabilities(x, m, 1.0),
}


def logit(p):
    return np.log(p) - np.log1p(-p)


def test_values_by_hand():
    assert masked_mean(X, MASK)[:, 0].tolist() == [3.0, 3.0]
    assert masked_max(X, MASK)[:, 0].tolist() == [6.0, 3.0]
    # deviations -2, -1, 3: squares 4 + 1 + 9 = 14, over 3
    np.testing.assert_allclose(masked_sd(X, MASK)[:, 0], [np.sqrt(14 / 3), 0.0], rtol=1e-6)
    assert masked_topk(X, MASK, k=2)[:, 0].tolist() == [4.0, 3.0]  # (6 + 2) / 2; only one there
    assert masked_topk(X, MASK, k=99)[:, 0].tolist() == [3.0, 3.0]
    # half of 3 instances, rounded up: 2
    assert masked_topk(X, MASK, fraction=0.5)[:, 0].tolist() == [4.0, 3.0]
    # r = 2: sqrt((1 + 4 + 36) / 3)
    np.testing.assert_allclose(masked_gm(X, MASK, 2.0)[:, 0], [np.sqrt(41 / 3), 3.0], rtol=1e-6)
    np.testing.assert_allclose(masked_gm(X, MASK, 1.0)[:, 0], [3.0, 3.0], rtol=1e-6)


def test_fraction_rounds_up_and_does_not_slip_by_floating_point():
    x = jnp.arange(30.0)[None, :, None]
    # 0.1 * 30 is 3.0000000000000004 in float64: three instances (29, 28, 27), not four
    assert masked_topk(x, jnp.ones((1, 30), bool), fraction=0.1)[0, 0] == 28.0
    assert masked_topk(x, jnp.ones((1, 30), bool), fraction=0.01)[0, 0] == 29.0
    assert masked_topk(x, jnp.ones((1, 30), bool), fraction=1.0)[0, 0] == 14.5


@pytest.mark.parametrize("r", [0.5, 1.0, 5.0])
def test_lse_against_scipy(r):
    values = np.array([1.0, 2.0, 6.0])
    expected = (special.logsumexp(r * values) - np.log(3)) / r
    np.testing.assert_allclose(masked_lse(X, MASK, r)[:, 0], [expected, 3.0], rtol=1e-6)


def test_lse_and_gm_do_not_overflow_and_go_from_mean_to_max():
    big = jnp.array([[[200.0], [100.0], [0.0]]])
    mask = jnp.ones((1, 3), bool)
    np.testing.assert_allclose(masked_lse(big, mask, 10.0), [[200.0 - np.log(3) / 10]], rtol=1e-6)
    # 200^40 overflows float32; (200^40 / 3)^(1/40) = 200 * 3^(-1/40), what is left of the 100 is 2^-40
    np.testing.assert_allclose(masked_gm(big, mask, 40.0), [[200 * 3 ** (-1 / 40)]], rtol=1e-6)
    np.testing.assert_allclose(masked_lse(big / 100, mask, 1e-3), [[1.0]], rtol=1e-3)


@pytest.mark.parametrize("r", [1.0, 4.0])
def test_gm_of_probabilities_against_float64(r):
    v = np.array([-3.0, 0.5, 2.0])
    expected = logit(np.mean(special.expit(v) ** r) ** (1 / r))
    got = gm_of_probabilities(jnp.asarray(v, jnp.float32)[None, :, None], jnp.ones((1, 3), bool), r)
    np.testing.assert_allclose(got, [[expected]], rtol=1e-5)


def test_lse_of_probabilities_against_float64():
    v = np.array([-3.0, 0.5, 2.0])
    expected = logit(np.log(np.mean(np.exp(special.expit(v)))))  # Wang et al.'s pooling, as they wrote it
    got = lse_of_probabilities(jnp.asarray(v, jnp.float32)[None, :, None], jnp.ones((1, 3), bool), 1.0)
    np.testing.assert_allclose(got, [[expected]], rtol=1e-5)


@pytest.mark.parametrize("v", [-60.0, -20.0, 20.0, 60.0])
@pytest.mark.parametrize("pool", ["gm_p", "lse_p"])
def test_pooling_equal_probabilities_gives_their_logit_far_out(pool, v):
    """sigmoid(20) is 1.0 in float32: the logit and its gradient must survive that."""
    x, mask = jnp.full((1, 4, 1), v), jnp.ones((1, 4), bool)
    np.testing.assert_allclose(POOLS[pool](x, mask), [[v]], rtol=1e-5)
    gradient = jax.grad(lambda x: POOLS[pool](x, mask).sum())(x)
    np.testing.assert_allclose(gradient, np.full((1, 4, 1), 0.25), rtol=1e-4)


def test_softmax_by_hand():
    scores = jnp.array([[0.0, np.log(3.0), 50.0], [1.0, 7.0, 9.0], [4.0, 5.0, 6.0]])[..., None]
    mask = jnp.array([[True, True, False], [True, False, False], [False, False, False]])
    np.testing.assert_allclose(masked_softmax(scores, mask)[..., 0], [[0.25, 0.75, 0], [1, 0, 0], [0, 0, 0]], rtol=1e-6)


def test_max_shares_the_gradient_between_ties():
    x = jnp.array([[[2.0], [2.0], [1.0], [2.0]]])
    gradient = jax.grad(lambda x: masked_max(x, jnp.array([[True, True, True, False]])).sum())(x)
    assert gradient[0, :, 0].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_gm_gradient_at_zero_is_finite_and_right_elsewhere():
    mask = jnp.ones((1, 2), bool)
    gradient = jax.grad(lambda x: masked_gm(x, mask, 4.0).sum())
    assert gradient(jnp.zeros((1, 2, 1))).tolist() == [[[0.0], [0.0]]]
    # d/dx1 ((x1^4 + x2^4)/2)^(1/4) at (1, 0) is 2^(-1/4); at 0 the other is flat
    np.testing.assert_allclose(gradient(jnp.array([[[1.0], [0.0]]])), [[[2**-0.25], [0.0]]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pool", [*POOLS, "softmax"])
@pytest.mark.parametrize("fill", [0.0, GARBAGE])
def test_all_padding_gives_zero_and_padding_gets_no_gradient(pool, fill):
    function = masked_softmax if pool == "softmax" else POOLS[pool]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 2)).astype(np.float32)
    mask = np.arange(5) < np.array([[5], [2], [0]])
    x = jnp.asarray(np.where(mask[..., None], x, fill))
    out = function(x, jnp.asarray(mask))
    assert jnp.isfinite(out).all()
    assert (out[2] == 0).all()
    weights = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
    gradient = jax.grad(lambda x: (function(x, jnp.asarray(mask)) * weights).sum())(x)
    assert jnp.isfinite(gradient).all()
    assert (gradient[~mask] == 0).all()
    assert (gradient[:2][mask[:2]] != 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(POOLS))
def test_gradient_against_finite_differences(pool):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, 4, 2)))
        mask = jnp.asarray(np.arange(4) < np.array([[4], [3]]))
        check_grads(lambda x: POOLS[pool](jnp.asarray(x), mask), (x,), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("pool", list(POOLS))
def test_sums_of_half_precision_are_float32(pool):
    """What adds up is given in float32; a maximum picks and adds nothing. float64 stays float64."""
    assert POOLS[pool](X.astype(jnp.bfloat16), MASK).dtype == (jnp.bfloat16 if pool == "max" else jnp.float32)
    assert POOLS[pool](X.astype(jnp.float32), MASK).dtype == jnp.float32
    with jax.enable_x64(True):
        assert POOLS[pool](X.astype(jnp.float64), MASK).dtype == jnp.float64


def test_counts_and_sums_beyond_256_in_bfloat16():
    x, mask = jnp.ones((1, 3000, 1), jnp.bfloat16), jnp.ones((1, 3000), bool)
    assert float(masked_mean(x, mask)[0, 0]) == 1.0
