"""A transformer encoder with a class token (Wagner et al., Cancer Cell 41:1650, 2023), the default model of STAMP
(El Nahhas et al., Nature Protocols, 2024), where it is called "vit".

Instances are projected (linear, ReLU), a class token is put in front, and layers follow, each x + attention(norm(x))
and x + MLP(norm(x)). The class token, or the mean of the instances, is normed and classified. Attention is exact
self-attention of all instances, in blocks (`milkit.nn.blockwise`), so that memory is linear in their number. Of the
last layer only the class token is worked out: nobody reads the others.

Read in the code of three groups, of width 512, 2 layers and 8 heads each:
    - Wagner et al. (HistoBistro): ReLU projection, queries, keys and values without biases, MLP 512 with GELU, two
      layer norms in a row at the end, "cls" or "mean"; no dropout.
    - STAMP: GELU projection, PyTorch's attention with biases, MLP 512 with GELU; its settings have no dropout, but
      its MLPs drop half of their values all the same. In training tiles do not see the class token, when predicting
      they do. Its masks shut padding off from padding only, so that tiles attend to it.
    - MIL-Lab (Shao et al., 2025, arXiv:2506.09022): ReLU projection, biases, no MLP unless asked for, which then ends
      in a ReLU too (`activation="relu"`); dropout .25, also of the attention's weights. It is exactly
      `Transformer(mlp=0)`. Asked for its attention it adds the class token's to all tokens, which is not done here.

ALiBi (`alibi`): scores fall linearly with the distance of two tiles, -slope * distance / `alibi_um`, before the
softmax, as Press et al. (2022) have it. Distances are in micrometres, so that equal places on a slide are weighed
alike whatever the magnification. Slopes are 2^(-8 h / heads), h = 1 ... heads: with 8 heads and 256 micrometres
weights fall by a factor e within .5 mm in the first head and within 66 mm in the last. The class token has no place,
and its scores are left alone. "fixed" keeps the slopes, "learned" starts from them. STAMP (off by default there too)
subtracts distances from the weights after the softmax, which then do not sum to 1, in units of a mean over the
training set.

Deviations:
    - Dropout acts after projections and in MLPs, not on attention weights, which are never held.
    - `attention` is what the class token takes from each instance in the last layer, scaled to sum to 1 (what it takes
      from itself is left out: `extras["class_attention"]` has it). With pooling="mean" there is none.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import DataError
from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear, masked_mean
from milkit.nn.blockwise import Bias, alibi, alibi_slopes
from milkit.nn.class_token import in_front, on_instances
from milkit.nn.layer_norm import layer_norm
from milkit.nn.query_attention import check_heads
from milkit.nn.transformer import Activation, TransformerLayer
from milkit.types import Bags, Output


@dataclass(frozen=True)
class Transformer:
    """A transformer encoder over all instances of a bag, exact, in memory linear in their number."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False  # ALiBi reads places, which go where instances go
    min_instances: ClassVar[int] = 1

    width: int = 512
    """Width of a token."""
    heads: int = 8
    """Attention heads; they share out `width`."""
    layers: int = 2
    """Layers of the encoder."""
    mlp: int = 512  # Wagner et al. and STAMP
    """Hidden width of the layers' MLPs; 0 leaves them out."""
    activation: Activation = "gelu"
    """Of the MLPs: "gelu" after the first of their two layers, "relu" after either."""
    pooling: Literal["class", "mean"] = "class"  # the authors'
    """Whether a class token answers or, without one, the mean of the instances."""
    dropout: float = 0.0  # Wagner et al.; see the module's docstring for the others
    """Rate after the projection, after each attention and in the MLPs."""
    alibi: Literal["none", "fixed", "learned"] = "none"  # off in STAMP's settings
    """Whether scores fall with distance, which needs coordinates, by fixed slopes or by learned ones."""
    alibi_um: float = 256.0  # STAMP's tiles are that wide
    """With `alibi`: the unit of distance, in micrometres."""
    at_once: int = 0
    """Attention weights worked at a time: bounds memory, changes no result; 0 is by device."""

    def __post_init__(self) -> None:
        some, any_size = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", width=some, heads=some, layers=some, mlp=any_size, dropout="[0, 1)", alibi_um="(0, inf)",
            at_once=any_size,
        )  # fmt: skip
        check_heads(self.width, self.heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "TransformerModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return TransformerModule(self, in_features, out_features, rngs=rngs)


class TransformerModule(nnx.Module):
    """See `Transformer`."""

    def __init__(self, config: Transformer, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = linear(in_features, config.width, rngs=rngs)
        self.dropout = dropout_or_none(config.dropout)
        if config.pooling == "class":
            self.class_token = nnx.Param(jax.random.normal(rngs.params(), (config.width,)))
        if config.alibi == "learned":
            self.slopes = nnx.Param(alibi_slopes(config.heads))
        self.layers = nnx.List(
            [
                TransformerLayer(
                    config.width,
                    heads=config.heads,
                    mlp=config.mlp,
                    rngs=rngs,
                    activation=config.activation,
                    dropout=config.dropout,
                    at_once=config.at_once,
                )
                for _ in range(config.layers)
            ]
        )
        self.norm = layer_norm(config.width, rngs)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the class token's attention (a column a head), and what is classified as embedding.

        Raises:
            DataError: `alibi`, but bags without coordinates.
        """
        x, mask = self.tokens(bags, deterministic=deterministic, rngs=rngs)
        bias = self.bias(bags)
        by_class = self.config.pooling == "class"
        weights = None
        for i, layer in enumerate(self.layers, 1):
            last = by_class and i == len(self.layers)
            x, weights = layer(x, mask, bias, first_only=last, deterministic=deterministic, rngs=rngs)
        pooled = x[:, 0] if by_class else masked_mean(x, mask).astype(x.dtype)
        embedding = self.norm(pooled)
        logits = self.classifier(embedding)
        if weights is None:
            return Output(logits, embedding=embedding)
        attention = on_instances(weights[:, 1:], bags.mask)
        return Output(logits, attention, embedding=embedding, extras={"class_attention": weights[:, 0]})

    def tokens(
        self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "b l d"], Bool[Array, "b l"]]:
        """What the first layer is given: projected instances, the class token in front of them; and what is real."""
        x = jax.nn.relu(self.encoder(bags.x))
        if self.dropout is not None:
            x = self.dropout(x, deterministic=deterministic, rngs=rngs)
        if self.config.pooling == "mean":
            return x, bags.mask
        return in_front(self.class_token[...], x, bags.mask)

    def bias(self, bags: Bags) -> Bias | None:
        """How scores fall with distance."""
        if self.config.alibi == "none":
            return None
        if bags.coords_um is None:
            raise DataError(
                f"Transformer(alibi={self.config.alibi!r}) needs where each tile lies, but these bags have no "
                "coordinates (coords_um); give a store with coordinates in micrometres, or alibi='none'."
            )
        slopes = self.slopes[...] if self.config.alibi == "learned" else alibi_slopes(self.config.heads)
        xy, placed = bags.coords_um, bags.mask
        if self.config.pooling == "class":
            xy, placed = jnp.pad(xy, ((0, 0), (1, 0), (0, 0))), jnp.pad(placed, ((0, 0), (1, 0)))
        return alibi(xy, placed, slopes.astype(xy.dtype), self.config.alibi_um)
