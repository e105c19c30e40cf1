"""Depthwise convolution of masked images: each channel has a kernel of its own.

On a CPU it is a sum of shifted products. XLA's grouped convolution takes each channel for a convolution of its own and
is many times slower there (benchmarks/depthwise.py); elsewhere it is what is used.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.images import masked

Padding = tuple[int, int]
"""Zeros before and after an image, in pixels, in both directions."""


class Depthwise(nnx.Module):
    """A depthwise convolution without bias, of an image with zeros around it.

    Args:
        channels: channels.
        size: side of the kernel in pixels.
        stride: step in pixels.
        padding: zeros before and after the image; with an odd kernel ((size - 1) / 2, (size - 1) / 2) keeps its size.
    """

    def __init__(self, channels: int, size: int, *, rngs: nnx.Rngs, stride: int = 1, padding: Padding):
        self.stride, self.padding = stride, padding
        he = nnx.initializers.he_normal()  # its fan-in is the kernel's area, as each channel sees only itself
        self.kernel = nnx.Param(he(rngs.params(), (size, size, 1, channels), jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b i j c"]:
        """`x` convolved; the canvas has floor((size of it + padding - size of kernel) / stride) + 1 pixels a side."""
        return depthwise(masked(x, mask), self.kernel[...], self.stride, self.padding)


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], stride: int, padding: Padding
) -> Float[Array, "b i j c"]:
    """Each channel of `x` convolved with its own kernel, by what is fastest where it runs."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    on_cpu = functools.partial(shifted_sum, stride=stride, padding=padding)
    elsewhere = functools.partial(grouped, stride=stride, padding=padding)
    result: Array = jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)
    return result


def shifted_sum(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], stride: int, padding: Padding
) -> Float[Array, "b i j c"]:
    """The sum over the kernel's taps of the image moved by the tap, times it; in float32 at least."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns = kernel.shape[:2]
    height, width = ((side - size) // stride for side, size in zip(x.shape[1:3], (rows, columns), strict=True))
    total = jnp.zeros((), wide)
    for i in range(rows):
        for j in range(columns):
            moved = x[:, i : i + height * stride + 1 : stride, j : j + width * stride + 1 : stride]
            total = total + moved.astype(wide) * kernel[i, j, 0].astype(wide)
    return total.astype(x.dtype)


def grouped(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], stride: int, padding: Padding
) -> Float[Array, "b i j c"]:
    """XLA's convolution with a group a channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
