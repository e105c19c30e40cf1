"""GTP: a graph convolution, min-cut pooling and a transformer (Zheng et al., IEEE TMI 2022, arXiv:2205.09671).

Tiles go through a graph convolution, ReLU(A^ x W) with A^ the adjacency matrix with each tile joined to itself,
normalised by the roots of both degrees. A linear layer and a softmax share them out among `clusters`, whose sums, with
a class token in front, go through a transformer; a linear layer reads the class token. The loss is the bags' plus those
of the min-cut pooling (`milkit.nn.mincut`), each bag's of its own graph.

`convolution="gat"` puts graph attention (Velickovic et al. 2018, arXiv:1710.10903) in place of the convolution: a
tile's neighbours and the tile itself, weighted in each head by a softmax of LeakyReLU (slope .2) of a score of either
end; here with ReLU behind it, as behind the convolution.

The graph is of tiles that are both among the other's nearest by position (`milkit.nn.smooth`): on a grid those that
touch, as in the authors' code. Attention is ours: the class token's in the last layer, a head's mean, each cluster's
handed to its tiles by their shares.

`compat="torchmil"` is torchmil 1.0.2's version: (A + I) x in the convolution, A normalised without the tile itself, a
convolution as wide as the features, and layers of the transformer that have ReLU, an MLP four times as wide and no
projection behind the attention.

Deviations:
    - The authors' code takes A as it is, divides each tile's result by its length and puts a batch norm in place of
      ReLU; here the paper's equation 1 stands.
    - Layer norms add 1e-5 to the variance, where the authors' ViT adds 1e-6. Dropout may follow each part of a layer.
    - GraphCAM, relevance propagated through the transformer, is not offered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear
from milkit.nn.gelu import gelu
from milkit.nn.graph import AT_ONCE, attend, gather
from milkit.nn.layer_norm import layer_norm
from milkit.nn.mincut import cut_loss, orthogonality_loss, pooled_by, shares_of
from milkit.nn.query_attention import check_heads
from milkit.nn.row_blocks import in_row_blocks
from milkit.nn.smooth import Edges, adjacent, edges_of
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class GTP:
    """Tiles on a graph, pooled to clusters by min-cut, and a transformer over these."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True
    min_instances: ClassVar[int] = 1

    width: int = 64  # the authors' code
    """Of the convolutions and of the transformer."""
    convolution: Literal["gcn", "gat"] = "gcn"  # the paper's
    """Graph convolution or graph attention."""
    convolutions: int = 1  # the authors' code
    """How many of them."""
    clusters: int = 100  # the authors' code
    """What the tiles are pooled to."""
    layers: int = 3  # the authors' code
    """Of the transformer."""
    heads: int = 8  # the authors' code
    """Of the transformer, and of graph attention; they share out `width`."""
    dropout: float = 0.0  # the authors' code
    """Rate after the attention and inside the MLP of each layer."""
    cut_weight: float = 1.0  # the authors' code
    """Of the min-cut loss, beside the bag's."""
    orthogonality_weight: float = 1.0  # the authors' code
    """Of the loss that keeps clusters apart and of one size, beside the bag's."""
    neighbours: int = 8  # the authors' code: tiles that touch, at sides and corners
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    compat: Literal["correct", "torchmil"] = "correct"
    """`torchmil`: as that library has it; see the module's docstring."""

    def __post_init__(self) -> None:
        some, weight = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", width=some, convolutions=some, clusters="[2, inf)", layers=some, heads=some,
            dropout="[0, 1)", cut_weight=weight, orthogonality_weight=weight, neighbours=some, radius_um="(0, inf)",
        )  # fmt: skip
        check_heads(self.width, self.heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "GTPModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return GTPModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss, and those of the pooling by their weights."""
        bag, cut = bag_loss(output.logits), output.extras["cut"]
        apart = output.extras["orthogonality"]
        loss = bag + self.cut_weight * cut + self.orthogonality_weight * apart
        return loss, {"bag": bag, "cut": cut, "orthogonality": apart}


class GraphConvolution(nnx.Module):
    """ReLU(A x W + b), A with its diagonal."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.mix = linear(in_features, out_features, rngs=rngs, init="glorot", use_bias=False)
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: Float[Array, "b n d"], edges: Edges) -> Float[Array, "b n e"]:
        """The convolution; along the graph goes what W made of x, which is narrower."""
        return jax.nn.relu(adjacent(self.mix(x), edges) + self.bias[...])


class GraphAttention(nnx.Module):
    """ReLU(sum_j w_ij W x_j + b) over a tile and its neighbours, the weights a softmax of a score of either end."""

    def __init__(self, in_features: int, out_features: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.mix = linear(in_features, out_features, rngs=rngs, init="glorot", use_bias=False)
        scores = nnx.initializers.glorot_uniform()
        self.asks = nnx.Param(scores(rngs.params(), (heads, out_features // heads)))
        self.answers = nnx.Param(scores(rngs.params(), (heads, out_features // heads)))
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: Float[Array, "b n d"], edges: Edges) -> Float[Array, "b n e"]:
        """The edges' weights are not read; every tile is its own neighbour."""
        h = self.mix(x)
        b, n, e = h.shape
        own = jnp.broadcast_to(jnp.arange(n)[None, :, None], (b, n, 1)).astype(edges.ends.dtype)
        index = jnp.concatenate([own, edges.ends], 2)
        apart = h.reshape(b, n, self.heads, -1)
        asked, answered = ((apart * a[...]).sum(-1) for a in (self.asks, self.answers))

        def of_rows(rows: tuple[Array, Array]) -> Array:
            own, ends = rows
            score = jax.nn.leaky_relu(own[:, :, None] + gather(answered, ends), 0.2)
            weight = attend(score, ends >= 0).astype(h.dtype)
            found = gather(h, ends).reshape(*ends.shape, self.heads, -1)
            return jnp.einsum("brjh,brjhc->brhc", weight, found).reshape(*ends.shape[:2], e)

        return jax.nn.relu(in_row_blocks(of_rows, (asked, index), index.shape[2] * e, AT_ONCE) + self.bias[...])


class TokenLayer(nnx.Module):
    """A transformer's layer over a few tokens, whose width may be another going in and coming out."""

    def __init__(self, config: GTP, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        e, self.heads = config.width, config.heads
        ours = config.compat == "correct"
        self.activation = "gelu" if ours else "relu"
        self.norm, self.mlp_norm = layer_norm(in_features, rngs), layer_norm(e, rngs)
        self.qkv = linear(in_features, 3 * e, rngs=rngs, use_bias=False)
        self.project = linear(e, e, rngs=rngs) if ours else None
        hidden = (2 if ours else 4) * e
        self.first, self.second = linear(e, hidden, rngs=rngs), linear(hidden, e, rngs=rngs)
        self.inward = linear(in_features, e, rngs=rngs) if in_features != e else None
        self.outward = linear(e, out_features, rngs=rngs) if out_features != e else None
        self.dropout = dropout_or_none(config.dropout)

    def __call__(
        self, x: Float[Array, "b t d"], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "b t e"], Float[Array, "b t"]]:
        """The tokens, and how much the first took from each in the attention, a head's mean."""

        def drop(h: Array) -> Array:
            return h if self.dropout is None else self.dropout(h, deterministic=deterministic, rngs=rngs)

        q, k, v = (a.reshape(*x.shape[:2], self.heads, -1) for a in jnp.split(self.qkv(self.norm(x)), 3, axis=-1))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        energy = jnp.einsum("bmhc,bnhc->bhmn", q, k, preferred_element_type=wide) / q.shape[-1] ** 0.5
        weight = jax.nn.softmax(energy)
        found = jnp.einsum("bhmn,bnhc->bmhc", weight.astype(v.dtype), v).reshape(*x.shape[:2], -1)
        found = found if self.project is None else drop(self.project(found))
        y = (x if self.inward is None else self.inward(x)) + found
        hidden = self.first(self.mlp_norm(y))
        hidden = gelu(hidden) if self.activation == "gelu" else jax.nn.relu(hidden)
        y = y + drop(self.second(drop(hidden)))
        return (y if self.outward is None else self.outward(y)), weight[:, :, 0].mean(1)


class GTPModule(nnx.Module):
    """See `GTP`."""

    def __init__(self, config: GTP, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width if config.compat == "correct" else in_features

        def convolution(features: int) -> GraphConvolution | GraphAttention:
            if config.convolution == "gat":
                return GraphAttention(features, width, config.heads, rngs=rngs)
            return GraphConvolution(features, width, rngs=rngs)

        self.convolutions = nnx.List([convolution(d) for d in [in_features] + [width] * (config.convolutions - 1)])
        self.share = linear(width, config.clusters, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((width,)))
        ends = [width] + [config.width] * (config.layers - 1) + [width]
        self.layers = nnx.List([TokenLayer(config, *ends[i : i + 2], rngs=rngs) for i in range(config.layers)])
        self.norm = layer_norm(width, rngs)
        self.classifier = linear(width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention and the bag's embedding; `extras` has the pooling's losses, a value a bag."""
        edges = edges_of(bags, self.config.neighbours, self.config.radius_um, model="GTP", keep_isolated=False)
        stages = self.stages(bags.x, bags.mask, edges, deterministic=deterministic, rngs=rngs)
        return self.read(stages, edges)

    def stages(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        edges: Edges,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> dict[str, Any]:
        """What lies on the way, over a graph that is given: `convolved` [b, n, e], the clusters' `shares` [b, n, c],
        the `encoded` tokens, the class token first [b, 1 + c, e], and what it `took` from each [b, 1 + c].
        """
        along = with_own(edges) if self.config.compat == "correct" else edges._replace(own=edges.own + 1)
        h = x
        for layer in self.convolutions:
            h = layer(h, along)
        shares = shares_of(self.share(h), mask)
        clusters = pooled_by(shares, h)
        first = jnp.broadcast_to(self.class_token[...].astype(h.dtype), (len(h), 1, h.shape[-1]))
        tokens, took = jnp.concatenate([first, clusters], 1), None
        for token_layer in self.layers:
            tokens, took = token_layer(tokens, deterministic=deterministic, rngs=rngs)
        return {"convolved": h, "shares": shares, "encoded": self.norm(tokens), "took": took}

    def read(self, stages: dict[str, Any], edges: Edges) -> Output:
        """Logits, attention, embedding and the pooling's losses."""
        shares, embedding = stages["shares"], stages["encoded"][:, 0]
        extras = {"cut": cut_loss(shares, edges), "orthogonality": orthogonality_loss(shares)}
        attention = handed_on(stages["took"][:, 1:], shares)
        return Output(self.classifier(embedding), attention=attention, embedding=embedding, extras=extras)


def with_own(edges: Edges) -> Edges:
    """The graph with each tile joined to itself, and normalised by the roots of both degrees anew."""
    exists = edges.ends >= 0
    root = jax.lax.rsqrt(1 + exists.sum(2).astype(edges.weight.dtype))
    weight = jnp.where(exists, root[..., None] * gather(root[..., None], edges.ends)[..., 0], 0)
    return Edges(edges.ends, weight, jnp.square(root))


def handed_on(took: Float[Array, "b c"], shares: Float[Array, "b n c"]) -> Float[Array, "b n 1"]:
    """What was taken from the clusters, as weights of the instances that sum to 1; all 0 where none is real."""
    size = shares.sum(1)
    given = jnp.einsum("bc,bnc->bn", took / jnp.where(size > 0, size, 1), shares, precision="highest")
    whole = given.sum(1, keepdims=True)
    return (given / jnp.where(whole > 0, whole, 1))[..., None]
