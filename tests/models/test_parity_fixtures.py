"""Models against arrays that the original PyTorch code produced: outputs and gradients, every case of every file.

The reference is its float64 run (`out64`, `grad64`); milkit runs in float32. Torch keeps linear weights as [out, in].
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.models import ABMIL, EmbeddingPooling, InstancePooling
from milkit.types import Bags, Output

OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4  # relative to the largest value of the array


@dataclass(frozen=True)
class Fixture:
    """One file: the config that corresponds to it, and where each of its weights goes."""

    file: str
    config: object
    weights: dict[str, str]
    mask: str = ""
    """Key of its mask, if it has one; a leading ! where it marks padding."""
    skip_columns: int = 0
    """Leading columns of x that the original ignores (tile coordinates)."""


FIXTURES = [
    Fixture(
        "abmil",
        ABMIL(encoder=(), attention=24, gated=False),
        {"attention.0": "pool/tanh", "attention.2": "pool/score", "classifier.0": "classifier"},
    ),
    Fixture(
        "abmil_gated",
        ABMIL(encoder=(), attention=24),
        {
            "attention_V.0": "pool/tanh",
            "attention_U.0": "pool/gate",
            "attention_w": "pool/score",
            "classifier.0": "classifier",
        },
    ),
    Fixture(
        "torchmil_abmil",
        ABMIL(encoder=(), attention=16, gated=False),
        {"pool.fc1.module": "pool/tanh", "pool.fc2": "pool/score", "classifier.module": "classifier"},
        mask="mask",
    ),
    Fixture(
        "torchmil_abmil_gated",
        ABMIL(encoder=(), attention=16),
        {
            "pool.fc1.module": "pool/tanh",
            "pool.fc_gated.module": "pool/gate",
            "pool.fc2": "pool/score",
            "classifier.module": "classifier",
        },
        mask="mask",
    ),
    Fixture(
        "millab_abmil",
        ABMIL(encoder=(24, 24), attention=16),
        {
            "patch_embed.0": "encoder/layers/0",
            "patch_embed.3": "encoder/layers/1",
            "global_attn.attention_a.0": "pool/tanh",
            "global_attn.attention_b.0": "pool/gate",
            "global_attn.attention_c": "pool/score",
            "classifier": "classifier",
        },
        mask="attn_mask",
    ),
    Fixture(
        "millab_abmil_nogate",
        ABMIL(encoder=(24, 24), attention=16, gated=False),
        {
            "patch_embed.0": "encoder/layers/0",
            "patch_embed.3": "encoder/layers/1",
            "global_attn.module.0": "pool/tanh",
            "global_attn.module.3": "pool/score",
            "classifier": "classifier",
        },
        mask="attn_mask",
    ),
    Fixture("meanmil", InstancePooling("mean", encoder=(24,)), {"head.0": "encoder/layers/0", "head.3": "scorer"}),
    Fixture("maxmil", InstancePooling("max", encoder=(24,)), {"head.0": "encoder/layers/0", "head.3": "scorer"}),
]
# A softmax takes the score's bias away, so milkit has none; these files have one.
SCORE_BIAS = {
    "abmil": "attention.2.bias",
    "abmil_gated": "attention_w.bias",
    "millab_abmil": "global_attn.attention_c.bias",
    "millab_abmil_nogate": "global_attn.module.3.bias",
}


class Reference:
    """The arrays of one file."""

    def __init__(self, folder, file):
        self.arrays = np.load(folder / "parity" / "slide" / f"{file}.npz")
        self.weights = {k[2:]: self.arrays[k] for k in self.arrays.files if k.startswith("w/")}
        self.cases = [k[1:] for k in self.arrays.files if k[0] == "x" and (k[1:] == "" or k[1:].isdigit())]

    def get(self, kind, case, name):
        """`out` or `grad` in float64; None where the file has no such array."""
        key = f"{kind}64{'_' + case if case else ''}/{name}"
        return self.arrays[key] if key in self.arrays.files else None


def load(reference, fixture, in_features, out_features):
    """A module with the file's weights; every weight of either side must find its partner."""
    module = fixture.config.build(in_features, out_features, rngs=nnx.Rngs(0))
    state = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
    mine = {"/".join(map(str, path)): leaf for path, leaf in state.items()}
    unused = set(reference.weights) - {SCORE_BIAS.get(fixture.file)}
    for theirs, ours in fixture.weights.items():
        kernel = reference.weights[f"{theirs}.weight"].T
        assert mine[f"{ours}/kernel"].shape == kernel.shape
        mine.pop(f"{ours}/kernel")[...] = jnp.asarray(kernel)
        unused.remove(f"{theirs}.weight")
        if f"{ours}/bias" in mine:
            mine.pop(f"{ours}/bias")[...] = jnp.asarray(reference.weights[f"{theirs}.bias"])
            unused.remove(f"{theirs}.bias")
    assert not mine, f"milkit's {set(mine)} got no weight"
    assert not unused, f"the file's {unused} went nowhere"
    return module


def bags_of(reference, fixture, case):
    x = reference.arrays[f"x{case}"]
    x = (x if x.ndim == 3 else x[None])[..., fixture.skip_columns :]
    key = f"{fixture.mask.lstrip('!')}{case}"
    mask = np.ones(x.shape[:2], bool)
    if fixture.mask and key in reference.arrays.files:
        mask = reference.arrays[key].reshape(mask.shape).astype(bool) ^ fixture.mask.startswith("!")
    return Bags(jnp.asarray(x), jnp.asarray(mask))


def close(got, want, tolerance):
    want = np.asarray(want, np.float64)
    got = np.asarray(got, np.float64).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 1e-30))


def softmax_of(raw):
    """Attention from raw scores, masked ones being stored as -1e9."""
    e = np.exp(raw - raw.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def check_case(reference, fixture, module, case):
    bags = bags_of(reference, fixture, case)
    cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"]).reshape(bags.x.shape[0], -1)
    graph, params = nnx.split(module)

    def objective(params, x) -> tuple[jax.Array, Output]:
        output = nnx.merge(graph, params)(Bags(x, bags.mask))
        return (output.logits * cotangent).sum(), output

    (grad_w, grad_x), output = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(params, bags.x)
    close(output.logits, reference.get("out", case, "logits"), OUTPUT_TOLERANCE)
    attention = reference.get("out", case, "attn")
    raw = reference.get("out", case, "attn_raw")
    if attention is None and raw is not None:
        raw = raw.reshape(bags.mask.shape)
        attention = softmax_of(np.where(bags.mask, raw, -1e9))
    if attention is not None:
        close(output.attention[..., 0], attention, OUTPUT_TOLERANCE)
    for mine, theirs in ((output.embedding, "bag_embedding"), (output.instance_logits, "inst_logits")):
        want = reference.get("out", case, theirs)
        if want is not None:
            close(mine, want, OUTPUT_TOLERANCE)
    close(grad_x, reference.get("grad", case, "x")[..., fixture.skip_columns :], GRADIENT_TOLERANCE)
    gradients = {"/".join(map(str, p)): leaf[...] for p, leaf in nnx.to_flat_state(grad_w)}
    checked = 0
    for theirs, ours in fixture.weights.items():
        for suffix, leaf in (("weight", "kernel"), ("bias", "bias")):
            want = reference.get("grad", case, f"w/{theirs}.{suffix}")
            if want is not None:
                close(gradients[f"{ours}/{leaf}"].T, want, GRADIENT_TOLERANCE)
                checked += 1
    assert checked


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.file)
def test_outputs_and_gradients(shared, fixture):
    reference = Reference(shared, fixture.file)
    assert len(reference.cases) == 3
    out_features = reference.get("out", "", "logits").size  # case 1 is one bag in every file
    with jax.default_matmul_precision("highest"):
        module = load(reference, fixture, 32, out_features)
        for case in reference.cases:
            check_case(reference, fixture, module, case)


def test_owkin_mean_pool_up_to_its_activation(shared):
    """Owkin's head has a sigmoid where milkit's has a ReLU; the pooling and both layers are the same.

    So the pooled embedding is compared through Owkin's own formula, worked here in float64.
    """
    reference = Reference(shared, "owkin_meanpool")
    pool = EmbeddingPooling("mean", encoder=()).build(32, 2, rngs=nnx.Rngs(0))
    fixture = Fixture("owkin_meanpool", None, {}, mask="!mask", skip_columns=3)
    w = {k: v.astype(np.float64) for k, v in reference.weights.items()}
    for case in reference.cases:
        bags = bags_of(reference, fixture, case)
        if case in ("3", "4"):
            assert not bags.mask.all()
        z = np.asarray(pool(bags).embedding, np.float64)
        hidden = 1 / (1 + np.exp(-(z @ w["mlp.0.0.weight"].T + w["mlp.0.0.bias"])))
        close(hidden @ w["mlp.1.weight"].T + w["mlp.1.bias"], reference.get("out", case, "logits"), OUTPUT_TOLERANCE)
