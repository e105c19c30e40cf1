"""SA-AbMILP against arrays of its authors' code, kernel by kernel, and its work in blocks against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, Reference, bags_of, check_case, close, load

from milkit.errors import ConfigError
from milkit.models.rymarczyk2021 import SAABMIL, KernelAttention
from milkit.types import Bags

pytestmark = pytest.mark.usefixtures("quick_and_exact")


KERNELS = {"att_gauss": "gaussian", "att_inv_q": "inverse_quadratic", "att_module": "module", "dot": "dot"}


def convolution(kernel):
    """[out, in, 1] to [in, out]."""
    return kernel[..., 0].T


def fixture_of(name):
    kernel = KERNELS[name]
    arrays = {"self_att.gamma": ("between/gamma", lambda a: a[0])}
    unused = ["self_att.gamma_in", "self_att.alfa", "attention.2.bias"]
    if kernel in ("gaussian", "inverse_quadratic"):
        arrays["self_att.gamma_att"] = ("between/alpha", lambda a: a[0])
    else:
        unused.append("self_att.gamma_att")
    for part in ("query", "key", "value"):
        arrays[f"self_att.{part}_conv.weight"] = (f"between/{part}/kernel", convolution)
        if (kernel, part) == ("dot", "key"):
            unused.append("self_att.key_conv.bias")
        else:
            arrays[f"self_att.{part}_conv.bias"] = (f"between/{part}/bias", np.asarray)
    weights = {"attention.0": "pool/tanh", "attention.2": "pool/score", "classifier.0": "classifier"}
    compat = "authors" if kernel == "module" else "correct"
    config = SAABMIL(kernel, (), query=4, attention=16, compat=compat)
    return Fixture(f"sa_abmilp_{name}", config, weights, arrays=arrays, unused=tuple(unused))


@pytest.mark.parametrize("name", KERNELS)
def test_outputs_and_gradients(shared, name):
    fixture = fixture_of(name)
    reference = Reference(shared, fixture.file)
    module = load(reference, fixture, 32, 1)
    for case in reference.cases:
        known = {"logits", "attn", "attn_raw", "bag_embedding", "H", "self_attn", "prob", "nll_label0", "nll_label1"}
        assert reference.names("out", case) == known
        output = check_case(reference, fixture, module, case)
        close(jax.nn.sigmoid(output.logits), reference.get("out", case, "prob"))
        for label in (0, 1):  # theirs clamps the probability to 1e-5 and more, which does not matter here
            close(jax.nn.softplus((1 - 2 * label) * output.logits[0]), reference.get("out", case, f"nll_label{label}"))
        bags, between = bags_of(reference, fixture, case), module.between
        close(between(bags.x, bags.mask)[0], reference.get("out", case, "H"))
        weights = between.weights(between.query(bags.x), between.key(bags.x), bags.mask)
        close(weights, reference.get("out", case, "self_attn"))


def softmax(e):
    e = np.exp(e - e.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


KERNELS_IN_NUMPY = {
    "dot": lambda q, k, alpha: q @ k,
    "gaussian": lambda q, k, alpha: np.exp(-alpha * ((q - k) ** 2).sum()),
    "inverse_quadratic": lambda q, k, alpha: 1 / (1 + alpha * ((q - k) ** 2).sum()),
    "laplace": lambda q, k, alpha: -abs(q - k).sum(),
    "module": lambda q, k, alpha: abs(q).sum() + abs(k).sum() - abs(q - k).sum(),
}


@pytest.mark.parametrize("kernel", KERNELS_IN_NUMPY)
def test_the_formulas_in_numpy_and_in_blocks(kernel):
    """7 instances in rows of 9, three of them at a time, against every pair by itself; alpha is .7 and gamma -.4."""
    attention = KernelAttention(5, 3, kernel, rngs=nnx.Rngs(1), at_once=3 * 9 * (1 if kernel == "dot" else 3))
    attention.gamma[...] = jnp.asarray(-0.4)
    if attention.alpha is not None:
        attention.alpha[...] = jnp.asarray(0.7)
    h = np.random.default_rng(0).normal(size=(1, 9, 5)).astype(np.float32)
    mask = jnp.arange(9)[None] < 7

    def value(attention, h):
        return (jnp.where(mask[..., None], attention(h, mask), 0) * jnp.cos(jnp.arange(45.0)).reshape(1, 9, 5)).sum()

    found, blocks = nnx.jit(nnx.value_and_grad(value, argnums=(0, 1)))(attention, jnp.asarray(h))
    parts = {
        name: h[0, :7].astype(np.float64) @ np.asarray(layer.kernel[...], np.float64)
        + (0 if layer.bias is None else np.asarray(layer.bias[...], np.float64))
        for name, layer in (("q", attention.query), ("k", attention.key), ("v", attention.value))
    }
    energy = np.array([[KERNELS_IN_NUMPY[kernel](q, k, 0.7) for k in parts["k"]] for q in parts["q"]])
    want = h[0, :7] - 0.4 * softmax(energy) @ parts["v"]
    close(found, (want * np.cos(np.arange(45.0)).reshape(9, 5)[:7]).sum())
    attention.at_once = 1 << 24
    whole = nnx.jit(nnx.grad(value, argnums=(0, 1)))(attention, jnp.asarray(h))
    for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        close(a, b)


def test_memory_is_that_of_a_block():
    """10,000 instances: no array of the compiled gradient is as large as all pairs would be."""
    module = SAABMIL("gaussian", (16,), query=2, attention=4).build(8, 1, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    n = 10_000
    bags = Bags(jnp.zeros((1, n, 8)), jnp.ones((1, n), bool))
    gradient = jax.grad(lambda params, bags: nnx.merge(graph, params, rest)(bags).logits.sum())
    needed = jax.jit(gradient).lower(params, bags).compile().memory_analysis().temp_size_in_bytes
    assert needed < 4 * n * n  # 400 MB would hold one number a pair


def test_a_sign_of_the_authors_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="compat='authors' changes the sign"):
        SAABMIL("dot", compat="authors")
