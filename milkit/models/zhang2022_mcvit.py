"""MC-ViT, a multi-path cross-scale vision transformer (Zhang et al., Frontiers in Oncology 12:925903, 2022).

Each patch is seen at several magnifications, whose features lie side by side in an instance (`sets`). Two parts follow:

    - CAST, patch by patch. Each scale has an encoder (linear, ReLU). Then each scale asks the others by multi-head
      cross-attention, h_s + out_s(sum over t != s of softmax_t(q_s . k_t / sqrt(width of a head)) v_t), with layer norm
      in front and projections of its own. The mean over the scales is the patch, from which a linear layer and a
      softmax say what pathological information it shows, one of `classes`.
    - WT, over the slide. A token is the projected patch, plus the embedding of its class (of the classes' embeddings
      the mean, weighted by their probabilities, which has a gradient), plus its place. A class token is put in front,
      transformer layers follow (exact self-attention in blocks, `milkit.nn.blockwise`), and the class token is normed
      and classified.

Places are x and y in micrometres from the bag's smallest, in units of `position_um`, as sines and cosines (half of the
width for each, wavelengths from 2 pi to 20,000 pi units), through a linear layer. Bags without `coords_um` have none,
and their tokens no order.

With one scale (`sets=()`) there is nobody to ask, and with two nothing to weigh.

Written from a description of the paper, without its code or its sizes:
    - Widths, heads, layers and the number of classes are ours.
    - Classes of patches are learned from the bags' labels alone, end to end: no patch has a label here. They are a
      bottleneck of `classes` letters that need not be what a pathologist would name; `extras["patch_classes"]` has
      them.
    - Encoders read features that were extracted before, not pixels.

"Monte Carlo", as one review reads MC, is another thing: `milkit.monte_carlo`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, dropout_or_none, linear
from milkit.nn.class_token import in_front, on_instances
from milkit.nn.layer_norm import layer_norm
from milkit.nn.query_attention import check_heads
from milkit.nn.transformer import TransformerLayer
from milkit.types import Bags, Output


@dataclass(frozen=True)
class MCViT:
    """Scales of a patch that ask each other, classes of patches, and a transformer over the slide."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False  # places go where instances go
    min_instances: ClassVar[int] = 1

    sets: tuple[int, ...] = ()
    """Widths of the scales' features that lie side by side in an instance; () reads them as one scale."""
    width: int = 256
    """Width of a patch and of a token."""
    heads: int = 4
    """Attention heads, between scales and over the slide; they share out `width`."""
    classes: int = 8
    """Kinds of patches that are told apart."""
    layers: int = 2
    """Layers of the transformer over the slide."""
    mlp: int = 512
    """Hidden width of the layers' MLPs; 0 leaves them out."""
    dropout: float = 0.0
    """Rate after each encoder, after each attention and in the MLPs."""
    position_um: float = 256.0
    """Unit of places, in micrometres: about a patch."""
    at_once: int = 0
    """Attention weights worked at a time: bounds memory, changes no result; 0 is by device."""

    def __post_init__(self) -> None:
        some, any_size = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", sets=some, width=some, heads=some, classes=some, layers=some, mlp=any_size,
            dropout="[0, 1)", position_um="(0, inf)", at_once=any_size,
        )  # fmt: skip
        check_heads(self.width, self.heads)
        if self.width % 4:
            raise ConfigError(f"width={self.width}; a sine and a cosine of x and of y each need a multiple of 4.")
        if len(self.sets) == 1:
            raise ConfigError(f"sets={self.sets} is one scale, which needs no sets; leave it ().")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "MCViTModule":
        """Make the module for bags of `in_features` and `out_features` logits.

        Raises:
            ConfigError: `sets` do not add up to the features of an instance.
        """
        if self.sets and sum(self.sets) != in_features:
            raise ConfigError(
                f"MCViT(sets={self.sets}) adds up to {sum(self.sets)} features, but an instance has {in_features}."
            )
        return MCViTModule(self, in_features, out_features, rngs=rngs)


class CrossScale(nnx.Module):
    """Each scale of an instance asks the others, and adds what it gathers.

    Args:
        width: of a scale's vector, in and out; the heads share it out.
        scales: how many there are, at least 2. Of two each has one other, so that nothing is asked or weighed.
        heads: attention heads.
        dropout: rate after the output projections.
    """

    def __init__(self, width: int, scales: int, *, heads: int, dropout: float, rngs: nnx.Rngs):
        self.heads, self.weighs = heads, scales > 2
        self.norms = nnx.List([layer_norm(width, rngs) for _ in range(scales)])
        parts = 3 if self.weighs else 1
        self.qkv = nnx.List([linear(width, parts * width, rngs=rngs) for _ in range(scales)])
        self.out = nnx.List([linear(width, width, rngs=rngs) for _ in range(scales)])
        self.dropout = dropout_or_none(dropout)

    def __call__(
        self, h: list[Float[Array, "b n e"]], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> list[Float[Array, "b n e"]]:
        """One vector a scale."""
        parts = jnp.stack([f(norm(x)) for f, norm, x in zip(self.qkv, self.norms, h, strict=True)], 2)
        if self.weighs:
            q, k, v = (p.reshape(*p.shape[:3], self.heads, -1) for p in jnp.split(parts, 3, -1))
            scores = jnp.einsum("bnshe,bnthe->bnhst", q, k, preferred_element_type=_wide(q)) / math.sqrt(q.shape[-1])
            weights = jax.nn.softmax(jnp.where(jnp.eye(len(h), dtype=bool), -jnp.inf, scores)).astype(v.dtype)
            found = jnp.einsum("bnhst,bnthe->bnshe", weights, v).reshape(*parts.shape[:3], -1)
        else:
            found = parts[:, :, ::-1]
        gathered = [out(found[:, :, s]) for s, out in enumerate(self.out)]
        if self.dropout is not None:
            gathered = [self.dropout(y, deterministic=deterministic, rngs=rngs) for y in gathered]
        return [x + y for x, y in zip(h, gathered, strict=True)]


class MCViTModule(nnx.Module):
    """See `MCViT`."""

    def __init__(self, config: MCViT, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        width, drop = config.width, config.dropout
        self.position_um = config.position_um
        sets = config.sets or (in_features,)
        self.ends = tuple(int(end) for end in np.cumsum(sets))
        self.encoders = nnx.List([MLP(d, (width,), rngs=rngs, dropout=drop) for d in sets])
        scales = len(sets)
        self.cross = CrossScale(width, scales, heads=config.heads, dropout=drop, rngs=rngs) if scales > 1 else None
        self.patch_classifier = linear(width, config.classes, rngs=rngs)
        self.projection = linear(width, width, rngs=rngs)
        self.class_embedding = nnx.Param(jax.random.normal(rngs.params(), (config.classes, width)))
        self.position = linear(width, width, rngs=rngs, use_bias=False)
        self.class_token = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        self.layers = nnx.List(
            [
                TransformerLayer(
                    width, heads=config.heads, mlp=config.mlp, rngs=rngs, dropout=drop, at_once=config.at_once
                )
                for _ in range(config.layers)
            ]
        )
        self.norm = layer_norm(width, rngs)
        self.classifier = linear(width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the class token's attention in the last layer (a column a head), and what is classified.

        `extras["patch_classes"]` [b, n, classes] are the probabilities of each patch's classes, 0 on padding;
        `extras["class_attention"]` [b, heads] is what the class token takes from itself.
        """
        patch = self.patches(bags.x, deterministic=deterministic, rngs=rngs)
        classes = jax.nn.softmax(self.patch_classifier(patch).astype(_wide(patch)))
        tokens = self.projection(patch) + classes.astype(patch.dtype) @ self.class_embedding[...].astype(patch.dtype)
        if bags.coords_um is not None:
            tokens = tokens + self.position(sines(bags.coords_um, bags.mask, self.position_um, tokens))
        x, mask = in_front(self.class_token[...], tokens, bags.mask)
        *others, last = self.layers
        for layer in others:
            x, _ = layer(x, mask, deterministic=deterministic, rngs=rngs)
        x, weights = last(x, mask, first_only=True, deterministic=deterministic, rngs=rngs)
        assert weights is not None  # of the first token alone they are known
        embedding = self.norm(x[:, 0])
        extras = {"patch_classes": jnp.where(bags.mask[..., None], classes, 0), "class_attention": weights[:, 0]}
        attention = on_instances(weights[:, 1:], bags.mask)
        return Output(self.classifier(embedding), attention, embedding=embedding, extras=extras)

    def patches(
        self, x: Float[Array, "b n d"], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b n e"]:
        """CAST up to the classes: each instance's scales encoded, having asked each other, in the mean."""
        scales = jnp.split(x, self.ends[:-1], -1)
        h = [f(x, deterministic=deterministic, rngs=rngs) for f, x in zip(self.encoders, scales, strict=True)]
        if self.cross is not None:
            h = self.cross(h, deterministic=deterministic, rngs=rngs)
        return sum(h[1:], h[0]) / len(h)


def sines(
    coords_um: Float[Array, "b n 2"], mask: Bool[Array, "b n"], unit_um: float, like: Float[Array, "b n e"]
) -> Float[Array, "b n e"]:
    """Places as sines and cosines, of x and then of y, in the width and type of `like`.

    Args:
        coords_um: corners of tiles; counted from the bag's smallest x and y.
        mask: True on real instances.
        unit_um: the shortest wavelength is 2 pi of it, the longest nearly 10,000 times as long.
        like: tokens.

    References:
        Vaswani et al. (2017, arXiv:1706.03762), section 3.5, on each axis.
    """
    low = jnp.where(mask[..., None], coords_um, jnp.inf).min(1, keepdims=True)
    place = jnp.where(mask[..., None], coords_um - low, 0).astype(_wide(like)) / unit_um
    quarter = like.shape[-1] // 4
    angle = place[..., None] * 10_000.0 ** (-jnp.arange(quarter, dtype=place.dtype) / quarter)
    both = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
    return both.reshape(like.shape).astype(like.dtype)


def _wide(x: Array) -> jnp.dtype:
    """At least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)
