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
_PART = 32
"""Pixels of a line that one turn of the kernel's gradient takes: written out, so that compilation sets a limit."""


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def shifted_sum(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], stride: int, padding: Padding
) -> Float[Array, "b i j c"]:
    """The sum over the kernel's taps of the image moved by the tap, times it; in float32 at least.

    Its gradients are written out as such sums too, as those that JAX derives take many times longer; they have no
    gradients of their own.
    """
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


def _forward(x: Array, kernel: Array, stride: int, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return shifted_sum(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    # of the image: the gradient with zeros between its pixels, under the kernel turned round
    ends = [
        (k - 1 - padding[0], size + padding[0] - 1 - (n - 1) * stride, stride - 1)
        for k, size, n in zip(kernel.shape, x.shape[1:3], g.shape[1:3], strict=False)
    ]
    spread = jax.lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
    return shifted_sum(spread, kernel[::-1, ::-1], 1, (0, 0)), _of_kernel(x, kernel, g, stride, padding)


def _of_kernel(x: Array, kernel: Array, g: Array, stride: int, padding: Padding) -> Array:
    """The gradient of the kernel: a line of the gradient at a time, each of its pixels times what the kernel saw.

    The products of a line are added where the channels lie side by side; a reduction over pixels is slower by far.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    (rows, columns), (b, h, w, c) = kernel.shape[:2], g.shape
    part = min(w, _PART)
    parts = -(-w // part)
    g = jnp.pad(g, ((0, 0), (0, 0), (0, parts * part - w), (0, 0)))
    seen = (part - 1) * stride + columns
    short = max(0, (parts - 1) * part * stride + seen - (x.shape[2] + sum(padding)))
    x = jnp.pad(x, ((0, 0), padding, (padding[0], padding[1] + short), (0, 0)))

    def add(total: Array, at: Array) -> tuple[Array, None]:
        row, start = at // parts, at % parts * part
        line = jax.lax.dynamic_slice(g, (0, row, start, 0), (b, 1, part, c)).astype(wide)
        lines = jax.lax.dynamic_slice(x, (0, row * stride, start * stride, 0), (b, rows, seen, c)).astype(wide)
        for i in range(part):
            total = total + lines[:, :, i * stride : i * stride + columns] * line[:, :, i : i + 1]
        return total, None

    total, _ = jax.lax.scan(add, jnp.zeros((b, rows, columns, c), wide), jnp.arange(h * parts, dtype=jnp.int32))
    return total.sum(0)[:, :, None].astype(kernel.dtype)


shifted_sum.defvjp(_forward, _backward)


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
