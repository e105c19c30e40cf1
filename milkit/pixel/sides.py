"""The network under SA-MIL, DWS-MIL and Baseline: VGG stages, attention if any, a side output a stage, their fusion."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.nn.images import Conv, ConvInit, max_pool, pooled_mask
from milkit.pixel.maps import Map, SigmoidAt, fused, map_of_logits, output_of
from milkit.pixel.vgg import VGGStage, Width, vgg_stages
from milkit.types import Images, Output

Fusion = Literal["fixed", "learned"]
"""Whether the weights of the sides stay as they are, or are trained from there (as a softmax)."""

SMALLEST = 8
"""Pixels of the smallest side of an image: three stages are each pooled by 2."""


@dataclass(frozen=True)
class Head:
    """What becomes of the stages' features.

    Attributes:
        pooled: whether a side output reads its stage after pooling, or before.
        every_side: whether all three stages have one, or the last alone.
        sigmoid: before or after enlarging.
        weights: of the sides in the fused map; they sum to 1.
        fusion: whether they are trained.
        r: of the generalised mean.
        root_only: see `output_of`.
    """

    pooled: bool
    every_side: bool
    sigmoid: SigmoidAt
    weights: tuple[float, ...]
    fusion: Fusion
    r: float
    root_only: bool = False


def exponent(r: float | Literal["max"]) -> float:
    """The r of a configuration as a number."""
    return math.inf if r == "max" else float(r)


def check_head(r: float | Literal["max"], fusion_weights: tuple[float, float, float]) -> None:
    """Refuse an exponent or weights that give no probability.

    Raises:
        ConfigError: r is not above 0, or the weights are negative or do not sum to 1.
    """
    if r != "max" and not r > 0:
        raise ConfigError(f"model.r is {r}; expected a number above 0 (1 is the mean), or 'max'.")
    if min(fusion_weights) < 0 or abs(sum(fusion_weights) - 1) > 1e-6:
        raise ConfigError(
            f"model.fusion_weights is {fusion_weights}; expected three weights of at least 0 that sum to 1, "
            "as the fused map is a probability."
        )


class Attending(nnx.Module):
    """A stage and the attention on its features, applied several times with the same weights."""

    def __init__(self, stage: VGGStage, attention: nnx.Module | None, times: int):
        self.stage, self.attention, self.times = stage, attention, times

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Float[Array, "b h w d"]:
        """Features at the resolution of `x`."""
        x = self.stage(x, mask, deterministic=deterministic)
        if self.attention is not None:
            for _ in range(self.times):
                x = self.attention(x, mask)
        return x


class SidedVGG(nnx.Module):
    """Images to probability maps; see `Head`.

    Args:
        in_channels, out_features: channels of the images; labels.
        width: channels of the stages.
        attention: one a stage, or None.
        times: how often each is applied.
        head: what becomes of the features.
        remat: whether each stage is computed again for the gradient instead of being kept.
    """

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        width: Width,
        head: Head,
        *,
        rngs: nnx.Rngs,
        attention: Sequence[nnx.Module] | None = None,
        times: int = 0,
        batch_norm: bool = True,
        init: ConvInit = "torch",
        remat: bool = False,
    ):
        self.head, self.remat = head, remat
        stages = vgg_stages(in_channels, width, rngs=rngs, batch_norm=batch_norm, init=init)
        with_attention = attention if attention is not None else [None] * len(stages)
        self.stages = nnx.List([Attending(s, a, times) for s, a in zip(stages, with_attention, strict=True)])
        read = width if head.every_side else width[-1:]
        self.heads = nnx.List([Conv(c, out_features, 1, rngs=rngs) for c in read])
        start = jnp.asarray(np.log(np.maximum(head.weights, 1e-6)), jnp.float32)
        self.fusion = nnx.Param(start) if head.fusion == "learned" and head.every_side else None

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Maps "fused", "side1" to "side3" (of the last side alone: "fused"), and the logit of the fused map's GM_r.

        Raises:
            ConfigError: the canvas is smaller than `SMALLEST`.
        """
        x, mask = images.x, images.mask
        if min(mask.shape[1:]) < SMALLEST:
            raise ConfigError(
                f"Images of {mask.shape[1]} x {mask.shape[2]} pixels are too small for three poolings by 2; "
                f"the model needs at least {SMALLEST} pixels a side."
            )
        read = []
        for i, stage in enumerate(self.stages):
            x = self._features(stage, x, mask, deterministic)
            unpooled = x, mask
            if self.head.pooled or i + 1 < len(self.stages):
                x, mask = max_pool(x), pooled_mask(mask)
            read.append((x, mask) if self.head.pooled else unpooled)
        sides = [
            map_of_logits(conv(x, mask), mask, images.mask, self.head.sigmoid)
            for conv, (x, mask) in zip(self.heads, read[-len(self.heads) :], strict=True)
        ]
        maps: dict[str, Map] = {"fused": sides[0]}
        if self.head.every_side:
            maps = {"fused": fused(sides, self._weights())}
            maps |= {f"side{i + 1}": side for i, side in enumerate(sides)}
        return output_of(maps, images.mask, self.head.r, self.head.root_only)

    def _features(self, stage: Attending, x: Array, mask: Array, deterministic: bool) -> Array:
        if not self.remat:
            return stage(x, mask, deterministic=deterministic)

        @nnx.remat
        def again(stage: Attending, x: Array, mask: Array) -> Array:
            return stage(x, mask, deterministic=deterministic)

        return again(stage, x, mask)

    def _weights(self) -> Float[Array, "3"]:
        if self.fusion is None:
            return jnp.asarray(self.head.weights)
        return jax.nn.softmax(self.fusion[...].astype(jnp.promote_types(self.fusion[...].dtype, jnp.float32)))
