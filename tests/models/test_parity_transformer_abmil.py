"""TransformerABMIL against arrays of torchmil's, all cases of its file in one padded batch, in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, fill, partners, run

from milkit.errors import ConfigError
from milkit.models import TransformerABMIL
from milkit.nn import masked_softmax
from milkit.types import Bags

LAYER = {"att_module.qkv_nn": "attention/qkv", "mlp_module.0": "mlp/first", "mlp_module.3": "mlp/second"}
CONFIG = TransformerABMIL(encoder=False, width=32, heads=4, layers=2, mlp=128, attention=16, at_once=50)


def fixture(config=CONFIG):
    weights = {"pool.fc1.module": "pool/tanh", "pool.fc2": "pool/score", "last_layer": "classifier"}
    norms = {"transformer_encoder.norm": "norm"}
    for i in range(config.layers):
        layer = f"transformer_encoder.layers.{i}"
        parts = [part for part in LAYER if config.mlp or not part.startswith("mlp")]
        weights |= {f"{layer}.{theirs}": f"layers/{i}/{LAYER[theirs]}" for theirs in parts}
        norms[f"{layer}.norm1"] = f"layers/{i}/norm"
        if config.mlp:
            norms[f"{layer}.norm2"] = f"layers/{i}/mlp_norm"
    arrays = {f"{theirs}.weight": (f"{ours}/scale", np.asarray) for theirs, ours in norms.items()}
    arrays |= {f"{theirs}.bias": (f"{ours}/bias", np.asarray) for theirs, ours in norms.items()}
    if config.gated:
        weights["pool.fc_gated.module"] = "pool/gate"
    unused = () if config.mlp else tuple(
        f"transformer_encoder.layers.{i}.norm2.{w}" for i in range(config.layers) for w in ("weight", "bias")
    )  # fmt: skip
    return Fixture("torchmil_transformer_abmil", config, weights, arrays=arrays, unused=unused)


def test_outputs_and_gradients(shared):
    reference = Reference(shared, "torchmil_transformer_abmil")
    module = CONFIG.build(32, 1, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture())
    bags, at = [], {}
    for case in reference.cases:
        x = reference.arrays[f"x{case}"]
        real = reference.arrays.get(f"mask{case}", np.ones(x.shape[:2])) > 0
        at[case] = range(len(bags), len(bags) + len(x)), real.sum(1)
        assert all(row[:n].all() for row, n in zip(real, real.sum(1), strict=True))  # what is real comes first
        bags += [a[m] for a, m in zip(x, real, strict=True)]
    bags = Bags.of(bags)
    cotangent = jnp.concatenate([reference.arrays[f"cotangent{case}"] for case in reference.cases])
    with jax.default_matmul_precision("highest"):
        output, grad_w, grad_x = run(module, bags, lambda output: (output.logits[:, 0] * cotangent).sum())
        encoded = nnx.jit(lambda module: module.encode(bags.x, bags.mask))(module)
    for case, (rows, sizes) in at.items():
        assert reference.names("out", case) == {"logits", "attn_raw", "encoded"}
        close(output.logits[np.array(rows), 0], reference.get("out", case, "logits"))
        raw, theirs, up = (reference.get(*name) for name in
                           (("out", case, "attn_raw"), ("out", case, "encoded"), ("grad", case, "x")))  # fmt: skip
        for j, (i, n) in enumerate(zip(rows, sizes, strict=True)):
            close(encoded[i, :n], theirs[j, :n])
            attention = masked_softmax(jnp.asarray(raw[j, :n, None])[None], jnp.ones((1, int(n)), bool))
            close(output.attention[i, :n], attention[0])
            close(grad_x[i, :n], up[j, :n], GRADIENT_TOLERANCE)
            assert not np.asarray(grad_x[i, n:]).any()
    checked = 0
    for theirs, (ours, rearrange) in partners(fixture(), grad_w).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        if each[0] is not None:
            close(grad_w[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum
            checked += 1
    assert checked == 2


def test_instances_of_another_width_need_a_projection():
    with pytest.raises(ConfigError, match="they have 5 features; set width=5, or encoder=True"):
        CONFIG.build(5, 1, rngs=nnx.Rngs(0))


@pytest.mark.parity
def test_the_other_options_are_torchmils():
    """Gated pooling, no MLP, nothing added after a layer."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchmil.models").TransformerABMIL(
        (12,), pool_att_dim=5, pool_gated=True, transf_att_dim=12, transf_n_layers=3, transf_n_heads=2,
        transf_use_mlp=False, transf_add_self=False,
    ).eval()  # fmt: skip
    config = TransformerABMIL(
        encoder=False, width=12, heads=2, layers=3, mlp=0, add_input=False, attention=5, gated=True, at_once=11
    )
    module = config.build(12, 1, rngs=nnx.Rngs(0))
    fill(module, {name: w.numpy() for name, w in theirs.state_dict().items()}, fixture(config))
    bags = Bags.of([np.random.default_rng(0).normal(size=(n, 12)).astype(np.float32) for n in (7, 3)])
    with jax.default_matmul_precision("highest"):
        output = nnx.jit(lambda module: module(bags))(module)
    with torch.no_grad():
        for i, n in enumerate((7, 3)):  # each alone: a masked row of theirs is the library's matter
            logits, raw = theirs.double()(torch.tensor(np.asarray(bags.x[i : i + 1, :n], np.float64)), return_att=True)
            close(output.logits[i], logits)
            close(output.attention[i, :n, 0], torch.softmax(raw[0], 0))
