"""Perceiver: latent vectors read a bag by cross-attention, in several rounds (Jaegle et al., ICML 2021,
arXiv:2103.03206).

A few learned latents attend to all instances, x + attention(norm(x), norm(instances)) and x + MLP(norm(x)), then to
each other in layers of self-attention; that is a round. After the last round their mean is normed and classified.
Time and memory are linear in the number of instances: attention to them is exact, in blocks (`milkit.nn.blockwise`).

Sizes are those with which HistoBistro (Wagner et al., 2023) has a Perceiver on slides: 256 latents, two rounds of one
self-attention layer, one head to the instances and eight among latents. The paper's, for images, are 512 latents of
width 1024, eight rounds of six layers, and weights that all rounds but the first share (`share`).

Deviations:
    - Instances have one projection (linear, ReLU) to the latents' width before everything, as in HistoBistro; the
      paper reads inputs as they are.
    - No Fourier features of positions: a bag is a set.
    - The mean over latents, as in the paper; HistoBistro takes their maximum.
    - Keys have no bias: a softmax takes it away.
    - Dropout acts after attention and in MLPs, not on attention weights, which are never held.
    - `attention` is what the latents take from each instance in the last round, in the mean over latents.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear
from milkit.nn.blockwise import attend, weights_of
from milkit.nn.layer_norm import layer_norm
from milkit.nn.query_attention import check_heads
from milkit.nn.transformer import FeedForward, TransformerLayer
from milkit.types import Bags, Output


@dataclass(frozen=True)
class Perceiver:
    """Latents that read the bag by cross-attention and talk among themselves."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    width: int = 512
    """Width of instances and latents."""
    latents: int = 256
    """Latent vectors."""
    rounds: int = 2
    """How often the latents read the bag."""
    self_layers: int = 1
    """Layers of self-attention among the latents after each reading; 0 leaves them out."""
    cross_heads: int = 1  # the paper's, too
    """Heads of the attention to instances; they share out `width`."""
    heads: int = 8  # the paper's, too
    """Heads of the attention among latents; they share out `width`."""
    mlp: int = 512  # as wide as a latent, as in the paper
    """Hidden width of the MLPs."""
    share: bool = False
    """Whether all rounds after the first share their weights."""
    dropout: float = 0.0
    """Rate after each attention and in the MLPs."""
    at_once: int = 0
    """Attention weights worked at a time: bounds memory, changes no result; 0 is by device."""

    def __post_init__(self) -> None:
        some, any_size = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", width=some, latents=some, rounds=some, self_layers=any_size, cross_heads=some, heads=some,
            mlp=some, dropout="[0, 1)", at_once=any_size,
        )  # fmt: skip
        check_heads(self.width, self.heads)
        check_heads(self.width, self.cross_heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "PerceiverModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return PerceiverModule(self, in_features, out_features, rngs=rngs)


class PerceiverModule(nnx.Module):
    """See `Perceiver`."""

    def __init__(self, config: Perceiver, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.number = config.rounds
        self.encoder = linear(in_features, config.width, rngs=rngs)
        # the paper cuts this normal off at 2, a hundred SDs away
        self.latents = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.latents, config.width)))
        different = min(config.rounds, 2) if config.share else config.rounds
        self.rounds = nnx.List([Round(config, rngs=rngs) for _ in range(different)])
        self.norm = layer_norm(config.width, rngs)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention (a column a head; see the module's docstring), and what is classified as embedding."""
        h = jax.nn.relu(self.encoder(bags.x))
        x = jnp.broadcast_to(self.latents[...].astype(h.dtype), (len(h), *self.latents.shape))
        for i in range(self.number):
            one = self.rounds[min(i, len(self.rounds) - 1)]
            x, weights = one(x, h, bags.mask, deterministic=deterministic, rngs=rngs)
        embedding = self.norm(x.mean(1))
        return Output(self.classifier(embedding), weights, embedding=embedding)


class Round(nnx.Module):
    """Latents read the bag, then attend to each other."""

    def __init__(self, config: Perceiver, *, rngs: nnx.Rngs):
        self.read = CrossLayer(config, rngs=rngs)
        self.layers = nnx.List(
            [
                TransformerLayer(
                    config.width,
                    heads=config.heads,
                    mlp=config.mlp,
                    rngs=rngs,
                    dropout=config.dropout,
                    at_once=config.at_once,
                )
                for _ in range(config.self_layers)
            ]
        )

    def __call__(
        self,
        x: Float[Array, "b l d"],
        h: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b n k"]]:
        """Latents, and what they took from each instance."""
        x, weights = self.read(x, h, mask, deterministic=deterministic, rngs=rngs)
        for layer in self.layers:
            x, _ = layer(x, jnp.ones(x.shape[:2], bool), deterministic=deterministic, rngs=rngs)
        return x, weights


class CrossLayer(nnx.Module):
    """x + attention(norm(x), norm(instances)), then x + MLP(norm(x))."""

    def __init__(self, config: Perceiver, *, rngs: nnx.Rngs):
        width, self.heads, self.at_once = config.width, config.cross_heads, config.at_once or None
        self.norm, self.instance_norm = layer_norm(width, rngs), layer_norm(width, rngs)
        self.query, self.value = linear(width, width, rngs=rngs), linear(width, width, rngs=rngs)
        self.key = linear(width, width, rngs=rngs, use_bias=False)
        self.out = linear(width, width, rngs=rngs)
        self.dropout = dropout_or_none(config.dropout)
        self.mlp_norm = layer_norm(width, rngs)
        self.mlp = FeedForward(width, config.mlp, rngs=rngs, activation="gelu", dropout=config.dropout)

    def __call__(
        self,
        x: Float[Array, "b l d"],
        h: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "b n k"]]:
        """Latents, and what they took from each instance, in the mean over latents."""
        h = self.instance_norm(h)
        q, k, v = self.query(self.norm(x)), self.key(h), self.value(h)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in (q, k, v))
        found = attend(q, k, v, mask, at_once=self.at_once)
        y = self.out(found.value.reshape(x.shape).astype(x.dtype))
        if self.dropout is not None:
            y = self.dropout(y, deterministic=deterministic, rngs=rngs)
        x = x + y
        x = x + self.mlp(self.mlp_norm(x), deterministic=deterministic, rngs=rngs)
        return x, weights_of(q, k, found.log_total, mask, at_once=self.at_once)
