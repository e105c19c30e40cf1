"""ABMIL as other repositories have it: MCAT's survival baseline AMIL, and Owkin's up to its activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, bags_of, check_gradients, close, load, run, softmax_of

from milkit.models import ABMIL
from milkit.nn import AttentionPool


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


AMIL = Fixture(
    "mcat_amil",
    ABMIL(encoder=(24,), attention=16, head=(16,)),
    {
        "attention_net.0": "encoder/layers/0",
        "attention_net.3.attention_a.0": "pool/tanh",
        "attention_net.3.attention_b.0": "pool/gate",
        "attention_net.3.attention_c": "pool/score",
        "rho.0": "head/layers/0",
        "classifier": "classifier",
    },
    unused=("attention_net.3.attention_c.bias",),
)


def test_the_survival_baseline_of_mcat(shared):
    reference = Reference(shared, AMIL.file)
    assert reference.cases == ["", "2"]
    with jax.default_matmul_precision("highest"):
        module = load(reference, AMIL, 32, 4)
        for case in reference.cases:
            bags = bags_of(reference, AMIL, case)
            cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])
            output, grad_w, grad_x = run(module, bags, lambda o, c=cotangent: (o.logits[0] * c).sum())
            close(output.logits, reference.get("out", case, "logits"))
            attention = softmax_of(reference.get("out", case, "attn_raw")[:, 0])
            close(output.attention[0, :, 0], attention)
            close(attention @ np.asarray(module.encoder(bags.x)[0]), reference.get("out", case, "bag_embedding")[0])
            check_gradients(reference, AMIL, case, grad_w, grad_x)


def test_owkins_up_to_its_activations(shared):
    """Sigmoids in place of ReLU, none after the last layer, scores over a temperature: its layers are redone here.

    The gated attention and what it pools are milkit's; the temperature makes the score's weights larger.
    """
    reference, temperature = Reference(shared, "owkin_abmil"), 0.7
    fixture = Fixture("owkin_abmil", None, {}, mask="!mask", skip_columns=3)
    w = {k: jnp.asarray(v) for k, v in reference.weights.items()}
    trained = ("tiles_emb.hidden_layers.0.weight", "attention_layer.w.weight")
    graph, state = nnx.split(AttentionPool(16, 16, rngs=nnx.Rngs(0)))

    def dense(h, name):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def forward(x, first, score, mask):
        h = dense(jax.nn.sigmoid(x @ first.T + w["tiles_emb.hidden_layers.0.bias"]), "tiles_emb.hidden_layers.2")
        pool = nnx.merge(graph, state, copy=True)
        for ours, theirs in ((pool.tanh, "att"), (pool.gate, "gate")):
            ours.kernel[...] = w[f"attention_layer.{theirs}.weight"].T
            ours.bias[...] = w[f"attention_layer.{theirs}.bias"]
        pool.score.kernel[...] = score.T / temperature
        pooled, attention = pool(h, mask)
        return dense(jax.nn.sigmoid(dense(pooled[:, 0], "mlp.0.0")), "mlp.1"), (pooled[:, 0], attention[..., 0])

    @jax.jit
    def everything(x, mask, cotangent):
        weights = [w[name] for name in trained]
        logits, pull, beside = jax.vjp(lambda *of: forward(*of, mask), x, *weights, has_aux=True)
        return logits, pull(cotangent), beside

    with jax.default_matmul_precision("highest"):
        for case in reference.cases:
            bags = bags_of(reference, fixture, case)
            cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"])
            logits, gradients, (pooled, attention) = everything(bags.x, bags.mask, cotangent)
            close(logits, reference.get("out", case, "logits"))
            close(pooled, reference.get("out", case, "attention_pooled"))
            raw = reference.get("out", case, "attn_raw")[..., 0]  # over the temperature already
            close(attention, softmax_of(np.where(bags.mask, raw, -1e9)))
            for got, name in zip(gradients, ("x", *(f"w/{k}" for k in trained)), strict=True):
                want = reference.get("grad", case, name)
                close(got, want[..., 3:] if name == "x" else want, GRADIENT_TOLERANCE)
