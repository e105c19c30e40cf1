"""The Perceiver against its formulas in numpy, each bag by itself, in float64: value, attention, shared weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from milkit.errors import ConfigError
from milkit.models import Perceiver
from milkit.types import Bags

FEATURES, LENGTHS = 5, (9, 1, 6)


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def attention(q, k, v, heads):
    """Sums [m, d], and weights [heads, m, n]."""
    sums, weights = [], []
    for a, b, c in zip(*(np.split(x, heads, 1) for x in (q, k, v)), strict=True):
        e = np.exp(a @ b.T / np.sqrt(a.shape[1]))
        weights.append(e / e.sum(1, keepdims=True))
        sums.append(weights[-1] @ c)
    return np.concatenate(sums, 1), np.array(weights)


def in_numpy(x, w, config):
    """Logits of one bag, and what its instances get in the last round, [n, cross_heads]."""

    def layer(x, name):
        return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0)

    def norm(x, name):
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * w[f"{name}/scale"] + w[f"{name}/bias"]

    def mlp(x, name):
        z = layer(x, f"{name}/first")
        return layer(z * (1 + erf(z / np.sqrt(2))) / 2, f"{name}/second")

    h, z = np.maximum(layer(x, "encoder"), 0), w["latents"]
    for i in range(config.rounds):
        one = f"rounds/{min(i, 1) if config.share else i}"
        own, read = norm(h, f"{one}/read/instance_norm"), f"{one}/read"
        q = layer(norm(z, f"{read}/norm"), f"{read}/query")
        y, weights = attention(q, layer(own, f"{read}/key"), layer(own, f"{read}/value"), config.cross_heads)
        z = z + layer(y, f"{read}/out")
        z = z + mlp(norm(z, f"{read}/mlp_norm"), f"{read}/mlp")
        for j in range(config.self_layers):
            name = f"{one}/layers/{j}"
            q, k, v = np.split(layer(norm(z, f"{name}/norm"), f"{name}/attention/qkv"), 3, 1)
            z = z + layer(attention(q, k, v, config.heads)[0], f"{name}/attention/out")
            z = z + mlp(norm(z, f"{name}/mlp_norm"), f"{name}/mlp")
    return layer(norm(z.mean(0), "norm"), "classifier"), weights.mean(1).T


@pytest.mark.parametrize(
    "config",
    [
        Perceiver(width=6, latents=3, rounds=3, self_layers=2, heads=2, mlp=4, share=True, at_once=7),
        Perceiver(width=6, latents=4, rounds=2, self_layers=0, cross_heads=3, heads=2, mlp=5),
    ],
    ids=["shared", "cross_only"],
)
def test_the_formulas_in_numpy(config):
    module, rng = config.build(FEATURES, 2, rngs=nnx.Rngs(1)), np.random.default_rng(0)
    assert len(module.rounds) == 2
    x = [rng.normal(size=(n, FEATURES)) for n in LENGTHS]
    with jax.enable_x64(True):
        graph, state = nnx.split(module)
        state = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape)), state)
        w = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}
        output = jax.jit(lambda state, bags: nnx.merge(graph, state)(bags))(state, Bags.of(x))
        for i, n in enumerate(LENGTHS):
            logits, weights = in_numpy(x[i], w, config)
            np.testing.assert_allclose(output.logits[i], logits, atol=1e-11)
            np.testing.assert_allclose(output.attention[i, :n], weights, atol=1e-12)
            assert not np.asarray(output.attention[i, n:]).any()


def test_latents_start_near_zero_and_heads_must_share_out_the_width():
    latents = np.asarray(Perceiver(width=64, heads=4).build(2, 1, rngs=nnx.Rngs(0)).latents[...])
    assert latents.shape == (256, 64)
    np.testing.assert_allclose(latents.std(), 0.02, rtol=0.05)
    with pytest.raises(ConfigError, match="heads=5 do not share out width=512"):
        Perceiver(cross_heads=5)
