"""The network under SA-MIL, DWS-MIL and Baseline: a trunk, attention if any, a side output a stage, their fusion.

Side outputs read the trunk's last three resolutions. Attention comes after each of them, and the next stage feeds on
what it gives; it starts as the identity, so that a trained trunk's features are what they were.

A trunk that is left as it is (`frozen`) runs by its running statistics and passes no gradient on, which spares the
backward pass through it, two thirds of a step. Attention then has its result read but not fed on: else gradients would
have to pass the later stages to reach it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.nn.images import Conv, max_pool, pooled_mask
from milkit.pixel.conv_norm import Features, Trunk
from milkit.pixel.efficientnet_lite import EfficientNetLite0
from milkit.pixel.maps import Map, SigmoidAt, fused, map_of_logits, output_of
from milkit.pixel.resnet import ResNet
from milkit.pixel.vgg import VGG
from milkit.types import Images, Output

Fusion = Literal["fixed", "learned"]
"""Whether the weights of the sides stay as they are, or are trained from there (as a softmax)."""

Backbone = VGG | EfficientNetLite0 | ResNet

SIDES = 3
"""Side outputs, one for each of the trunk's last resolutions."""


@dataclass(frozen=True)
class Head:
    """What becomes of the stages' features.

    Attributes:
        pooled: whether a side output reads its stage pooled by 2, or as it is.
        every_side: whether all of the last three stages have one, or the last alone.
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


class SidedTrunk(nnx.Module):
    """Images to probability maps; see `Head`.

    Args:
        backbone: configuration of the trunk.
        in_channels, out_features: channels of the images; labels.
        head: what becomes of the features.
        attention: one for each of the last stages; none is no attention.
        times: how often each is applied, with the same weights.
        remat: whether each stage is computed again for the gradient instead of being kept.
        frozen: whether the trunk is left as it is.
        running: whether the trunk normalises by its running statistics in training too.
    """

    def __init__(
        self,
        backbone: Backbone,
        in_channels: int,
        out_features: int,
        head: Head,
        *,
        rngs: nnx.Rngs,
        attention: Sequence[nnx.Module] = (),
        times: int = 0,
        remat: bool = False,
        frozen: bool = False,
        running: bool = False,
    ):
        self.head, self.times, self.remat, self.frozen, self.running = head, times, remat, frozen, running
        self.smallest = backbone.smallest_side
        self.trunk = backbone.build(in_channels, rngs=rngs)
        self.attention = nnx.List(attention)
        read = backbone.channels[-SIDES:] if head.every_side else backbone.channels[-1:]
        self.heads = nnx.List([Conv(c, out_features, 1, rngs=rngs) for c in read])
        start = jnp.asarray(np.log(np.maximum(head.weights, 1e-6)), jnp.float32)
        self.fusion = nnx.Param(start) if head.fusion == "learned" and head.every_side else None

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Maps "fused", "side1" to "side3" (of the last side alone: "fused"), and the logit of the fused map's GM_r.

        Raises:
            ConfigError: the canvas is smaller than the trunk can halve.
        """
        mask = images.mask
        if min(mask.shape[1:]) < self.smallest:
            raise ConfigError(
                f"Images of {mask.shape[1]} x {mask.shape[2]} pixels are too small for the trunk's halvings; the model "
                f"needs at least {self.smallest} pixels a side."
            )
        read = self._read(images, deterministic)[-len(self.heads) :]
        sides = [
            map_of_logits(conv(x, small), small, mask, self.head.sigmoid)
            for conv, (x, small) in zip(self.heads, read, strict=True)
        ]
        maps: dict[str, Map] = {"fused": sides[0]}
        if self.head.every_side:
            maps = {"fused": fused(sides, self._weights())}
            maps |= {f"side{i + 1}": side for i, side in enumerate(sides)}
        return output_of(maps, mask, self.head.r, self.head.root_only)

    def _read(self, images: Images, deterministic: bool) -> list[Features]:
        """What a side output may read of each stage."""
        deterministic = deterministic or self.running
        stages, found = len(self.trunk.stages), []
        x, mask = images.x, images.mask
        for i in range(stages):
            here = i - (stages - len(self.attention))
            attention = self.attention[here] if here >= 0 else None
            if self.frozen:
                x, mask = self.trunk.stage(i, x, mask)
                x = jax.lax.stop_gradient(x)
                seen = self._attended(attention, x, mask)
            else:
                x, mask = self._stage(i, attention, x, mask, deterministic)
                seen = x
            found.append((max_pool(seen), pooled_mask(mask)) if self.head.pooled else (seen, mask))
        return found

    def _stage(self, i: int, attention: nnx.Module | None, x: Array, mask: Array, deterministic: bool) -> Features:
        def run(trunk: Trunk, attention: nnx.Module | None, x: Array, mask: Array) -> Features:
            x, mask = trunk.stage(i, x, mask, deterministic=deterministic)
            return self._attended(attention, x, mask), mask

        features: Features = (nnx.remat(run) if self.remat else run)(self.trunk, attention, x, mask)
        return features

    def _attended(self, attention: Any, x: Array, mask: Array) -> Array:
        for _ in range(self.times if attention is not None else 0):
            x = attention(x, mask)
        return x

    def _weights(self) -> Float[Array, "3"]:
        if self.fusion is None:
            return jnp.asarray(self.head.weights)
        return jax.nn.softmax(self.fusion[...].astype(jnp.promote_types(self.fusion[...].dtype, jnp.float32)))
