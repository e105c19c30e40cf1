"""ABMIL against torchmil's own module, run here with our weights: bags of different lengths in one batch, masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.models import ABMIL
from milkit.types import Bags

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("gated", [False, True])
def test_abmil_is_torchmils_with_the_same_weights(gated):
    torch = pytest.importorskip("torch", reason="parity needs torch (make parity)")
    models = pytest.importorskip("torchmil.models", reason="parity needs torchmil (make parity)")
    rng = np.random.default_rng(0)
    bags = Bags.of([rng.normal(size=(n, 12)).astype(np.float32) for n in (7, 1, 19)])
    ours = ABMIL(encoder=(), attention=6, gated=gated).build(12, 1, rngs=nnx.Rngs(0))
    theirs = models.ABMIL(in_shape=(12,), att_dim=6, att_act="tanh", gated=gated).eval()
    state = {
        k: torch.tensor(rng.normal(size=tuple(v.shape)), dtype=torch.float32) for k, v in theirs.state_dict().items()
    }
    theirs.load_state_dict(state)
    _load(ours, {k: v.numpy() for k, v in state.items()}, gated)
    with torch.no_grad():
        logits, attention = theirs(
            torch.tensor(np.asarray(bags.x)), mask=torch.tensor(np.asarray(bags.mask)), return_att=True
        )
    with jax.default_matmul_precision("highest"):
        out = ours(bags)
    np.testing.assert_allclose(out.logits[:, 0], logits.numpy().ravel(), rtol=1e-5, atol=1e-6)
    weights = np.where(np.asarray(bags.mask), _softmax(attention.numpy(), np.asarray(bags.mask)), 0.0)
    np.testing.assert_allclose(out.attention[..., 0], weights, rtol=1e-5, atol=1e-6)


def _softmax(scores, mask):
    """Scores, which is what torchmil returns, to weights."""
    scores = np.where(mask, scores, -np.inf)
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _load(module, state, gated):
    """Map names of torchmil to ours; torch keeps a linear layer's weight as [out, in]."""
    pairs = [
        ("pool.fc1.module", module.pool.tanh),
        ("pool.fc2", module.pool.score),
        ("classifier.module", module.classifier),
    ]
    if gated:
        pairs.append(("pool.fc_gated.module", module.pool.gate))
    used = set()
    for name, layer in pairs:
        layer.kernel[...] = jnp.asarray(state[f"{name}.weight"].T)
        used.add(f"{name}.weight")
        if layer.bias is not None:
            layer.bias[...] = jnp.asarray(state[f"{name}.bias"])
            used.add(f"{name}.bias")
    assert used == set(state)
