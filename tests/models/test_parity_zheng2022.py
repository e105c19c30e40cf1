"""GTP against arrays of torchmil; the paper's convolution, graph attention and the pooling's losses against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from graphs_of_files import edges_of_matrix, padded_batch
from parity import GRADIENT_TOLERANCE, Fixture, Reference, close, load, partners

from milkit.models.zheng2022 import GTP
from milkit.nn.mincut import cut_loss, orthogonality_loss
from milkit.nn.smooth import Edges, edges_of
from milkit.types import Bags, Batch

pytestmark = pytest.mark.usefixtures("quick_and_exact")


def norm(theirs, ours):
    return {f"{theirs}.weight": (f"{ours}/scale", np.asarray), f"{theirs}.bias": (f"{ours}/bias", np.asarray)}


def fixture_of():
    encoder = "transformer_encoder"
    weights = {"cluster_proj": "share", "classifier": "classifier", f"{encoder}.layers.0.in_proj": "layers/0/inward"}
    weights[f"{encoder}.layers.1.out_proj"] = "layers/1/outward"
    arrays = {
        "cls_token": ("class_token", np.ravel),
        "gcn_conv.fc.module.weight": ("convolutions/0/mix/kernel", np.transpose),
        "gcn_conv.fc.module.bias": ("convolutions/0/bias", np.asarray),
    } | norm(f"{encoder}.norm", "norm")
    for i in range(2):
        theirs, ours = f"{encoder}.layers.{i}", f"layers/{i}"
        weights |= {f"{theirs}.mlp_module.0": f"{ours}/first", f"{theirs}.mlp_module.3": f"{ours}/second"}
        arrays |= norm(f"{theirs}.norm1", f"{ours}/norm") | norm(f"{theirs}.norm2", f"{ours}/mlp_norm")
        arrays[f"{theirs}.att_module.qkv_nn.weight"] = (f"{ours}/qkv/kernel", np.transpose)
    config = GTP(width=16, clusters=5, layers=2, heads=2, compat="torchmil")
    return Fixture("torchmil_gtp", config, weights, arrays=arrays)


def test_the_librarys_numbers(shared):
    fixture, reference = fixture_of(), Reference(shared, "torchmil_gtp")
    module = load(reference, fixture, 32, 1)
    x, mask, adjacency, cotangent, places = padded_batch(reference)
    edges = edges_of_matrix(adjacency)
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def value(params, x):
        module = nnx.merge(graph, params, rest)
        stages = module.stages(x, jnp.asarray(mask), edges)
        output = module.read(stages, edges)
        return (output.logits[:, 0] * cotangent).sum(), (output, stages)

    (grad_w, grad_x), (output, stages) = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, jnp.asarray(x))
    for case, (rows, n) in places.items():
        of = {name: reference.get("out", case, name) for name in reference.names("out", case)}
        close(output.logits[rows], of.pop("logits"))
        close(output.extras["cut"][rows].mean(), of.pop("mincut_loss"))
        close(output.extras["orthogonality"][rows].mean(), of.pop("ortho_loss"))
        real = mask[rows, :n, None]
        close(stages["convolved"][rows, :n] * real, of.pop("gcn") * real)
        close(stages["encoded"][rows], of.pop("encoded"))
        assert not of
        close(grad_x[rows, :n], reference.get("grad", case, "x"), GRADIENT_TOLERANCE)
    by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
    for theirs in ("cluster_proj.weight", "gcn_conv.fc.module.weight"):
        ours, rearrange = partners(fixture, by_path)[theirs]
        each = [reference.get("grad", case, f"w/{theirs}") for case in reference.cases]
        close(by_path[ours], rearrange(sum(each)), GRADIENT_TOLERANCE)


CELLS = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [2, 1], [1, 2], [9, 9]], np.float32)
TOUCH = (np.abs(CELLS[:, None] - CELLS[None]).max(-1) == 1).astype(float)
"""Six tiles that touch and one that lies apart."""


def two_bags(width=5):
    x = np.random.default_rng(0).normal(size=(7, width)).astype(np.float32)
    return x, Bags.of([x[:2], x], [CELLS[:2] * 256, CELLS * 256])


def softmax(a, axis=-1):
    e = np.exp(a - a.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def through(config, bags):
    module = config.build(bags.x.shape[-1], 1, rngs=nnx.Rngs(3))

    @nnx.jit
    def both(module, bags):
        edges = edges_of(bags, 8, 400.0, model="a test", keep_isolated=False)
        stages = module.stages(bags.x, bags.mask, edges)
        return stages, module.read(stages, edges)

    return module, *both(module, bags)


def test_the_papers_convolution_and_losses():
    x, bags = two_bags()
    module, stages, output = through(GTP(width=8, clusters=3, layers=1, heads=2, radius_um=400.0), bags)
    joined = TOUCH + np.eye(7)
    root = 1 / np.sqrt(joined.sum(1))
    layer = module.convolutions[0]
    mixed = x @ np.asarray(layer.mix.kernel[...], np.float64)
    h = np.maximum(root[:, None] * joined * root @ mixed + np.asarray(layer.bias[...]), 0)
    close(stages["convolved"][1], h)
    shares = softmax(h @ np.asarray(module.share.kernel[...], np.float64) + np.asarray(module.share.bias[...]))
    close(stages["shares"][1], shares)
    root = 1 / np.sqrt(np.maximum(TOUCH.sum(1), 1))
    adjacency = root[:, None] * TOUCH * root
    cut = -np.trace(shares.T @ adjacency @ shares) / np.trace(shares.T @ np.diag(adjacency.sum(1)) @ shares)
    close(output.extras["cut"][1], cut)
    overlap = shares.T @ shares
    close(
        output.extras["orthogonality"][1],
        np.linalg.norm(overlap / np.linalg.norm(overlap) - np.eye(3) / np.sqrt(3)),
    )
    took = np.asarray(stages["took"], np.float64)[1, 1:]
    given = shares / shares.sum(0) @ took
    close(output.attention[1, :, 0], given / given.sum())


def test_graph_attention():
    x, bags = two_bags()
    config = GTP(width=6, convolution="gat", clusters=3, layers=1, heads=2, radius_um=400.0)
    module, stages, _ = through(config, bags)
    layer = module.convolutions[0]
    layer_of = {name: np.asarray(getattr(layer, name)[...], np.float64) for name in ("asks", "answers", "bias")}
    mixed = (x @ np.asarray(layer.mix.kernel[...], np.float64)).reshape(7, 2, 3)
    want = np.zeros((7, 2, 3))
    for i in range(7):
        ends = [i, *np.flatnonzero(TOUCH[i])]
        score = (mixed[i] * layer_of["asks"]).sum(-1) + (mixed[ends] * layer_of["answers"]).sum(-1)
        want[i] = np.einsum("jh,jhc->hc", softmax(np.where(score > 0, score, 0.2 * score), 0), mixed[ends])
    close(stages["convolved"][1], np.maximum(want.reshape(7, 6) + layer_of["bias"], 0))


def test_losses_by_hand():
    """Two pairs of tiles: each pair a cluster is the best; all in one cluster cuts nothing but is lopsided."""
    edges = Edges(jnp.array([[[1], [0], [3], [2]]] * 2), jnp.ones((2, 4, 1)), jnp.zeros((2, 4)))
    apart = [[1, 0], [1, 0], [0, 1], [0, 1]]
    shares = jnp.array([apart, [[1, 0]] * 4], jnp.float32)
    close(cut_loss(shares, edges), [-1, -1])
    close(orthogonality_loss(shares)[1], np.sqrt((1 - np.sqrt(0.5)) ** 2 + 0.5))
    assert abs(float(orthogonality_loss(shares)[0])) < 1e-6
    nothing = Edges(edges.ends[:1] * 0 - 1, edges.weight[:1] * 0, edges.own[:1])
    assert float(cut_loss(shares[:1], nothing)[0]) == 0  # no edges, nothing to cut


def test_the_objective_adds_the_losses_by_weight():
    config = GTP(cut_weight=0.5, orthogonality_weight=2.0, width=8, heads=2, clusters=3, layers=1, radius_um=400.0)
    _, bags = two_bags()
    _, _, output = through(config, bags)
    batch = Batch(bags, jnp.zeros(2, int), jnp.ones(2), jnp.arange(2))
    loss, parts = config.objective(output, batch, lambda logits: logits[:, 0])
    close(loss, output.logits[:, 0] + 0.5 * output.extras["cut"] + 2 * output.extras["orthogonality"])
    assert set(parts) == {"bag", "cut", "orthogonality"}


@pytest.mark.parametrize("convolution", ["gcn", "gat"])
def test_shuffled_with_their_places_tiles_say_the_same(convolution):
    x, _ = two_bags()
    order = np.random.default_rng(1).permutation(7)
    bags = Bags.of([x, x[order]], [CELLS * 256, CELLS[order] * 256])
    config = GTP(width=8, convolution=convolution, clusters=3, layers=1, heads=2, neighbours=3)
    output = nnx.jit(lambda m, bags: m(bags))(config.build(5, 2, rngs=nnx.Rngs(0)), bags)
    close(output.logits[1], output.logits[0])
    close(output.attention[1], output.attention[0][order])
