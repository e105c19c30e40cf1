"""Stages 1 to 3 of VGG-16, with or without batch normalisation: what the weakly supervised models stand on.

References:
    Simonyan & Zisserman (2015, ICLR), configuration D; its convolutions are torchvision's vgg16 features 0, 2, 5, 7,
    10, 12 and 14.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.images import BatchNorm, Conv, ConvInit
from milkit.pixel.weights import Layer, load

DEPTHS = (2, 2, 3)
"""Convolutions of each stage."""
PLAIN, NORMALISED = (0, 2, 5, 7, 10, 12, 14), (0, 3, 7, 10, 14, 17, 20)
"""Numbers of the convolutions among torchvision's `features`, of vgg16 and of vgg16_bn."""

Width = tuple[int, int, int]
"""Channels of each stage; VGG-16 has (64, 128, 256)."""


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


def vgg_stages(
    in_channels: int, width: Width, *, rngs: nnx.Rngs, batch_norm: bool = True, init: ConvInit = "torch"
) -> list[VGGStage]:
    """The three stages, to be pooled by 2 in between."""
    before = (in_channels, *width)
    return [
        VGGStage(a, b, depth, rngs=rngs, batch_norm=batch_norm, init=init)
        for a, b, depth in zip(before, width, DEPTHS, strict=False)
    ]


def load_vgg(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill the stages of SA-MIL's, DWS-MIL's or Baseline's module with torchvision's vgg16 or vgg16_bn, folded or not.

    What lies above the stages is not read, and attention and heads stay as they are. Weights without batch
    normalisation fit stages with it too: see `milkit.pixel.weights` on folding.

    Args:
        model: a module whose `stages` hold a `VGGStage` as `stage`.
        arrays: by torchvision's names, `features.0.weight` and so on.

    Raises:
        DataError: they do not fit.
    """
    stages: Any = vars(model)["stages"]
    plain = "features.2.weight" in arrays  # in vgg16_bn that is a ReLU
    convolutions = PLAIN if plain else NORMALISED
    numbers, names = iter(convolutions), []
    for stage, depth in enumerate(DEPTHS):
        for i in range(depth):
            number, at = next(numbers), f"stages/{stage}/stage"
            norm = (f"{at}/norms/{i}", "" if plain else f"features.{number + 1}")
            if stages[stage].stage.norms is None:
                norm = ("", "")
            names.append(Layer(f"{at}/convs/{i}", f"features.{number}", *norm))
    above = (f"features.{i}" for i in range(convolutions[-1] + (1 if plain else 2), 44))
    load(model, arrays, names, ignore=("classifier", *above))
