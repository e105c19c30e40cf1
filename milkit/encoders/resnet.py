"""ResNet-50 as an encoder (He, Zhang, Ren & Sun, CVPR 2016), whole or cut off after its third stage.

Cut off, it is what CLAM (Lu et al., Nature Biomedical Engineering 2021) made its features with: 1024 of them, the mean
over pixels of `layer3`. Weights: torchvision's naming, whose blocks have their stride in the 3x3 convolution.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from milkit.encoders.arrays import Taker, folded
from milkit.encoders.efficientnet_lite import Layer, point
from milkit.encoders.pixels import Pixels
from milkit.fields import check_fields

BLOCKS = (3, 4, 6, 3)
"""Residual blocks of each stage."""
EXPANSION = 4
"""Channels of a block's output, as a multiple of its 3x3 convolution's."""
EPSILON = 1e-5
"""Of the batch normalisation."""


@dataclass(frozen=True)
class ResNet50:
    """The network's configuration."""

    cpu_batch: ClassVar[int] = 4

    stages: int = 4
    """Stages of residual blocks, 1 to 4: 256, 512, 1024 or 2048 features."""
    first: int = 64  # the only one with weights
    """Channels of the first convolution."""
    pixels: Pixels = Pixels(224, "bilinear")
    """Its input."""

    def __post_init__(self) -> None:
        check_fields(self, "encoder", stages="[1, 4]", first="[1, inf)")

    def parameters(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Weights in torchvision's naming; the classifier `fc` and stages that are left out are not read.

        Raises:
            DataError: they do not fit.
        """
        taker = Taker(arrays)
        stem = folded(taker, "conv1", "bn1", (self.first, 3, 7, 7), EPSILON)
        stages, before = [], self.first
        for stage in range(self.stages):
            inner, blocks = self.first * 2**stage, []
            for i in range(BLOCKS[stage]):
                at, after = f"layer{stage + 1}.{i}", inner * EXPANSION
                shapes = ((inner, before, 1, 1), (inner, inner, 3, 3), (after, inner, 1, 1))
                block = {
                    f"conv{j}": folded(taker, f"{at}.conv{j}", f"{at}.bn{j}", shape, EPSILON)
                    for j, shape in enumerate(shapes, 1)
                }
                if i == 0:
                    shape = (after, before, 1, 1)
                    block["beside"] = folded(taker, f"{at}.downsample.0", f"{at}.downsample.1", shape, EPSILON)
                blocks.append(block)
                before = after
            stages.append(blocks)
        left = [f"layer{stage + 1}" for stage in range(self.stages, len(BLOCKS))]
        taker.close("ResNet-50", ignore=("fc", *left))
        return {"stem": stem, "stages": stages}

    def features(self, parameters: Any, x: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """The mean over pixels of the last stage."""
        x = _highest_of_nine(nnx.relu(_convolved(x, parameters["stem"], 2)))
        for stage, blocks in enumerate(parameters["stages"]):
            for i, block in enumerate(blocks):
                x = _residual(x, block, 2 if stage and not i else 1)
        return x.astype(jnp.float32).mean((1, 2))


def _residual(x: Array, block: dict[str, Layer], stride: int) -> Array:
    """1x1, 3x3 and 1x1 convolutions, added to the input or to a 1x1 convolution of it."""
    y = nnx.relu(point(x, block["conv1"]))
    y = point(nnx.relu(_convolved(y, block["conv2"], stride)), block["conv3"])
    beside = point(x[:, ::stride, ::stride], block["beside"]) if "beside" in block else x
    return nnx.relu(y + beside)


def _convolved(x: Array, layer: Layer, stride: int) -> Array:
    kernel, bias = layer
    beside = ((kernel.shape[0] // 2,) * 2, (kernel.shape[1] // 2,) * 2)
    steps = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, steps, beside, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def _highest_of_nine(x: Array) -> Array:
    """The highest in 3x3 windows around every other pixel of values that are not negative."""
    beside = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, np.asarray(0, x.dtype), jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), beside)
