"""ILRA against arrays of its authors' code and of MIL-Lab, all cases of a file in one padded batch."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, fill, partners, run

from milkit.foreign_weights import xiang2023
from milkit.models.xiang2023 import ILRA
from milkit.types import Bags


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(("file", "norms"), [("ilra", False), ("ilra_ln", True), ("millab_ilra", True)])
def test_outputs_and_gradients(shared, file, norms):
    read = xiang2023.mil_lab if file.startswith("millab") else xiang2023.authors
    config = ILRA(blocks=2, width=32, heads=4, rank=3, layer_norm=norms)
    fixture, reference = Fixture(file, config, read=read), Reference(shared, file)
    module = fixture.config.build(32, 2, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    bags = Bags.of([x for case in reference.cases for x in reference.arrays[f"x{case}"]])
    cotangent = jnp.concatenate([reference.arrays[f"cotangent{case}"] for case in reference.cases])
    with jax.default_matmul_precision("highest"):
        output, grad_w, grad_x = run(module, bags, lambda output: (output.logits * cotangent).sum())
        blocks = nnx.jit(through_blocks)(module, bags) if file != "millab_ilra" else None
    first = 0
    for case in reference.cases:
        b, n, _ = reference.arrays[f"x{case}"].shape
        rows, real = slice(first, first + b), slice(n)
        first += b
        close(output.logits[rows], reference.get("out", case, "logits"))
        close(grad_x[rows, real], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
        if blocks is not None:
            close(output.embedding[rows], reference.get("out", case, "pooled"))
            latents, one, two = blocks
            close(latents[rows], reference.get("out", case, "gab0_latent_out"))
            close(one[rows, real], reference.get("out", case, "gab0"))
            close(two[rows, real], reference.get("out", case, "gab1"))
    checked = 0
    for theirs, (ours, rearrange) in partners(fixture, grad_w, reference.weights).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        if each[0] is not None:
            close(grad_w[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum
            checked += 1
    assert checked >= 2


def through_blocks(module, bags):
    one, latents = module.blocks[0](bags.x, bags.mask)
    return latents, one, module.blocks[1](one, bags.mask)[0]
