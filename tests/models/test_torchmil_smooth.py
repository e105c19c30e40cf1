"""Models over neighbouring tiles against torchmil itself, where the arrays of files leave a branch out.

Other sizes, instances as wide as the attention and not, options that no file has, and the graph that torchmil builds
from places against milkit's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, close, fill

from milkit.models import CAMIL, SmABMIL, SmoothABMIL, SmTransformerABMIL
from milkit.types import Bags

pytestmark = pytest.mark.parity

POOL = {"pool.proj1": "pool/hidden", "pool.proj2": "pool/score", "last_layer": "classifier"}
LAYER = "transformer_encoder.layers.0."
NORMS = {
    f"transformer_encoder.{theirs}.{a}": (f"{ours}/{b}", np.asarray)
    for theirs, ours in (("layers.0.norm1", "layers/0/norm"), ("norm", "norm"))
    for a, b in (("weight", "scale"), ("bias", "bias"))
}
CASES = {
    "mid_exact": (
        "SmABMIL",
        {"att_dim": 5, "sm_where": "mid", "sm_mode": "exact", "sm_alpha": 0.7},
        Fixture("", SmABMIL("mid", "exact", 0.7, attention=5, compat="authors", radius_um=400.0), POOL),
    ),
    "exact_trained": (
        "SmABMIL",
        {"att_dim": 5, "sm_where": "early", "sm_mode": "exact"},
        Fixture(
            "",
            SmABMIL("early", "exact", attention=5, compat="authors", radius_um=400.0),
            POOL,
            arrays={"pool.sm.sm.coef": ("pool/sm/coef", np.asarray)},
        ),
    ),
    "transformer_narrower": (
        "SmTransformerABMIL",
        {
            "pool_att_dim": 5,
            "transf_att_dim": 6,
            "transf_n_heads": 3,
            "transf_use_mlp": False,
            "transf_add_self": False,
            "transf_sm_alpha": 0.3,
            "pool_sm_alpha": 0.3,
        },
        Fixture(
            "",
            SmTransformerABMIL(
                alpha=0.3, attention=5, width=6, heads=3, mlp=False, add_self=False, compat="authors", radius_um=400.0
            ),
            POOL
            | {
                LAYER + "att_module.qkv_nn": "layers/0/qkv",
                LAYER + "att_proj": "layers/0/inward",
                LAYER + "out_proj": "layers/0/outward",
            },
            arrays=NORMS,
            unused=(LAYER + "norm2.weight", LAYER + "norm2.bias"),
        ),
    ),
    "smooth": (
        "SmoothABMIL",
        {"att_dim": 3},
        Fixture(
            "",
            SmoothABMIL(attention=3, compat="authors", radius_um=400.0),
            {
                "pool.in_mlp.0.module": "scorer/first",
                "pool.in_mlp.2": "scorer/second",
                "pool.mu_f_nn": "scorer/scores/0",
                "classifier.module": "classifier",
            },
        ),
    ),
    "camil_as_wide": (
        "CAMIL",
        {"nystrom_att_dim": 9, "pool_att_dim": 4, "gated_pool": False, "n_heads": 3, "n_landmarks": 5},
        Fixture(
            "",
            CAMIL(9, 3, 5, attention=4, gated=False, compat="authors", radius_um=400.0),
            {
                "nystrom_transformer_layer.att_module.qkv_nn": "nystrom/qkv",
                "camil_self_attention.qk_nn": "query_key",
                "camil_self_attention.v_nn": "value",
                "camil_att_pool.fc1": "pool/tanh",
                "camil_att_pool.fc2": "pool/score",
                "classifier": "classifier",
            },
            arrays={
                "nystrom_transformer_layer.norm1.weight": ("norm/scale", np.asarray),
                "nystrom_transformer_layer.norm1.bias": ("norm/bias", np.asarray),
            },
            unused=("nystrom_transformer_layer.norm2.weight", "nystrom_transformer_layer.norm2.bias"),
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tiles", [23, 8])
def test_logits_and_scores_and_gradients(case, tiles):
    torch, torchmil = pytest.importorskip("torch"), pytest.importorskip("torchmil")
    from torchmil.utils.graph_utils import build_adj, normalize_adj

    name, settings, fixture = CASES[case]
    torch.manual_seed(tiles)
    theirs = getattr(torchmil.models, name)(in_shape=(9,), **settings).double().eval()
    rng = np.random.default_rng(tiles)
    x, cells = rng.normal(size=(tiles, 9)), rng.permutation(6 * 6)[:tiles]
    cells = np.stack([cells % 6, cells // 6], 1).astype(float)
    cells[0] = 40  # a tile far from all others
    index, weight = build_adj(cells, dist_thr=1.5)
    adjacency = np.zeros((tiles, tiles))
    adjacency[tuple(index)] = normalize_adj(index, weight, tiles)
    given = torch.tensor(x[None], requires_grad=True)
    logit, scores = theirs(given, torch.tensor(adjacency[None]), return_att=True)
    logit.sum().backward()

    with jax.enable_x64(True):
        module = fixture.config.build(9, 1, rngs=nnx.Rngs(0))
        fill(module, {k: v.numpy() for k, v in theirs.state_dict().items()}, fixture)
        graph, state = nnx.split(module)
        state = jax.tree.map(lambda a: a.astype(jnp.float64), state)

        def value(x):
            bags = Bags(x, jnp.ones((1, tiles), bool), jnp.asarray(cells[None] * 256, jnp.float32))
            output = nnx.merge(graph, state)(bags)
            return output.logits.sum(), output.extras["scores"]

        (logits, own), grad = jax.jit(jax.value_and_grad(value, has_aux=True))(jnp.asarray(x[None]))
    close(logits, logit.detach().numpy().sum(), 1e-7)
    close(own, scores.detach().numpy(), 1e-7)
    close(grad, given.grad.numpy(), 1e-6)
