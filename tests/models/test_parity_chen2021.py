"""Patch-GCN against arrays of its authors' code and of torchmil; a graph from positions; permutation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from graphs_of_files import edges_of_matrix, padded_batch
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, load, partners, softmax_of

from milkit.models.chen2021 import PatchGCN
from milkit.nn.graph import neighbours_of
from milkit.types import Bags

pytestmark = pytest.mark.usefixtures("quick_and_exact")


def norm(theirs, ours):
    return {f"{theirs}.weight": (f"{ours}/scale", np.asarray), f"{theirs}.bias": (f"{ours}/bias", np.asarray)}


def authors(file, bias):
    weights = {"fc.0": "projection/layers/0", "path_phi.0": "join/layers/0", "path_rho.0": "hidden/layers/0"}
    weights |= {"classifier": "classifier"}
    weights |= {f"path_attention_head.attention_{a}": f"pool/{b}" for a, b in (("a.0", "tanh"), ("b.0", "gate"))}
    weights["path_attention_head.attention_c"] = "pool/score"
    arrays = {}
    for i in range(3):
        weights |= {f"layers.{i}.conv.mlp.{a}": f"convolutions/{i}/{b}" for a, b in ((0, "wide"), (4, "narrow"))}
        arrays |= norm(f"layers.{i}.conv.mlp.1", f"convolutions/{i}/norm")
        arrays[f"layers.{i}.conv.aggr_module.t"] = (f"convolutions/{i}/temperature", np.asarray)
        arrays |= norm(f"layers.{i}.norm", f"norms/{i - 1}") if i else {}
    unused = ("path_attention_head.attention_c.bias", "layers.0.norm.weight", "layers.0.norm.bias")
    return Fixture(file, PatchGCN(width=16, bias=bias), weights, arrays=arrays, unused=unused)


def torchmil():
    weights = {"mlp.0.0.module": "join/layers/0", "classifier.module": "classifier"}
    weights |= {"pool.fc1.module": "pool/tanh", "pool.fc2": "pool/score"}
    weights |= {f"gcn_layers.{i}.conv.fc.module": f"convolutions/{i}" for i in range(3)}
    arrays = {}
    for i in range(3):
        arrays |= norm(f"gcn_layers.{i}.norm", f"norms/{i}")
    config = PatchGCN(width=16, attention=12, dropout=0.0, compat="torchmil")
    return Fixture("torchmil_patchgcn", config, weights, arrays=arrays)


def neighbours_of_edges(edges, n):
    """Sources of each target, -1 after the last."""
    found = [[int(a) for a, b in edges.T if b == target] for target in range(n)]
    result = np.full((n, max(1, *map(len, found))), -1, np.int32)
    for row, sources in zip(result, found, strict=True):
        row[: len(sources)] = sources
    return result


def together(arrays, cases):
    """The graphs of all cases of a file in one padded batch."""
    bags = Bags.of([arrays[f"x{case}"] for case in cases])
    graphs = [neighbours_of_edges(arrays[f"edge_index{case}"], len(arrays[f"x{case}"])) for case in cases]
    neighbours = np.full((*bags.mask.shape, max(g.shape[1] for g in graphs)), -1, np.int32)
    for row, graph in zip(neighbours, graphs, strict=True):
        row[: len(graph), : graph.shape[1]] = graph
    return Bags(bags.x, bags.mask, neighbours=jnp.asarray(neighbours))


def gradients(module, bags, value):
    """What `value(module, x)` gives beside a number, and that number's gradients."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    function = jax.jit(jax.grad(lambda p, x: value(nnx.merge(graph, p, rest), x), (0, 1), has_aux=True))
    (grad_w, grad_x), aux = function(params, bags.x)
    by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
    return aux, by_path, np.asarray(grad_x)


def close_gradients(reference, fixture, grad_w):
    """Those of the weights, summed over the cases, which were one batch."""
    checked = 0
    for theirs, (ours, rearrange) in partners(fixture, grad_w).items():
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        if each[0] is not None:
            close(grad_w[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize(("file", "bias"), [("patchgcn", False), ("patchgcn_genbias", True)])
def test_every_layer_and_gradient(shared, file, bias):
    fixture, reference = authors(file, bias), Reference(shared, file)
    module = load(reference, fixture, 32, 4)
    bags = together(reference.arrays, reference.cases)
    cotangent = np.stack([reference.arrays[f"cotangent{case}"] for case in reference.cases])

    def value(module, x):
        given = Bags(x, bags.mask, neighbours=bags.neighbours)
        output = module(given)
        layers = module.layers(x, bags.neighbours, bags.neighbours >= 0)
        return (output.logits * cotangent).sum(), (output, layers, module.join(jnp.concatenate(layers, -1)))

    (output, layers, joined), grad_w, grad_x = gradients(module, bags, value)
    rho = reference.weights["path_rho.0.bias"]
    survival = np.cumprod(1 - np.asarray(jax.nn.sigmoid(output.logits)), 1)
    for i, case in enumerate(reference.cases):
        n = len(reference.arrays[f"x{case}"])
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        close(output.logits[i], of.pop("logits"))
        close(jax.nn.sigmoid(output.logits[i]), of.pop("hazards"))
        close(survival[i], of.pop("S"))
        assert int(output.logits[i].argmax()) == int(of.pop("y_hat").item())
        close(output.attention[i, :n, 0], of.pop("attn"))
        close(output.attention[i, :n, 0], softmax_of(of.pop("attn_raw")))
        pooled = of.pop("bag_embedding")
        close(np.einsum("nk,ne->ke", output.attention[i], joined[i]), pooled)
        close(output.embedding[i], nnx.relu(pooled @ reference.weights["path_rho.0.weight"].T + rho))
        for name, ours in {"fc": layers[0], "gen0": layers[1], "layer1": layers[2], "layer2": layers[3]}.items():
            close(ours[i, :n], of.pop(name))
        close(joined[i, :n], of.pop("path_phi"))
        assert not of
        close(grad_x[i, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    close_gradients(reference, fixture, grad_w)


def test_the_librarys_version(shared):
    fixture, reference = torchmil(), Reference(shared, "torchmil_patchgcn")
    module = load(reference, fixture, 32, 1)
    x, mask, adjacency, cotangent, places = padded_batch(reference)
    edges, bags = edges_of_matrix(adjacency), Bags(jnp.asarray(x), jnp.asarray(mask))

    def value(module, x):
        output = module.over(x, bags.mask, edges)
        return (output.logits[:, 0] * cotangent).sum(), output

    output, grad_w, grad_x = gradients(module, bags, value)
    for case, (rows, n) in places.items():
        close(output.logits[rows], reference.get("out", case, "logits"))
        raw = np.where(mask[rows, :n], reference.get("out", case, "attn_raw"), -1e9)
        close(output.attention[rows, :n, 0], softmax_of(raw))
        close(grad_x[rows, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    close_gradients(reference, fixture, grad_w)


@pytest.mark.parametrize("compat", ["correct", "torchmil"])
def test_shuffled_with_their_places_tiles_say_the_same(compat):
    rng = np.random.default_rng(0)
    x, cells = rng.normal(size=(14, 5)).astype(np.float32), rng.permutation(25)[:14]
    xy = np.stack([cells % 5, cells // 5], 1).astype(np.float32) * 256
    order = rng.permutation(14)
    module = PatchGCN(width=8, neighbours=3, compat=compat).build(5, 2, rngs=nnx.Rngs(0))
    output = nnx.jit(lambda m, bags: m(bags))(module, Bags.of([x, x[order]], [xy, xy[order]]))
    close(output.logits[1], output.logits[0])
    close(output.attention[1], output.attention[0][order])


def test_what_lies_far_off_is_not_heard():
    """The layers of two bags that lie on one slide, a millimetre apart, are those of the bags alone."""
    rng = np.random.default_rng(1)
    x, xy = rng.normal(size=(12, 5)).astype(np.float32), rng.uniform(0, 300, (12, 2)).astype(np.float32)
    xy[6:] += 2000
    module = PatchGCN(width=8, neighbours=8, radius_um=1000.0).build(5, 1, rngs=nnx.Rngs(0))

    def layers(bags):
        index, exists = neighbours_of(bags, 8, 1000.0)
        return jnp.concatenate(module.layers(bags.x, index, exists), -1)

    whole = jax.jit(layers)(Bags.of([x], [xy]))[0]
    parts = jax.jit(layers)(Bags.of([x[:6], x[6:]], [xy[:6], xy[6:]]))
    close(whole, parts.reshape(whole.shape))
