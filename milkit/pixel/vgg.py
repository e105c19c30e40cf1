"""Stages 1 to 3 of VGG-16, with or without batch normalisation: what the weakly supervised models stand on.

References:
    Simonyan & Zisserman (2015, ICLR), configuration D; its convolutions are torchvision's vgg16 features 0, 2, 5, 7,
    10, 12 and 14.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.images import BatchNorm, Conv, ConvInit, max_pool, pooled_mask
from milkit.pixel.conv_norm import Features, Trunk
from milkit.pixel.weights import Layer, load

DEPTHS = (2, 2, 3)
"""Convolutions of each stage."""
PLAIN, NORMALISED = (0, 2, 5, 7, 10, 12, 14), (0, 3, 7, 10, 14, 17, 20)
"""Numbers of the convolutions among torchvision's `features`, of vgg16 and of vgg16_bn."""

Width = tuple[int, int, int]
"""Channels of each stage; VGG-16 has (64, 128, 256)."""


@dataclass(frozen=True)
class VGG:
    """The trunk's configuration."""

    width: Width = (64, 128, 256)  # the only ones with weights
    """Channels of each stage."""
    batch_norm: bool = True
    """Whether each convolution is normalised."""
    init: ConvInit = "torch"
    """How kernels start."""
    stages: ClassVar[int] = len(DEPTHS)

    @property
    def smallest_side(self) -> int:
        """The fewest pixels an image may have a side: the last stage's features can be pooled by 2 once more."""
        return 2 ** len(DEPTHS)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's features."""
        return self.width

    def build(self, in_channels: int, *, rngs: nnx.Rngs) -> "VGGTrunk":
        """Make the module for images of `in_channels`."""
        return VGGTrunk(self, in_channels, rngs=rngs)

    def load(self, trunk: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill a trunk of this configuration with torchvision's vgg16 or vgg16_bn, folded or not.

        What lies above the stages is not read. Weights without batch normalisation fit stages with it too: see
        `milkit.pixel.weights` on folding.

        Raises:
            DataError: they do not fit.
        """
        plain = _plain(arrays)
        above = (PLAIN[-1] + 1) if plain else (NORMALISED[-1] + 2)
        ignore = ("classifier", *(f"features.{i}" for i in range(above, 44)))
        load(trunk, arrays, self.names(plain), ignore=ignore)

    def names(self, plain: bool) -> Sequence[Layer]:
        """Layers of the trunk in torchvision's naming of vgg16 (`plain`) or vgg16_bn."""
        numbers, found = iter(PLAIN if plain else NORMALISED), []
        for stage, depth in enumerate(DEPTHS):
            for i in range(depth):
                number, norm = next(numbers), ("", "")
                if self.batch_norm:
                    norm = (f"stages/{stage}/norms/{i}", "" if plain else f"features.{number + 1}")
                found.append(Layer(f"stages/{stage}/convs/{i}", f"features.{number}", *norm))
        return found


class VGGTrunk(Trunk):
    """Images to features at their own resolution, a half and a quarter of it: each stage pools what it is given by 2,
    but for the first.
    """

    def __init__(self, config: VGG, in_channels: int, *, rngs: nnx.Rngs):
        before = (in_channels, *config.width)
        self.stages = nnx.List(
            VGGStage(a, b, depth, rngs=rngs, batch_norm=config.batch_norm, init=config.init)
            for a, b, depth in zip(before, config.width, DEPTHS, strict=False)
        )

    def stage(
        self, stage: int, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Features:
        """One resolution's features from those of the one before, or from the image."""
        if stage > 0:
            x, mask = max_pool(x), pooled_mask(mask)
        return self.stages[stage](x, mask, deterministic=deterministic), mask


class VGGStage(nnx.Module):
    """3x3 convolutions, each followed by batch normalisation (if any) and ReLU; no pooling.

    Args:
        in_channels, channels: of the input, and of every layer.
        depth: number of convolutions.
        batch_norm: whether each is normalised.
        init: how kernels start.
    """

    def __init__(
        self, in_channels: int, channels: int, depth: int, *, rngs: nnx.Rngs, batch_norm: bool, init: ConvInit
    ):
        widths = [in_channels, *[channels] * depth]
        self.convs = nnx.List([Conv(a, b, rngs=rngs, init=init) for a, b in pairwise(widths)])
        self.norms = nnx.List([BatchNorm(channels) for _ in range(depth)]) if batch_norm else None

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Float[Array, "b h w d"]:
        """Features at the resolution of `x`."""
        for i, conv in enumerate(self.convs):
            x = conv(x, mask)
            if self.norms is not None:
                x = self.norms[i](x, mask, deterministic=deterministic)
            x = nnx.relu(x)
        return x


def _plain(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays are of vgg16 rather than vgg16_bn, where number 2 is a ReLU."""
    return "features.2.weight" in arrays
