"""CAMIL against arrays of torchmil 1.0.2, and the default, of bags of unequal length, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from graphs_of_files import edges_of_matrix
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, load, partners, softmax_of

from milkit.models.fourkioti2024 import CAMIL
from milkit.types import Bags

FIXTURE = Fixture(
    "torchmil_camil",
    CAMIL(width=16, heads=4, landmarks=8, attention=12, compat="authors"),
    {
        "fc1": "encoder",
        "nystrom_transformer_layer.att_module.qkv_nn": "nystrom/qkv",
        "camil_self_attention.qk_nn": "query_key",
        "camil_self_attention.v_nn": "value",
        "camil_att_pool.fc1": "pool/tanh",
        "camil_att_pool.fc_gated": "pool/gate",
        "camil_att_pool.fc2": "pool/score",
        "classifier": "classifier",
    },
    arrays={
        "nystrom_transformer_layer.norm1.weight": ("norm/scale", np.asarray),
        "nystrom_transformer_layer.norm1.bias": ("norm/bias", np.asarray),
    },
    unused=("nystrom_transformer_layer.norm2.weight", "nystrom_transformer_layer.norm2.bias"),
)


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def gradients(graph, params, x, mask, edges, cotangent):
    """To weights and to x, and what is said on the way."""
    everywhere = jnp.ones_like(mask)  # torchmil masks the pooling only

    def value(params, x):
        module = nnx.merge(graph, params)
        tokens = module.tokens(x, everywhere)
        agreeing = module.agreeing(tokens, everywhere, edges)
        output = module.read(tokens, agreeing, mask)
        return (output.logits[:, 0] * cotangent).sum(), (output, tokens, agreeing)

    return jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, x)


def test_outputs_and_gradients(shared):
    reference = Reference(shared, FIXTURE.file)
    graph, params = nnx.split(load(reference, FIXTURE, 32, 1))
    for case in reference.cases:  # each by itself: the start of its Nystrom attention depends on the batch
        x, adjacency = (jnp.asarray(reference.arrays[f"{name}{case}"]) for name in ("x", "adj"))
        cotangent = reference.arrays[f"cotangent{case}"]
        mask = jnp.asarray(reference.arrays.get(f"mask{case}", np.ones(x.shape[:2]))).astype(bool)
        edges = edges_of_matrix(np.asarray(adjacency))

        with jax.default_matmul_precision("highest"):
            (grad_w, grad_x), (output, tokens, agreeing) = gradients(graph, params, x, mask, edges, cotangent)
        said = {"logits": output.logits, "attn_raw": output.extras["scores"], "T": tokens, "L": agreeing}
        assert reference.names("out", case) == set(said)
        for name, value in said.items():
            close(value, reference.get("out", case, name))
        close(grad_x, reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
        flat = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(grad_w)}
        checked = {"x"}
        for theirs, (ours, rearrange) in partners(FIXTURE, flat).items():
            want = reference.get("grad", case, f"w/{theirs}")
            if want is not None:
                close(flat[ours], rearrange(want), GRADIENT_TOLERANCE)
                checked.add(f"w/{theirs}")
        assert checked == reference.names("grad", case)


def test_the_default_is_the_formulas():
    """Each bag by itself, with full attention: with as many landmarks as tokens the approximation is exact."""
    rng = np.random.default_rng(0)
    lengths = (7, 2)
    x = [rng.normal(size=(n, 6)) for n in lengths]
    cells = [rng.permutation(9)[:n] for n in lengths]
    places = [np.stack([c % 3, c // 3], 1) * 256.0 for c in cells]
    config = CAMIL(width=4, heads=2, landmarks=16, iterations=40, attention=3, radius_um=300.0)
    with jax.enable_x64(True):
        module = config.build(6, 2, rngs=nnx.Rngs(0))
        output = jax.jit(lambda bags: module(bags))(Bags.of(x, places))
        w = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(nnx.state(module))}
    for i, (bag, xy) in enumerate(zip(x, places, strict=True)):
        n = len(bag)
        h = bag @ w["encoder/kernel"] + w["encoder/bias"]
        centred = h - h.mean(1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * w["norm/scale"] + w["norm/bias"]
        q, k, v = (a.reshape(n, 2, 2).swapaxes(0, 1) for a in np.split(normed @ w["nystrom/qkv/kernel"], 3, 1))
        tokens = h + (softmax_of(q @ k.swapaxes(1, 2) / 2**0.5) @ v).swapaxes(0, 1).reshape(n, 4)
        joined = (abs(xy[:, None] - xy[None]).sum(-1) == 256).astype(float)  # within 300: sides, not corners
        root = np.sqrt(np.maximum(joined.sum(1), 1))
        q, k = np.split(tokens @ w["query_key/kernel"], 2, 1)
        agreement = (q @ k.T * joined / np.outer(root, root)).sum(1) / 2
        agreeing = softmax_of(agreement)[:, None] * (tokens @ w["value/kernel"])
        gate = 1 / (1 + np.exp(-agreeing))
        mixed = gate * agreeing + (1 - gate) * tokens
        hidden = np.tanh(tokens @ w["pool/tanh/kernel"] + w["pool/tanh/bias"])
        hidden = hidden / (1 + np.exp(-(tokens @ w["pool/gate/kernel"] + w["pool/gate/bias"])))
        attention = softmax_of((hidden @ w["pool/score/kernel"])[:, 0])
        np.testing.assert_allclose(output.attention[i, :n, 0], attention, rtol=1e-6)
        embedding = attention @ mixed
        np.testing.assert_allclose(output.embedding[i], embedding, rtol=1e-5, atol=1e-8)
        logits = embedding @ w["classifier/kernel"] + w["classifier/bias"]
        np.testing.assert_allclose(output.logits[i], logits, rtol=1e-5, atol=1e-8)
