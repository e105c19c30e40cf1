"""Patch-GCN: graph convolutions over neighbouring tiles, then attention (Chen et al., MICCAI 2021, arXiv:2107.13048).

Tiles are projected and go through three generalised graph convolutions (GENConv: a softmax over the neighbours, channel
by channel, with a trained temperature; then a small network), the second and third with a residual connection. The
projection and what each convolution gave stand side by side and go through one more layer, are pooled by gated
attention, and a hidden layer comes before the last.

A tile's neighbours are its eight nearest by position in micrometres, or those that the bags come with. The authors find
them in pixels of level 0 by an approximate search; here they are exact, and ties do not depend on the order of tiles.

`compat="torchmil"` is torchmil 1.0.2's version, another model by the same name: plain convolutions, ReLU of the layer
norm of a linear layer of (A + I) x with the symmetric, normalised A of `milkit.nn.smooth`, no projection, attention
without a gate, no hidden layer after it. It has `dropout` after every layer but the last.

Deviations:
    - `convolutions` may be other than three; the authors' code fixes the widths for three (their `num_layers=4`).
    - The layer norm of the first convolution, which the authors' code makes and does not use, is not there.
    - The attention's score has no bias: a softmax takes it away.
    - A survival model's hazards and survival function are its task's (`milkit.task`); the model gives logits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.fields import check_fields
from milkit.nn import MLP, AttentionPool, dropout_or_none, linear
from milkit.nn.graph import neighbour_softmax, neighbours_of
from milkit.nn.layer_norm import layer_norm
from milkit.nn.masked import masked_softmax
from milkit.nn.running import weighted_sum
from milkit.nn.smooth import Edges, adjacent, edges_of
from milkit.types import Bags, Output

SMALLEST_MESSAGE = 1e-7
"""Of GENConv, after its ReLU; it matters to no result in float32 but keeps the authors' numbers."""


@dataclass(frozen=True)
class PatchGCN:
    """Graph convolutions over neighbouring tiles, then attention pooling."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True
    min_instances: ClassVar[int] = 1

    width: int = 128  # the authors' code
    """Of the projection and of each convolution."""
    convolutions: int = 3  # the authors' code, which counts the projection as a fourth layer
    """Graph convolutions."""
    bias: bool = True  # torch_geometric as it was then; later releases have none
    """Whether the linear layers inside a convolution have a bias."""
    attention: int = 0  # the authors' code: as wide as what it reads
    """Width of the attention's hidden layer; 0: as wide as what it reads."""
    dropout: float = 0.25  # the authors' code
    """Rate after the projection, after the layer that joins the convolutions, and inside the attention."""
    convolution_dropout: float = 0.1  # the authors' code
    """Rate after each residual convolution."""
    neighbours: int = 8  # the authors' code
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None  # the authors' code has no bound
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    compat: Literal["correct", "torchmil"] = "correct"
    """`torchmil`: as that library has it; see the module's docstring."""

    def __post_init__(self) -> None:
        some, rate = "[1, inf)", "[0, 1)"
        check_fields(
            self, "model", width=some, convolutions=some, attention="[0, inf)", dropout=rate, convolution_dropout=rate,
            neighbours=some, radius_um="(0, inf)",
        )  # fmt: skip

    def build(
        self, in_features: int, out_features: int, *, rngs: nnx.Rngs
    ) -> "PatchGCNModule | TorchmilPatchGCNModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        module = PatchGCNModule if self.compat == "correct" else TorchmilPatchGCNModule
        return module(self, in_features, out_features, rngs=rngs)


class GENConv(nnx.Module):
    """Softmax aggregation over neighbours, channel by channel, then Linear, LayerNorm, ReLU, Linear.

    References:
        Li, Xiong, Thabet & Ghanem (2020, arXiv:2006.07739), sections 3.1 and 4.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs, bias: bool = True):
        self.temperature = nnx.Param(jnp.ones((1,)))
        """The inverse temperature of the softmax: 0 is the mean of the neighbours, much is their maximum."""
        self.wide = linear(width, 2 * width, rngs=rngs, use_bias=bias)
        self.norm = layer_norm(2 * width, rngs)
        self.narrow = linear(2 * width, width, rngs=rngs, use_bias=bias)

    def __call__(
        self, h: Float[Array, "b n e"], index: Int[Array, "b n j"], exists: Bool[Array, "b n j"]
    ) -> Float[Array, "b n e"]:
        """The convolution; a tile without neighbours hears 0."""
        heard = neighbour_softmax(jax.nn.relu(h) + SMALLEST_MESSAGE, self.temperature[...], index, exists)
        return self.narrow(jax.nn.relu(self.norm(self.wide(h + heard))))


class PatchGCNModule(nnx.Module):
    """See `PatchGCN`."""

    def __init__(self, config: PatchGCN, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.count, self.radius_um, width = config.neighbours, config.radius_um, config.width
        self.projection = MLP(in_features, (width,), rngs=rngs, dropout=config.dropout)
        self.convolutions = nnx.List([GENConv(width, rngs=rngs, bias=config.bias) for _ in range(config.convolutions)])
        self.norms = nnx.List([layer_norm(width, rngs) for _ in range(config.convolutions - 1)])
        self.dropout = dropout_or_none(config.convolution_dropout)
        whole = width * (config.convolutions + 1)
        self.join = MLP(whole, (whole,), rngs=rngs, dropout=config.dropout)
        self.pool = AttentionPool(whole, config.attention or whole, rngs=rngs, dropout=config.dropout)
        self.hidden = MLP(whole, (whole,), rngs=rngs)
        self.classifier = linear(whole, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention and the bag's embedding."""
        graph = neighbours_of(bags, self.count, self.radius_um, model="PatchGCN")
        draws: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        h = self.join.joined(self.layers(bags.x, *graph, **draws), **draws)
        attention = masked_softmax(self.pool.scores(h, **draws), bags.mask)
        embedding = self.hidden(weighted_sum(attention, h)[:, 0].astype(h.dtype))
        return Output(self.classifier(embedding), attention=attention, embedding=embedding)

    def layers(
        self,
        x: Float[Array, "b n d"],
        index: Int[Array, "b n j"],
        exists: Bool[Array, "b n j"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> list[Float[Array, "b n e"]]:
        """The projection and what each convolution gave."""
        h = self.projection(x, deterministic=deterministic, rngs=rngs)
        given = [h, self.convolutions[0](h, index, exists)]
        for convolution, norm in zip(list(self.convolutions)[1:], self.norms, strict=True):
            h = given[-1] + jax.nn.relu(norm(convolution(given[-1], index, exists)))
            if self.dropout is not None:
                h = self.dropout(h, deterministic=deterministic, rngs=rngs)
            given.append(h)
        return given


class TorchmilPatchGCNModule(nnx.Module):
    """See `PatchGCN`, `compat="torchmil"`."""

    def __init__(self, config: PatchGCN, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.count, self.radius_um, width = config.neighbours, config.radius_um, config.width
        widths = [in_features] + [width] * (config.convolutions - 1)
        self.convolutions = nnx.List([linear(w, width, rngs=rngs) for w in widths])
        self.norms = nnx.List([layer_norm(width, rngs) for _ in widths])
        self.dropout = dropout_or_none(config.dropout)
        self.join = MLP(in_features + width * config.convolutions, (width,), rngs=rngs, dropout=config.dropout)
        self.pool = AttentionPool(width, config.attention or width, gated=False, rngs=rngs)
        self.classifier = linear(width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention and the bag's embedding."""
        edges = edges_of(bags, self.count, self.radius_um, model="PatchGCN", keep_isolated=False)
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
        h, given = x, [x]
        for layer, norm in zip(self.convolutions, self.norms, strict=True):
            h = jax.nn.relu(norm(layer(adjacent(h, edges) + h)))
            if self.dropout is not None:
                h = self.dropout(h, deterministic=deterministic, rngs=rngs)
            given.append(h)
        h = self.join.joined(given, deterministic=deterministic, rngs=rngs)
        pooled, attention = self.pool(h, mask)
        embedding = pooled[:, 0].astype(h.dtype)
        return Output(self.classifier(embedding), attention=attention, embedding=embedding)
