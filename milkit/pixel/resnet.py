"""ResNet-18, -34 and -50 trunks (He, Zhang, Ren & Sun, CVPR 2016, arXiv:1512.03385).

A 7x7 convolution and a 3x3 maximum, each with a stride of 2, then four stages of residual blocks at 1/4 to 1/32 of the
image's resolution. Weights: torchvision's naming, pixels in ImageNet's mean and standard deviation
(`normalisation="imagenet"` of the model on top).

Deviations: in blocks of three convolutions the stride is in the 3x3 one, as in torchvision, whose weights are in use;
the paper has it in the first 1x1. With `dilated` stages the stride is left out and the taps of later convolutions are
spread instead (Yu, Koltun & Funkhouser, CVPR 2017; torchvision's `replace_stride_with_dilation`): finer maps from the
same weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn.images import BatchNorm, Conv, masked, strided
from milkit.pixel.conv_norm import ConvNorm, Features, Trunk, named
from milkit.pixel.weights import Layer, load

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Residual blocks of each stage, by depth."""
EXPANSION = {18: 1, 34: 1, 50: 4}
"""Channels of a block's output, as a multiple of its 3x3 convolution's."""


@dataclass(frozen=True)
class ResNet:
    """The trunk's configuration."""

    depth: Literal[18, 34, 50] = 18
    width: int = 64  # the only one with weights
    """Channels of the first stage's 3x3 convolutions; they double with each stage."""
    stages: int = 4
    """Stages of residual blocks that are computed, 1 to 4."""
    dilated: int = 0
    """How many of the last stages keep the resolution of the one before and spread their taps."""

    def __post_init__(self) -> None:
        check_fields(self, "backbone", width="[1, inf)", stages="[1, 4]", dilated="[0, 3]")
        if self.dilated >= self.stages:
            raise ConfigError(
                f"backbone.dilated is {self.dilated} with {self.stages} stages; the first cannot be, so expected at "
                f"most {self.stages - 1}."
            )

    @property
    def smallest_side(self) -> int:
        """The fewest pixels an image may have a side; convolutions reach beyond its edge, so that one is enough."""
        return 1

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's features."""
        return tuple(self.width * 2**i * EXPANSION[self.depth] for i in range(self.stages))

    def build(self, in_channels: int, *, rngs: nnx.Rngs) -> "ResNetTrunk":
        """Make the module for images of `in_channels`."""
        return ResNetTrunk(self, in_channels, rngs=rngs)

    def load(self, trunk: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill a trunk of this configuration with arrays in torchvision's naming; what lies above it is not read.

        Raises:
            DataError: they do not fit.
        """
        load(trunk, arrays, self.names(), ignore=("fc", *(f"layer{i + 1}" for i in range(self.stages, 4))))

    def names(self) -> Sequence[Layer]:
        """Layers of the trunk in torchvision's naming."""
        found = [named("stem", "conv1", "bn1")]
        convolutions = 2 if EXPANSION[self.depth] == 1 else 3
        for stage in range(self.stages):
            for block in range(BLOCKS[self.depth][stage]):
                ours, theirs = f"stages/{stage}/{block}", f"layer{stage + 1}.{block}"
                for i in range(convolutions):
                    found.append(named(f"{ours}/convs/{i}", f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}"))
                if block == 0 and (stage > 0 or EXPANSION[self.depth] > 1):
                    found.append(named(f"{ours}/beside", f"{theirs}.downsample.0", f"{theirs}.downsample.1"))
        return found


class ResNetTrunk(Trunk):
    """Images to features at each stage."""

    def __init__(self, config: ResNet, in_channels: int, *, rngs: nnx.Rngs):
        self.stem = _conv(in_channels, config.width, 7, rngs, stride=2)
        before, dilation = config.width, 1
        stages = []
        for stage, (blocks, after) in enumerate(zip(BLOCKS[config.depth], config.channels, strict=False)):
            spread = stage >= config.stages - config.dilated
            stride = 2 if stage and not spread else 1
            made = []
            for i in range(blocks):
                taps = dilation * 2 if spread and i else dilation  # torchvision's: the first block keeps the old ones
                step = stride if i == 0 else 1
                made.append(Residual(before, after, EXPANSION[config.depth], step, taps, rngs=rngs))
                before = after
            dilation *= 2 if spread else 1
            stages.append(nnx.List(made))
        self.stages = nnx.List(stages)

    def stage(
        self, stage: int, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Features:
        """One stage's features from those of the one before, or from the image."""
        if stage == 0:
            to = strided(mask, 2)
            x = nnx.relu(self.stem(x, mask, to, deterministic=deterministic))
            x, mask = highest_of_nine(x, to), strided(to, 2)
        for block in self.stages[stage]:
            x, mask = block(x, mask, deterministic=deterministic)
        return x, mask


class Residual(nnx.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1; added to the input, or to a 1x1 convolution of it."""

    def __init__(self, before: int, after: int, expansion: int, stride: int, dilation: int, *, rngs: nnx.Rngs):
        inner = after // expansion
        spread = {"stride": stride, "dilation": dilation}
        if expansion == 1:
            convs = [_conv(before, after, 3, rngs, **spread), _conv(after, after, 3, rngs, dilation=dilation)]
        else:
            convs = [
                _conv(before, inner, 1, rngs),
                _conv(inner, inner, 3, rngs, **spread),
                _conv(inner, after, 1, rngs),
            ]
        self.convs = nnx.List(convs)
        same = before == after and stride == 1
        self.beside = None if same else _conv(before, after, 1, rngs, stride=stride)

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Features:
        """The block's output and its mask."""
        y, at = x, mask
        for i, conv in enumerate(self.convs):
            after = strided(at, conv.conv.stride)
            y = conv(y, at, after, deterministic=deterministic)
            y, at = (nnx.relu(y) if i + 1 < len(self.convs) else y), after
        beside = x if self.beside is None else self.beside(x, mask, at, deterministic=deterministic)
        return nnx.relu(y + beside), at


def highest_of_nine(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b i j c"]:
    """The highest of the real pixels in 3x3 windows around every other pixel, whose mask is `strided(mask, 2)`.

    Two steps of three shifted maxima each: XLA's own gradient of a window's maximum is a serial scatter on a CPU.
    """
    lowest = jnp.finfo(x.dtype).min
    x = jnp.where(mask[..., None], x, lowest)
    for axis in (1, 2):
        around = [(0, 0)] * 4
        around[axis] = (1, 1)
        padded, size = jnp.pad(x, around, constant_values=lowest), x.shape[axis]
        a, b, c = (jax.lax.slice_in_dim(padded, i, i + size, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return masked(x, strided(mask, 2))


def _conv(before: int, after: int, size: int, rngs: nnx.Rngs, stride: int = 1, dilation: int = 1) -> ConvNorm:
    conv = Conv(before, after, size, stride=stride, dilation=dilation, use_bias=False, init="he", rngs=rngs)
    return ConvNorm(conv, BatchNorm(after))
