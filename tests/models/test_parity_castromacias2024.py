"""SmABMIL and SmTransformerABMIL against arrays of torchmil 1.0.2, all cases of a file in one padded batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from graphs_of_files import edges_of_matrix, padded_batch
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, load, partners

from milkit.models.castromacias2024 import SmABMIL, SmTransformerABMIL


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


POOL = {"pool.proj1": "pool/hidden", "pool.proj2": "pool/score", "last_layer": "classifier"}
COEF = {"pool.sm.sm.coef": ("pool/sm/coef", np.asarray)}
FIXTURES = [
    *(
        Fixture(f"torchmil_smabmil_{where}", SmABMIL(where, attention=16, compat="authors"), POOL, arrays=COEF)
        for where in ("early", "mid", "late")
    ),
    Fixture(
        "torchmil_smabmil_approx_alpha0.4",
        SmABMIL("late", alpha=0.4, steps=4, attention=16, activation="relu", compat="authors"),
        POOL,
    ),
    Fixture(
        "torchmil_smabmil_exact_alpha0.4",
        SmABMIL("late", "exact", 0.4, attention=16, activation="gelu", compat="authors"),
        POOL,
    ),
]


LAYERS = range(2)
FIXTURES.append(
    Fixture(
        "torchmil_sm_transformer_abmil",
        SmTransformerABMIL(steps=5, attention=16, layers=2, width=32, compat="authors"),
        POOL
        | {
            f"transformer_encoder.layers.{i}.{theirs}": f"layers/{i}/{ours}"
            for i in LAYERS
            for theirs, ours in (
                ("att_module.qkv_nn", "qkv"),
                ("mlp_module.0", "mlp/0"),
                ("mlp_module.3", "mlp/1"),
            )
        },
        arrays=COEF
        | {
            f"transformer_encoder.{theirs}": (ours, np.asarray)
            for i in LAYERS
            for theirs, ours in (
                (f"layers.{i}.att_module.sm.sm.coef", f"layers/{i}/sm/coef"),
                (f"layers.{i}.norm1.weight", f"layers/{i}/norm/scale"),
                (f"layers.{i}.norm1.bias", f"layers/{i}/norm/bias"),
                (f"layers.{i}.norm2.weight", f"layers/{i}/mlp_norm/scale"),
                (f"layers.{i}.norm2.bias", f"layers/{i}/mlp_norm/bias"),
                ("norm.weight", "norm/scale"),
                ("norm.bias", "norm/bias"),
            )
        },
    )
)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.file)
def test_outputs_and_gradients(shared, fixture):
    check(Reference(shared, fixture.file), fixture, 1)


def check(reference, fixture, out_features):
    """All that the file has of a model over a given graph."""
    module = load(reference, fixture, 32, out_features)
    x, mask, adjacency, cotangent, places = padded_batch(reference)
    edges = edges_of_matrix(adjacency)
    graph, params = nnx.split(module)

    @jax.jit
    def both(params, x):
        def value(params, x):
            module = nnx.merge(graph, params)
            output = module.over(x, jnp.asarray(mask), edges)
            encoded = module.encoded(x, jnp.asarray(mask), edges, deterministic=True, rngs=None)
            return (output.logits[:, 0] * cotangent).sum(), (output, encoded)

        return jax.grad(value, (0, 1), has_aux=True)(params, x)

    with jax.default_matmul_precision("highest"):
        (grad_w, grad_x), (output, encoded) = both(params, jnp.asarray(x))
    for case, (rows, n) in places.items():
        real = mask[rows, :n]
        assert reference.names("out", case) <= {"logits", "attn_raw", "encoded"}
        close(output.logits[rows, 0], reference.get("out", case, "logits"))
        close(np.asarray(output.extras["scores"])[rows, :n, 0] * real, reference.get("out", case, "attn_raw") * real)
        close(grad_x[rows, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
        if "encoded" in reference.names("out", case):
            close(
                np.asarray(encoded)[rows, :n] * real[..., None], reference.get("out", case, "encoded") * real[..., None]
            )
    flat = {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(grad_w)}
    checked = set()
    for theirs, (ours, rearrange) in partners(fixture, flat).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in places]
        if each[0] is not None:
            close(flat[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum
            checked.add(f"w/{theirs}")
    assert checked == reference.names("grad", "") - {"x"}
