"""DeepGraphSurv against arrays of torchmil; the default, whose polynomials are laid out right, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from graphs_of_files import edges_of_matrix
from parity import Fixture, Reference, check_gradients, close, load, softmax_of

from milkit.models.li2018 import ChebyshevConvolution, DeepGraphSurv
from milkit.nn.smooth import edges_of
from milkit.types import Bags

pytestmark = pytest.mark.usefixtures("quick_and_exact")


FIXTURE = Fixture(
    "torchmil_deepgraphsurv",
    DeepGraphSurv(
        width=24, convolutions=2, attention=12, attention_convolutions=1, order=3, compat="torchmil"
    ),
    {"proj1d.module": "score", "classifier.module": "classifier", "layers_att.0.fc": "attention/0/mix"}
    | {f"layers_rep.{i}.fc": f"convolutions/{i}/mix" for i in range(2)},
    unused=("proj1d.module.bias",),
)  # fmt: skip


def test_the_librarys_numbers(shared):
    """Each case at its own length, which that layout depends on."""
    reference = Reference(shared, FIXTURE.file)
    module = load(reference, FIXTURE, 32, 1)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    for case in reference.cases:
        x, edges = reference.arrays[f"x{case}"], edges_of_matrix(reference.arrays[f"adj{case}"])
        mask = np.ones(x.shape[:2], bool) if case != "3" else reference.arrays["mask3"].astype(bool)
        cotangent = reference.arrays[f"cotangent{case}"]

        def value(params, x, mask=mask, edges=edges, cotangent=cotangent):
            output = nnx.merge(graph, params, rest).over(x, jnp.asarray(mask), edges)
            return (output.logits[:, 0] * cotangent).sum(), output

        (grad_w, grad_x), output = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, jnp.asarray(x))
        close(output.logits[:, 0], reference.get("out", case, "logits"))
        raw = np.where(mask, reference.get("out", case, "attn_raw"), -1e9)
        close(output.attention[..., 0], softmax_of(raw))
        by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
        check_gradients(reference, FIXTURE, case, by_path, np.asarray(grad_x))


@pytest.mark.parametrize("order", [2, 3, 6])
def test_a_convolution_is_the_sum_of_the_polynomials(order):
    """On a graph with an isolated tile and padding; the matrix in float64."""
    rng = np.random.default_rng(0)
    cells = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [2, 1], [1, 2], [9, 9]], np.float32)
    x = rng.normal(size=(7, 5)).astype(np.float32)
    bags = Bags.of([x, x[:2]], [cells * 256, cells[:2] * 256])
    layer = ChebyshevConvolution(5, 3, order, rngs=nnx.Rngs(1))
    got = nnx.jit(lambda layer, bags: layer(bags.x, edges_of(bags, 8, 400.0, model="a test")))(layer, bags)

    apart = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    adjacency = ((apart > 0) & (apart * 256 <= 400)).astype(float)
    degree = adjacency.sum(1)
    assert (degree == 0).sum() == 1
    root = 1 / np.sqrt(np.maximum(degree, 1))
    laplacian = np.diag(degree > 0) - root[:, None] * adjacency * root
    moved = laplacian - np.eye(7)
    kernels = np.asarray(layer.mix.kernel[...], np.float64).reshape(order, 5, 3)
    terms = [x.astype(np.float64), moved @ x]
    while len(terms) < order:
        terms.append(2 * moved @ terms[-1] - terms[-2])
    close(got[0], sum(term @ kernel for term, kernel in zip(terms, kernels, strict=True)))


def test_shuffled_with_their_places_tiles_say_the_same():
    rng = np.random.default_rng(0)
    x, cells = rng.normal(size=(14, 5)).astype(np.float32), rng.permutation(25)[:14]
    xy = np.stack([cells % 5, cells // 5], 1).astype(np.float32) * 256
    order = rng.permutation(14)
    module = DeepGraphSurv(width=8, attention=8, convolutions=2, neighbours=4).build(5, 2, rngs=nnx.Rngs(0))
    output = nnx.jit(lambda m, bags: m(bags))(module, Bags.of([x, x[order]], [xy, xy[order]]))
    close(output.logits[1], output.logits[0])
    close(output.attention[1], output.attention[0][order])
