"""A model against arrays that the original PyTorch code produced: how a file is read, loaded and compared.

The reference is its float64 run (`out64`, `grad64`); milkit runs in float32. Torch keeps linear weights as [out, in].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from milkit import foreign_weights
from milkit.foreign_weights import Names, Shapes, place
from milkit.types import Bags, Output

OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4  # relative to the largest value of the array

Rearrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fixture:
    """One file: the config that corresponds to it, and where each of its weights goes."""

    file: str
    config: object
    weights: dict[str, str] = field(default_factory=dict)
    """Linear layers: the file's name without `.weight` and `.bias`, milkit's without `/kernel` and `/bias`."""
    mask: str = ""
    """Key of its mask, if it has one; a leading ! where it marks padding."""
    skip_columns: int = 0
    """Leading columns of x that the original ignores (tile coordinates)."""
    arrays: dict[str, tuple[str, Rearrange]] = field(default_factory=dict)
    """Any other array: the file's whole name, milkit's whole path (of a Param, or of a variable that is not trained)
    and how the one is rearranged into the other (convolutions, stacks); gradients are rearranged in the same way."""
    unused: tuple[str, ...] = ()
    """Whole names of the file's weights that milkit has no need of."""

    read: Callable | None = None
    """A naming that the package knows (`milkit.foreign_weights`), which says where weights go in place of the above."""

    def names(self, weights):
        """Where each weight goes."""
        if self.read is None:
            return Names(self.weights, self.arrays, self.unused)
        return self.read(Shapes({name: array.shape for name, array in weights.items()})).names


class Reference:
    """The arrays of one file."""

    def __init__(self, folder, file):
        self.arrays = np.load(folder / "parity" / "slide" / f"{file}.npz", allow_pickle=False)
        self.weights = {k[2:]: self.arrays[k] for k in self.arrays.files if k.startswith("w/")}
        self.cases = [k[1:] for k in self.arrays.files if k[0] == "x" and (k[1:] == "" or k[1:].isdigit())]

    def get(self, kind, case, name):
        """`out` or `grad` in float64; None where the file has no such array."""
        key = f"{kind}64{'_' + case if case else ''}/{name}"
        return self.arrays[key] if key in self.arrays.files else None

    def names(self, kind, case):
        """Names of the `out` or `grad` arrays of a case in float64: to see that a test forgets none."""
        start = f"{kind}64{'_' + case if case else ''}/"
        return {k[len(start) :] for k in self.arrays.files if k.startswith(start)}


def load(reference, fixture, in_features, out_features):
    """A module with the file's weights; every weight of either side must find its partner."""
    module = fixture.config.build(in_features, out_features, rngs=nnx.Rngs(0))
    fill(module, reference.weights, fixture)
    return module


def fill(module, weights, fixture):
    """Write the file's weights into the module, in place; every weight of either side must find its partner."""
    place(module, weights, fixture.names(weights), fixture.file)


def partners(fixture, mine, weights=()):
    """The file's whole names -> (milkit's whole path, rearrangement); a bias only where milkit has one."""
    return foreign_weights.partners(fixture.names(dict(weights)), mine)


def bags_of(reference, fixture, case):
    """The bags of one case; x without a batch axis is one bag."""
    x = reference.arrays[f"x{case}"]
    x = (x if x.ndim == 3 else x[None])[..., fixture.skip_columns :]
    key = f"{fixture.mask.lstrip('!')}{case}"
    mask = np.ones(x.shape[:2], bool)
    if fixture.mask and key in reference.arrays.files:
        mask = reference.arrays[key].reshape(mask.shape).astype(bool) ^ fixture.mask.startswith("!")
    return Bags(jnp.asarray(x), jnp.asarray(mask))


def close(got, want, tolerance=OUTPUT_TOLERANCE):
    """Equal to within `tolerance` of the largest value of `want`, whose shape `got` may have to be given."""
    want = np.asarray(want, np.float64)
    got = np.asarray(got, np.float64).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 1e-30))


def softmax_of(raw):
    """Attention from raw scores, masked ones being stored as -1e9."""
    e = np.exp(raw - raw.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def run(module, bags, value: Callable[[Output], jax.Array]) -> tuple[Output, Mapping[str, np.ndarray], np.ndarray]:
    """The module's output, and the gradient of `value(output)` to its parameters (by path) and to x."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def objective(params, x) -> tuple[jax.Array, Output]:
        output = nnx.merge(graph, params, rest)(Bags(x, bags.mask, bags.coords_um, bags.neighbours))
        return value(output), output

    (grad_w, grad_x), output = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(params, bags.x)
    by_path = {"/".join(map(str, p)): np.asarray(leaf[...]) for p, leaf in nnx.to_flat_state(grad_w)}
    return output, by_path, np.asarray(grad_x)


def check_gradients(reference, fixture, case, grad_w, grad_x):
    """Every gradient of the file of which milkit has the weight, and that of x; there must be some."""
    close(grad_x, reference.get("grad", case, "x")[..., fixture.skip_columns :], GRADIENT_TOLERANCE)
    checked = 0
    for theirs, (ours, rearrange) in partners(fixture, grad_w, reference.weights).items():
        want = reference.get("grad", case, f"w/{theirs}")
        if want is not None:
            close(grad_w[ours], rearrange(want), GRADIENT_TOLERANCE)
            checked += 1
    assert checked


def check_case(reference, fixture, module, case):
    """Logits, attention (one head), embedding, instance logits and gradients of a case; gives the output."""
    bags = bags_of(reference, fixture, case)
    cotangent = jnp.asarray(reference.arrays[f"cotangent{case}"]).reshape(bags.x.shape[0], -1)
    output, grad_w, grad_x = run(module, bags, lambda output: (output.logits * cotangent).sum())
    close(output.logits, reference.get("out", case, "logits"))
    attention = reference.get("out", case, "attn")
    raw = reference.get("out", case, "attn_raw")
    if attention is None and raw is not None:
        raw = raw.reshape(bags.mask.shape)
        attention = softmax_of(np.where(bags.mask, raw, -1e9))
    if attention is not None:
        close(output.attention[..., 0], attention)
    embedding, scores = (reference.get("out", case, name) for name in ("bag_embedding", "inst_logits"))
    if embedding is not None:
        close(output.embedding, embedding)
    if scores is not None:  # what they say of padding means nothing
        close(output.instance_logits, np.where(bags.mask[..., None], scores.reshape(output.instance_logits.shape), 0))
    check_gradients(reference, fixture, case, grad_w, grad_x)
    return output
