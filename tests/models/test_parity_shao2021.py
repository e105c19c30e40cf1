"""TransMIL and Nystrom attention against arrays of the authors' code, of MIL-Lab's and of torchmil's.

All of them ran the library's attention, zeros in front included: `compat="authors"`.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, bags_of, check_gradients, close, load

from milkit.foreign_weights import shao2021
from milkit.foreign_weights.shao2021 import along
from milkit.models import TransMIL
from milkit.nn.nystrom import NystromAttention
from milkit.types import Bags

FIXTURES = [
    Fixture("transmil", TransMIL(width=64, compat="authors"), read=shao2021.authors),
    Fixture("millab_transmil", TransMIL(width=32, heads=4, compat="authors"), read=shao2021.mil_lab),
    Fixture(
        "torchmil_transmil",
        TransMIL(width=32, heads=4, encoder=False, projection=False, residual=0, compat="authors"),
        read=shao2021.torchmil,
    ),
]
STAGES = {
    "fc1": "encoded",
    "layer1": "layer1",
    "layer0": "layer1",
    "ppeg": "ppeg",
    "layer2": "layer2",
    "normed": "normed",
}
READ_OFF = {"logits", "prob", "y_hat", "bag_embedding", "nystrom1", "attn_raw", *STAGES}


pytestmark = pytest.mark.usefixtures("quick_and_exact")


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.file)
def test_every_layer_and_gradient(shared, fixture):
    reference = Reference(shared, fixture.file)
    module = load(reference, fixture, 32, reference.get("out", "", "logits").size)
    for case in reference.cases:
        check(reference, fixture, module, case)


def gradients(module, bags, cotangent):
    """Output, what each layer gave, and the gradients of the weights, by path, and of x."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def value(params, x):
        module = nnx.merge(graph, params, rest)
        stages = module.stages(Bags(x, bags.mask))
        output = module.read(stages, bags.mask)
        return (output.logits * cotangent).sum(), (output, stages)

    (grad_w, grad_x), (output, stages) = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, bags.x)
    by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
    return output, stages, by_path, np.asarray(grad_x)


def check(reference, fixture, module, case):
    bags = bags_of(reference, fixture, case)
    cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"]).reshape(bags.x.shape[0], -1)
    output, stages, grad_w, grad_x = gradients(module, bags, cotangent)
    of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
    assert set(of) <= READ_OFF
    close(output.logits, of["logits"])
    if "prob" in of:
        close(jax.nn.softmax(output.logits), of["prob"])
        assert (output.logits.argmax(1) == of["y_hat"].ravel()).all()
    for theirs, ours in STAGES.items():
        if theirs in of:
            close(stages[ours], of[theirs])
    if "nystrom1" in of:
        encoded = stages["layer1"] - of["nystrom1"]  # the tokens before
        close(encoded[:, 0], jnp.broadcast_to(module.class_token[...], encoded[:, 0].shape))
        close(encoded[:, 1 : 1 + bags.x.shape[1]], of["fc1"])
    if "bag_embedding" in of:
        close(output.embedding, of["bag_embedding"])
        tokens = np.asarray(stages["layer1"], np.float64)
        close(np.einsum("bd,bnd->bn", tokens[:, 0], tokens[:, 1:]), of["attn_raw"])
    check_gradients(reference, fixture, case, grad_w, grad_x)


@pytest.mark.parametrize(
    ("file", "at_once"),
    [("nystrom_attention", 16_384), ("nystrom_attention", 7), ("nystrom_attention_nores_it3", 16_384)],
    ids=["whole", "chunks", "no_convolution"],
)
def test_nystrom_attention_is_the_librarys(shared, file, at_once):
    reference = Reference(shared, file)
    sizes = json.loads(str(reference.arrays["meta"]))["kwargs"]
    for case in reference.cases:
        mask_key = f"mask{case}"
        attention = NystromAttention(
            sizes["dim"],
            rngs=nnx.Rngs(0),
            heads=sizes["heads"],
            head_width=sizes["dim_head"],
            landmarks=sizes["num_landmarks"],
            iterations=sizes["pinv_iterations"],
            kernel=sizes.get("residual_conv_kernel", 0),
            compat="authors_masked" if mask_key in reference.arrays.files else "authors",
            at_once=at_once,
        )
        attention.qkv.kernel[...] = jnp.asarray(reference.weights["attn.to_qkv.weight"].T)
        attention.out.kernel[...] = jnp.asarray(reference.weights["attn.to_out.0.weight"].T)
        attention.out.bias[...] = jnp.asarray(reference.weights["attn.to_out.0.bias"])
        if sizes["residual"]:
            attention.residual[...] = jnp.asarray(along(reference.weights["attn.res_conv.weight"]))
        check_attention(reference, attention, case)


def check_attention(reference, attention, case):
    x, cotangent = (jnp.asarray(reference.arrays[f"{name}{case}"]) for name in ("x", "cotangent"))
    mask = reference.arrays.get(f"mask{case}", np.ones(x.shape[:2], bool))
    graph, params = nnx.split(attention)

    @jax.jit
    def both(params, x):
        def value(params, x):
            y, first = nnx.merge(graph, params)(x, jnp.asarray(mask))
            return (y * cotangent).sum(), (y, first)

        return jax.grad(value, (0, 1), has_aux=True)(params, x)

    (grad_w, grad_x), (y, first) = both(params, x)
    close(y, reference.get("out", case, "y"))
    whole = reference.get("out", case, "attn")
    start = whole.shape[-1] - x.shape[1]  # zeros in front of the first token
    close(first, whole[:, :, start, start:].swapaxes(1, 2) * mask[..., None])
    close(grad_x, reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    close(grad_w["qkv"]["kernel"][...].T, reference.get("grad", case, "w/attn.to_qkv.weight"), GRADIENT_TOLERANCE)
