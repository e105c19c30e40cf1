"""WiKG against arrays of its authors' code and of MIL-Lab; the paper's own attention against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, load, partners

from milkit.models.li2024 import WiKG, best_matches
from milkit.types import Bags

pytestmark = pytest.mark.usefixtures("quick_and_exact")


LAYERS = {"W_head": "head", "W_tail": "tail", "fc": "classifier", "_fc1.0": "projection"}
JOINS = {"bi-interaction": {"linear1": "joins/0", "linear2": "joins/1"}, "gcn": {"linear": "joins/0"}}
JOINS["sage"] = JOINS["gcn"]


def fixture_of(file, aggregation, pooling, compat):
    renamed = {"patch_embed.0": "projection", "classifier": "classifier"}
    layers = {k: v for k, v in LAYERS.items() if compat == "authors" or v not in renamed.values()}
    layers |= JOINS[aggregation] | ({} if compat == "authors" else renamed)
    unused = [f"gate_{a}.{kind}" for a in "UVW" for kind in ("weight", "bias")]
    if pooling == "attention":
        layers |= {"readout.gate_nn.0": "hidden", "readout.gate_nn.2": "score"}
        unused.append("readout.gate_nn.2.bias")
    config = WiKG(width=24, k=4, aggregation=aggregation, pooling=pooling, compat=compat)
    arrays = {"norm.weight": ("norm/scale", np.asarray), "norm.bias": ("norm/bias", np.asarray)}
    return Fixture(file, config, layers, arrays=arrays, unused=tuple(unused))


FIXTURES = [
    fixture_of("wikg", "bi-interaction", "attention", "authors"),
    fixture_of("wikg_gcn_mean", "gcn", "mean", "authors"),
    fixture_of("wikg_sage_max", "sage", "max", "authors"),
    fixture_of("millab_wikg", "bi-interaction", "attention", "mil_lab"),
]


def gradients(module, bags, cotangent):
    graph_, params, rest = nnx.split(module, nnx.Param, ...)

    def value(params, x):
        module = nnx.merge(graph_, params, rest)
        output = module(Bags(x, bags.mask))
        return (output.logits * cotangent).sum(), (output, module.stages(x, bags.mask))

    (grad_w, grad_x), (output, stages) = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, bags.x)
    by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
    return output, stages, by_path, np.asarray(grad_x)


def normalised(module, z):
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
    return z * np.asarray(module.norm.scale[...], np.float64) + np.asarray(module.norm.bias[...], np.float64)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.file)
def test_every_stage_and_gradient(shared, fixture):
    """All cases of a file in one padded batch."""
    reference = Reference(shared, fixture.file)
    module = load(reference, fixture, 32, 2)
    bags = Bags.of([reference.arrays[f"x{case}"][0] for case in reference.cases])
    cotangent = np.concatenate([reference.arrays[f"cotangent{case}"] for case in reference.cases])
    output, stages, grad_w, grad_x = gradients(module, bags, jnp.asarray(cotangent))
    for i, case in enumerate(reference.cases):
        n = reference.arrays[f"x{case}"].shape[1]
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        close(output.logits[i], of.pop("logits"))
        embedding = of.pop("bag_embedding")
        close(output.embedding[i], embedding if fixture.config.compat == "mil_lab" else normalised(module, embedding))
        if "attn" in of:
            whole = np.zeros(of["attn"].shape)
            np.put_along_axis(whole[0], np.asarray(stages["index"])[i, :n], np.asarray(stages["p"])[i, :n], 1)
            close(whole, of.pop("attn"))
        for name, want in of.items():
            close(stages[{"fc1": "projected", "e_h": "head", "e_t": "tail"}[name]][i, :n], want)
        close(grad_x[i, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    checked = 0
    for theirs, (ours, rearrange) in partners(fixture, grad_w).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        if each[0] is not None:
            close(grad_w[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)  # of a batch the sum
            checked += 1
    assert checked >= 2


def reference_heard(head, tail, k):
    """The paper's equations for one bag, in float64."""
    product = head @ tail.T / np.sqrt(head.shape[1])
    heard = np.zeros(head.shape)
    for i, h in enumerate(head):
        chosen = np.argsort(-product[i])[:k]
        p, t = np.exp(product[i, chosen]), tail[chosen]
        p = (p / p.sum())[:, None]
        edge = p * t + (1 - p) * h
        weight = np.exp((t * np.tanh(h + edge)).sum(1))
        heard[i] = (weight / weight.sum()) @ t
    return heard


def test_the_default_has_the_papers_dot_product():
    """Bags of other sizes than k divides, one of them smaller than k, beside each other and in blocks."""
    rng = np.random.default_rng(0)
    bags = Bags.of([rng.normal(size=(n, 7)).astype(np.float32) for n in (13, 3, 1)])
    module = WiKG(width=10, k=5, dropout=0.0).build(7, 1, rngs=nnx.Rngs(1))
    whole = nnx.jit(lambda m, x, mask: m.stages(x, mask))(module, bags.x, bags.mask)
    for i, n in enumerate((13, 3, 1)):
        head, tail = (np.asarray(whole[name], np.float64)[i, :n] for name in ("head", "tail"))
        close(whole["heard"][i, :n], reference_heard(head, tail, 5))
    blocks = best_matches(whole["head"], whole["tail"], bags.mask, 5, at_once=3 * 13 * 4)  # four instances at a time
    assert (blocks[0] == whole["index"]).all()


def test_matches_hold_no_matrix_of_all_pairs():
    n = 3000
    h, mask = jnp.zeros((1, n, 4)), jnp.ones((1, n), bool)
    compiled = jax.jit(lambda h: best_matches(h, h, mask, 6, at_once=1 << 16)).lower(h).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * n / 10
