"""Initialisation, dropout, the MLP and attention pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.nn import MLP, AttentionPool, Dropout, Rate, dropout_or_none, linear


def test_torch_initialisation_is_uniform_within_one_over_root_fan_in():
    layer = linear(400, 300, rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(400)
    for values in (layer.kernel[...], layer.bias[...]):
        assert values.dtype == jnp.float32
        assert abs(values).max() <= bound
        assert abs(values).max() > 0.98 * bound
        assert values.min() < 0 < values.max()
    # the standard deviation of a uniform on [-a, a] is a / sqrt(3); 120,000 draws
    np.testing.assert_allclose(layer.kernel[...].std(), bound / np.sqrt(3), rtol=0.01)


def test_glorot_initialisation():
    layer = linear(400, 200, rngs=nnx.Rngs(0), init="glorot")
    bound = np.sqrt(6 / 600)
    assert 0.98 * bound < abs(layer.kernel[...]).max() <= bound
    np.testing.assert_allclose(layer.kernel[...].std(), bound / np.sqrt(3), rtol=0.01)
    assert (layer.bias[...] == 0).all()


def test_computation_takes_the_wider_type():
    layer = linear(3, 2, rngs=nnx.Rngs(0))
    assert layer(jnp.ones((1, 3), jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert layer(jnp.ones((1, 3), jnp.float64)).dtype == jnp.float64


def test_dropout_keeps_the_mean_and_drops_the_share():
    x = jnp.ones((200, 500))
    out = Dropout(0.3)(x, deterministic=False, rngs=nnx.Rngs(dropout=1))
    # 100,000 draws: the share's standard deviation is .0014
    assert abs(float((out == 0).mean()) - 0.3) < 0.007
    np.testing.assert_allclose(out[out != 0], 1 / 0.7, rtol=1e-6)


def test_dropout_is_the_identity_when_deterministic_and_same_key_gives_same_mask():
    x, dropout = jnp.ones((4, 50)), Dropout(0.5)
    assert dropout(x) is x
    a, b, c = (dropout(x, deterministic=False, rngs=nnx.Rngs(dropout=k)) for k in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_rate_is_no_parameter_and_differs_between_runs_under_vmap():
    graph, rate, rest = nnx.split(Dropout(0.5), Rate, ...)
    assert not jax.tree.leaves(nnx.state(nnx.merge(graph, rate, rest), nnx.Param))
    rates = jax.tree.map(lambda _: jnp.array([0.0, 0.5, 1.0]), rate)

    @jax.jit
    def share(rates, key):
        def run(rate):
            module = nnx.merge(graph, rate, rest, copy=True)
            out = module(jnp.ones((100, 100)), deterministic=False, rngs=nnx.Rngs(dropout=key))
            return (out == 0).mean()

        return jax.vmap(run)(rates)

    none, half, all_ = share(rates, jax.random.key(0))
    assert (none, all_) == (0, 1)
    assert abs(half - 0.5) < 0.025


def test_dropout_gradient_is_finite_at_rate_one():
    dropout = Dropout(1.0)
    gradient = jax.grad(lambda x: dropout(x, deterministic=False, rngs=nnx.Rngs(0)).sum())(jnp.ones((3, 3)))
    assert (gradient == 0).all()


def test_dropout_says_what_it_lacks():
    with pytest.raises(ConfigError, match="rngs"):
        Dropout(0.5)(jnp.ones(3), deterministic=False)
    with pytest.raises(ConfigError, match=r"1\.5"):
        Dropout(1.5)
    assert dropout_or_none(0.0) is None


def test_mlp_by_hand():
    mlp = MLP(2, (2, 1), rngs=nnx.Rngs(0))
    mlp.layers[0].kernel[...], mlp.layers[0].bias[...] = (
        jnp.array([[1.0, -1.0], [2.0, 0.0]]),
        jnp.array([0.0, 3.0]),
    )
    mlp.layers[1].kernel[...], mlp.layers[1].bias[...] = jnp.array([[1.0], [10.0]]), jnp.array([-4.0])
    # (1, 1): hidden (3, 2), out relu(3 + 20 - 4); (5, -4): hidden (relu(-3), relu(-2)) = 0, out relu(-4)
    assert mlp(jnp.array([[1.0, 1.0], [5.0, -4.0]])).tolist() == [[19.0], [0.0]]
    assert MLP(7, (), rngs=nnx.Rngs(0)).out_features == 7


@pytest.mark.parametrize("gated", [False, True])
def test_attention_against_numpy(gated):
    pool = AttentionPool(3, 4, heads=2, gated=gated, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    h, n = rng.normal(size=(2, 5, 3)), [5, 2]
    pooled, attention = pool(jnp.asarray(h, jnp.float32), jnp.arange(5) < jnp.array(n)[:, None])
    weights = {name: np.asarray(value, np.float64) for name, value in _flat(pool).items()}
    for i, length in enumerate(n):
        hidden = np.tanh(h[i, :length] @ weights["tanh/kernel"] + weights["tanh/bias"])
        if gated:
            hidden /= 1 + np.exp(-(h[i, :length] @ weights["gate/kernel"] + weights["gate/bias"]))
        e = np.exp(hidden @ weights["score/kernel"])
        expected = e / e.sum(0)
        np.testing.assert_allclose(attention[i, :length], expected, rtol=1e-5)
        assert (attention[i, length:] == 0).all()
        np.testing.assert_allclose(pooled[i], expected.T @ h[i, :length], rtol=1e-4)


def _flat(module):
    return {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))}
