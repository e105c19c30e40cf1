"""SmABMIL and SmTransformerABMIL: attention pooling over smoothed instances (Castro-Macias, Morales-Alvarez, Wu, Molina
& Katsaggelos, NeurIPS 2024, arXiv:2410.03276).

Neighbouring tiles are alike, so that what is said of one should be like what is said of those beside it. The operator
Sm (`milkit.nn.smooth`) smooths over the graph of tiles: early, the instances themselves, which are then pooled; mid,
the attention's hidden layer before its activation; or late, the attention's scores.

SmTransformerABMIL has self-attention between all instances before the pooling, x + Sm(attention(norm(x))), each layer
with a small network, x + mlp(norm(x)), and with what came into the first layer added again after each. Attention is
worked in blocks (`milkit.nn.blockwise`), in memory linear in the instances.

The graph joins tiles that are both among the other's `neighbours` nearest, no further than `radius_um` away; bags that
come with neighbours are taken by these.

`compat="authors"` is torchmil 1.0.2's reading, by the same authors, which departs from the paper in two places: in the
approximate mode alpha is the share of the instance itself, not of its neighbours; and an instance without neighbours
is smoothed with zeros, so that it shrinks, where by the energy that the operator minimises it stays as it is.

Deviations:
    - A trained gamma counts without its sign: a negative one would sharpen instead of smooth. (Where it is positive
      that changes nothing; "authors" takes it as it is.)
    - Spectral normalisation of the attention's layers, which torchmil has as an option, is not offered.
    - The layers have one operator's options, which are also the pooling's; torchmil's have their own. Attention weights
      are not dropped, only the layers' networks have dropout.
    - With several layers whose `width` is not that of the instances torchmil fails, or gives the layers in between
      that width; here every layer gives back the width of the instances.
    - Instances have one projection before everything (`encoder`), as in other models; () is torchmil's.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, Init, dropout_or_none, linear, masked_softmax
from milkit.nn.blockwise import attend
from milkit.nn.gelu import gelu
from milkit.nn.layer_norm import layer_norm
from milkit.nn.query_attention import check_heads
from milkit.nn.running import weighted_sum
from milkit.nn.smooth import Edges, Sm, edges_of
from milkit.types import Bags, Output

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu": gelu}


@dataclass(frozen=True)
class SmABMIL:
    """Attention pooling, smoothed over neighbouring tiles."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True
    has_layers: ClassVar[bool] = False

    where: Literal["early", "mid", "late"] = "early"  # the paper's best, and torchmil's default
    """What is smoothed: the instances, the attention's hidden layer, or its scores."""
    mode: Literal["approximate", "exact"] = "approximate"  # torchmil's
    """Whether the operator is approximated by `steps` steps."""
    alpha: float | Literal["trained"] = "trained"  # torchmil's
    """The share of the neighbours, in (0, 1); "trained" starts at 1/2."""
    steps: int = 10  # the paper's
    """Steps of the approximate mode."""
    encoder: tuple[int, ...] = ()  # torchmil's
    """Widths of the instance projection, each with ReLU; () takes the features themselves."""
    attention: int = 128  # torchmil's
    """Width of the attention's hidden layer."""
    activation: Literal["tanh", "relu", "gelu"] = "tanh"  # torchmil's
    """Of that layer."""
    dropout: float = 0.0
    """Rate after each layer of the encoder."""
    neighbours: int = 8  # the paper's tiles and those around them
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    init: Init = "torch"
    compat: Literal["correct", "authors"] = "correct"
    """Whether Sm is as in the paper, or as in torchmil."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", alpha="(0, 1)", steps=some, encoder=some, attention=some, dropout="[0, 1)", neighbours=some,
            radius_um="(0, inf)",
        )  # fmt: skip
        if self.dropout and not self.encoder and not self.has_layers:
            raise ConfigError(f"dropout={self.dropout} acts after the encoder's layers, but encoder=() has none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "SmABMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return SmABMILModule(self, in_features, out_features, rngs=rngs)


@dataclass(frozen=True)
class SmTransformerABMIL(SmABMIL):
    """Smoothed self-attention, then attention pooling, smoothed too."""

    has_layers: ClassVar[bool] = True

    layers: int = 1  # torchmil's
    """Layers of self-attention."""
    heads: int = 4  # torchmil's
    """Attention heads, which share out `width`."""
    width: int = 512  # torchmil's
    """Of the attention; where instances have another, linear layers lead to it and back."""
    mlp: bool = True  # torchmil's
    """Whether a layer has a network after its attention, four times as wide."""
    add_self: bool = True  # torchmil's
    """Whether what came into the first layer is added after each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        some = "[1, inf)"
        check_fields(self, "model", layers=some, heads=some, width=some)
        check_heads(self.width, self.heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "SmTransformerABMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return SmTransformerABMILModule(self, in_features, out_features, rngs=rngs)


def sm_of(config: SmABMIL) -> Sm:
    """The operator that a config asks for."""
    return Sm(alpha=config.alpha, mode=config.mode, steps=config.steps, compat=config.compat)


class SmAttentionPool(nnx.Module):
    """Attention pooling by w' act(V h), smoothed at one of three places; see the module's docstring."""

    def __init__(self, in_features: int, config: SmABMIL, *, rngs: nnx.Rngs):
        self.where, self.activation = config.where, config.activation
        self.sm = sm_of(config)
        self.hidden = linear(in_features, config.attention, rngs=rngs, init=config.init)
        self.score = linear(config.attention, 1, rngs=rngs, init=config.init, use_bias=False)

    def __call__(
        self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"], edges: Edges
    ) -> tuple[Float[Array, "b e"], Float[Array, "b n 1"], Float[Array, "b n 1"]]:
        """The embedding, the weights and the scores before the softmax."""

        def smoothed(at: str, x: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
            return self.sm(x, mask, edges).astype(x.dtype) if self.where == at else x

        h = smoothed("early", h)
        hidden = ACTIVATIONS[self.activation](smoothed("mid", self.hidden(h)))
        scores = smoothed("late", self.score(hidden))
        attention = masked_softmax(scores, mask)
        return weighted_sum(attention, h)[:, 0], attention, scores


class SmABMILModule(nnx.Module):
    """See `SmABMIL`."""

    def __init__(self, config: SmABMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.count, self.radius_um = config.neighbours, config.radius_um
        self.keep_isolated, self.name = config.compat == "correct", type(config).__name__
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        self.pool = SmAttentionPool(self.encoder.out_features, config, rngs=rngs)
        self.classifier = linear(self.encoder.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention and the bag's embedding."""
        edges = edges_of(bags, self.count, self.radius_um, model=self.name, keep_isolated=self.keep_isolated)
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
        h = self.encoder(x, deterministic=deterministic, rngs=rngs)
        h = self.encoded(h, mask, edges, deterministic=deterministic, rngs=rngs)
        embedding, attention, scores = self.pool(h, mask, edges)
        return Output(self.classifier(embedding), attention, embedding=embedding, extras={"scores": scores})

    def encoded(
        self,
        h: Float[Array, "b n e"],
        mask: Bool[Array, "b n"],
        edges: Edges,
        *,
        deterministic: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "b n e"]:
        """What is done between projection and pooling: here nothing."""
        return h


class SmTransformerABMILModule(SmABMILModule):
    """See `SmTransformerABMIL`."""

    def __init__(self, config: SmTransformerABMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        super().__init__(config, in_features, out_features, rngs=rngs)
        features = self.encoder.out_features
        self.add_self = config.add_self
        self.layers = nnx.List([SmLayer(features, config, rngs=rngs) for _ in range(config.layers)])
        self.norm = layer_norm(features, rngs)

    def encoded(
        self,
        h: Float[Array, "b n e"],
        mask: Bool[Array, "b n"],
        edges: Edges,
        *,
        deterministic: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "b n e"]:
        """The layers of self-attention and a last norm."""
        y = h
        for layer in self.layers:
            y = layer(y, mask, edges, deterministic=deterministic, rngs=rngs)
            y = y + h if self.add_self else y
        return self.norm(y)


class SmLayer(nnx.Module):
    """y = x + Sm(attention(norm(x))), then y + mlp(norm(y))."""

    def __init__(self, features: int, config: SmTransformerABMIL, *, rngs: nnx.Rngs):
        width, self.heads = config.width, config.heads

        def layer(a: int, b: int, use_bias: bool = True) -> nnx.Linear:
            return linear(a, b, rngs=rngs, init=config.init, use_bias=use_bias)

        self.norm = layer_norm(features, rngs)
        self.qkv = layer(features, 3 * width, use_bias=False)
        self.sm = sm_of(config)
        self.inward = layer(features, width) if features != width else None
        self.mlp_norm = layer_norm(width, rngs) if config.mlp else None
        self.mlp = nnx.List([layer(width, 4 * width), layer(4 * width, width)] if config.mlp else [])
        self.outward = layer(width, features) if features != width else None
        self.dropout = dropout_or_none(config.dropout) if config.mlp else None

    def __call__(
        self,
        x: Float[Array, "b n e"],
        mask: Bool[Array, "b n"],
        edges: Edges,
        *,
        deterministic: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "b n e"]:
        """The instances, each having seen all others."""

        def drop(h: Float[Array, "b n w"]) -> Float[Array, "b n w"]:
            return h if self.dropout is None else self.dropout(h, deterministic=deterministic, rngs=rngs)

        parts = jnp.split(self.norm.then(self.qkv, x), 3, -1)
        query, key, value = (a.reshape(*a.shape[:2], self.heads, -1) for a in parts)
        found = attend(query, key, value, mask).value.reshape(*x.shape[:2], -1)
        y = x if self.inward is None else self.inward(x)
        y = y + self.sm(found, mask, edges).astype(x.dtype)
        if self.mlp_norm is not None:
            first, second = self.mlp
            y = y + drop(second(drop(gelu(self.mlp_norm.then(first, y)))))
        return y if self.outward is None else self.outward(y)
