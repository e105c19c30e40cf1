"""DeepGraphSurv: spectral graph convolutions over tiles, pooled by attention that is one too (Li, Yao, Zhu, Li & Huang,
MICCAI 2018).

Two stacks of Chebyshev convolutions read the same tiles: one gives what is pooled, the other, through a linear layer,
the attention. A convolution is sum_k T_k(L^) x W_k, ReLU, with the Chebyshev polynomials T_0 .. T_{order - 1} of the
graph's normalised Laplacian, L^ = 2 L / lambda_max - I. With lambda_max at its bound of 2 that is L^ = -A, A being the
symmetric, normalised adjacency matrix of `milkit.nn.smooth`, and a tile without neighbours has L = 0. The sum is taken
by Clenshaw's recurrence, on W_k's outputs, so that what goes along the graph is as wide as the layer, not `order` times
as wide as the features.

The graph is of tiles that are both among the other's nearest by position, as in torchmil; the paper builds it from the
tiles' features and trains a distance for it, with no code published. Its Cox loss is a survival task's (`milkit.task`).

`compat="torchmil"` is torchmil 1.0.2, which takes the row sums of the normalised A for the identity in L, and lays the
polynomials [order, n, d] out as [n, order d] without turning them, so that a tile reads rows of other tiles. What it
gives depends on the length that a bag was padded to; it is there for its numbers only.

Deviations:
    - The attention's score has no bias: a softmax takes it away.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear, masked_softmax
from milkit.nn.running import weighted_sum
from milkit.nn.smooth import Edges, adjacent, edges_of
from milkit.types import Bags, Output


@dataclass(frozen=True)
class DeepGraphSurv:
    """Chebyshev graph convolutions, pooled by attention from convolutions of its own."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True
    min_instances: ClassVar[int] = 1

    width: int = 128  # ours; torchmil takes the features' own
    """Of the convolutions that give what is pooled."""
    convolutions: int = 1  # torchmil's
    """How many of them."""
    attention: int = 128  # torchmil's
    """Width of the attention's convolutions."""
    attention_convolutions: int = 1  # torchmil's
    """How many of them."""
    order: int = 5  # torchmil's
    """Chebyshev polynomials of a convolution: it reaches `order` - 1 steps along the graph."""
    dropout: float = 0.0  # torchmil's
    """Rate after each convolution."""
    neighbours: int = 8  # ours: tiles that touch, at sides and corners
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    compat: Literal["correct", "torchmil"] = "correct"
    """`torchmil`: as that library has it; see the module's docstring."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", width=some, convolutions=some, attention=some, attention_convolutions=some, order="[2, inf)",
            dropout="[0, 1)", neighbours=some, radius_um="(0, inf)",
        )  # fmt: skip

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "DeepGraphSurvModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return DeepGraphSurvModule(self, in_features, out_features, rngs=rngs)


class ChebyshevConvolution(nnx.Module):
    """sum_k T_k(L^) x W_k; the kernel of `mix` holds the W_k one below the other.

    References:
        Defferrard, Bresson & Vandergheynst (2016, arXiv:1606.09375), equations 4 and 5.
    """

    def __init__(self, in_features: int, out_features: int, order: int, *, rngs: nnx.Rngs, compat: str = "correct"):
        self.order, self.compat = order, compat
        self.mix = linear(order * in_features, out_features, rngs=rngs, use_bias=False)

    def __call__(self, x: Float[Array, "b n d"], edges: Edges) -> Float[Array, "b n e"]:
        """The convolution."""
        if self.compat == "torchmil":
            terms = torchmil_terms(x, edges, self.order)
            return self.mix(jnp.stack(terms, 1).reshape(len(x), x.shape[1], -1))
        kernels = self.mix.kernel[...].reshape(self.order, x.shape[-1], -1)
        x, kernels = (a.astype(jnp.promote_types(x.dtype, kernels.dtype)) for a in (x, kernels))
        above = last = jnp.zeros((*x.shape[:2], kernels.shape[-1]), x.dtype)
        for k in range(self.order - 1, 0, -1):
            above, last = x @ kernels[k] - 2 * adjacent(above, edges) - last, above
        return x @ kernels[0] - adjacent(above, edges) - last


def torchmil_terms(x: Float[Array, "b n d"], edges: Edges, order: int) -> list[Float[Array, "b n d"]]:
    """T_k(L^) x with that library's L^ = 2 (D - A) / (2 + 1e-6) - I, D the row sums of A."""
    ratio = 2 / (2 + 1e-6)
    degree = (edges.weight.sum(2) + edges.own)[..., None]

    def times(z: Array) -> Array:
        return ratio * degree * z - ratio * adjacent(z, edges) - z

    terms = [x, times(x)]
    for _ in range(2, order):
        terms.append(2 * times(terms[-1]) - terms[-2])
    return terms


class DeepGraphSurvModule(nnx.Module):
    """See `DeepGraphSurv`."""

    def __init__(self, config: DeepGraphSurv, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = config

        def stack(width: int, layers: int) -> list[ChebyshevConvolution]:
            widths = [in_features] + [width] * (layers - 1)
            return [ChebyshevConvolution(w, width, config.order, rngs=rngs, compat=config.compat) for w in widths]

        self.convolutions = nnx.List(stack(config.width, config.convolutions))
        self.attention = nnx.List(stack(config.attention, config.attention_convolutions))
        self.dropout = dropout_or_none(config.dropout)
        self.score = linear(config.attention, 1, rngs=rngs, use_bias=False)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention and the bag's embedding."""
        config = self.config
        correct = config.compat == "correct"
        edges = edges_of(bags, config.neighbours, config.radius_um, model="DeepGraphSurv", keep_isolated=correct)
        return self.over(bags.x, bags.mask, edges, deterministic=deterministic, rngs=rngs)

    def over(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        edges: Edges,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Output:
        """The same over a graph that is given, whatever its weights."""

        def through(layers: Any) -> Array:
            h = x
            for layer in layers:
                h = jax.nn.relu(layer(h, edges))
                if self.dropout is not None:
                    h = self.dropout(h, deterministic=deterministic, rngs=rngs)
            return h

        h = through(self.convolutions)
        attention = masked_softmax(self.score(through(self.attention)), mask)
        embedding = weighted_sum(attention, h)[:, 0].astype(h.dtype)
        return Output(self.classifier(embedding), attention=attention, embedding=embedding)
