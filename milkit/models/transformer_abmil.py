"""TransformerABMIL: a transformer encoder without a class token, then attention pooling, as torchmil has it.

Instances attend to each other in layers x + attention(norm(x)), x + MLP(norm(x)); what came into the first layer is
added after each; the result is normed, pooled by attention (`AttentionPool`, not gated by default) and classified. It
is a baseline of Castro-Macias et al. (NeurIPS 2024, arXiv:2410.03276); the pooling is that of Ilse et al. (2018).
Attention is exact, in blocks (`milkit.nn.blockwise`), so that memory is linear in the number of instances.

Read in torchmil 1.0.2: queries, keys and values have no biases, and no projection follows the heads; the MLP is four
times as wide as its tokens, with GELU. Without `encoder` this is the same function of instances that are `width` wide.

Deviations:
    - `encoder` (a linear layer with ReLU) brings instances to `width` first. torchmil expects that of a feature
      extractor: what is added after each layer must be as wide as a token.
    - Dropout acts on what attention gathered and in MLPs, not on attention weights, which are never held.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import AttentionPool, linear
from milkit.nn.layer_norm import layer_norm
from milkit.nn.query_attention import check_heads
from milkit.nn.transformer import TransformerLayer
from milkit.types import Bags, Output


@dataclass(frozen=True)
class TransformerABMIL:
    """Self-attention between the instances, then attention pooling."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    encoder: bool = True
    """Whether a linear layer with ReLU projects instances; without it their width must be `width`."""
    width: int = 512  # torchmil's
    """Width of a token."""
    heads: int = 8  # torchmil's
    """Attention heads; they share out `width`."""
    layers: int = 1  # torchmil's
    """Layers of self-attention."""
    mlp: int = 2048  # torchmil's, four times the width
    """Hidden width of the layers' MLPs; 0 leaves them out."""
    add_input: bool = True  # torchmil's
    """Whether what came into the first layer is added after each."""
    attention: int = 128  # torchmil's
    """Width of the pooling's hidden layer."""
    gated: bool = False  # torchmil's
    """Whether the pooling is gated."""
    dropout: float = 0.0  # torchmil's
    """Rate after each self-attention and in the MLPs."""
    at_once: int = 0
    """Attention weights worked at a time: bounds memory, changes no result; 0 is by device."""

    def __post_init__(self) -> None:
        some, any_size = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", width=some, heads=some, layers=some, mlp=any_size, attention=some, dropout="[0, 1)",
            at_once=any_size,
        )  # fmt: skip
        check_heads(self.width, self.heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "TransformerABMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        if not self.encoder and in_features != self.width:
            raise ConfigError(
                f"TransformerABMIL(encoder=False, width={self.width}) takes instances as they are, but they have "
                f"{in_features} features; set width={in_features}, or encoder=True."
            )
        return TransformerABMILModule(self, in_features, out_features, rngs=rngs)


class TransformerABMILModule(nnx.Module):
    """See `TransformerABMIL`."""

    def __init__(self, config: TransformerABMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.add_input = config.add_input
        self.encoder = linear(in_features, config.width, rngs=rngs) if config.encoder else None
        self.layers = nnx.List(
            [
                TransformerLayer(
                    config.width,
                    heads=config.heads,
                    mlp=config.mlp,
                    rngs=rngs,
                    use_bias=False,
                    project=False,
                    dropout=config.dropout,
                    at_once=config.at_once,
                )
                for _ in range(config.layers)
            ]
        )
        self.norm = layer_norm(config.width, rngs)
        self.pool = AttentionPool(config.width, config.attention, gated=config.gated, rngs=rngs)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the pooling's attention and the pooled embedding."""
        h = self.encode(bags.x, bags.mask, deterministic=deterministic, rngs=rngs)
        pooled, attention = self.pool(h, bags.mask)
        embedding = pooled[:, 0].astype(h.dtype)
        return Output(self.classifier(embedding), attention, embedding=embedding)

    def encode(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "b n e"]:
        """Instances as they are pooled; anything on padding."""
        x = x if self.encoder is None else jax.nn.relu(self.encoder(x))
        h = x
        for layer in self.layers:
            h, _ = layer(h, mask, deterministic=deterministic, rngs=rngs)
            h = h + x if self.add_input else h
        return self.norm(h)
