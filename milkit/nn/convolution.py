"""Convolution with a stride of 1 that keeps the image's size, and gradients that a CPU computes fast.

XLA derives the gradient of the kernel as a convolution whose window is the whole image. On a CPU that takes about three
times as long as matrix products of a few lines of pixels each, which stay in its caches (benchmarks/pixel_speed.py).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_AT_ONCE = 512
"""Pixels of a matrix product: with the taps of 128 channels beside each other 2 MiB, about a core's cache."""
_FEW = 4096
"""Pixels of a batch below which XLA's own gradient is as fast."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c d"], dilation: int = 1
) -> Float[Array, "b h w d"]:
    """`x` with zeros round it, convolved.

    Args:
        x: images.
        kernel: of odd sides.
        dilation: spacing of its taps in pixels.
    """
    return _xla(x, kernel, dilation)


def _xla(x: Array, kernel: Array, dilation: int) -> Array:
    beside = [(dilation * (size - 1) // 2,) * 2 for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=beside,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _xla(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    derived = functools.partial(_derived, dilation=dilation)
    if g.shape[0] * g.shape[1] * g.shape[2] < _FEW:
        return derived(*kept, g)
    on_cpu = functools.partial(_by_lines, dilation=dilation)
    x, kernel = jax.lax.platform_dependent(*kept, g, cpu=on_cpu, default=derived)
    return x, kernel


def _derived(x: Array, kernel: Array, g: Array, *, dilation: int) -> tuple[Array, Array]:
    """What JAX derives."""
    of_x, of_kernel = jax.vjp(functools.partial(_xla, dilation=dilation), x, kernel)[1](g)
    return of_x, of_kernel


def _by_lines(x: Array, kernel: Array, g: Array, *, dilation: int) -> tuple[Array, Array]:
    of_x = _xla(g, kernel[::-1, ::-1].swapaxes(2, 3), dilation)  # the kernel turned round
    height, width = kernel.shape[:2]
    return of_x, kernel_gradient(x, g, (height, width), dilation).astype(kernel.dtype)


def kernel_gradient(
    x: Float[Array, "b h w c"], g: Float[Array, "b h w d"], sides: tuple[int, int], dilation: int = 1
) -> Float[Array, "k l c d"]:
    """The gradient of a kernel of some `sides` from that of the result, a few lines at a time; in float32 at least.

    Each turn puts what the taps see beside each other and multiplies it with the gradient. Lines that fill the last
    turn up are zeros, as the image's surroundings are.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    (b, h, w, c), d = x.shape, g.shape[-1]
    lines = min(h, max(1, _AT_ONCE // (b * w)))
    turns = -(-h // lines)
    short = turns * lines - h
    (above, left), nothing = (dilation * (size - 1) // 2 for size in sides), (0, 0)
    x = jnp.pad(x, (nothing, (above, above + short), (left, left), nothing))
    g = jnp.pad(g, (nothing, (0, short), nothing, nothing))
    taps = [(i * dilation, j * dilation) for i in range(sides[0]) for j in range(sides[1])]

    def add(total: Array, turn: Array) -> tuple[Array, None]:
        first = turn * lines
        seen = jax.lax.dynamic_slice_in_dim(x, first, lines + 2 * above, 1)
        learned = jax.lax.dynamic_slice_in_dim(g, first, lines, 1).reshape(-1, d)
        beside = jnp.concatenate([seen[:, i : i + lines, j : j + w] for i, j in taps], -1).reshape(-1, len(taps) * c)
        # in this order: the other way round XLA's product takes half as long again
        return total + jax.lax.dot_general(learned, beside, (((0,), (0,)), ((), ())), preferred_element_type=wide), None

    total, _ = jax.lax.scan(add, jnp.zeros((d, len(taps) * c), wide), jnp.arange(turns, dtype=jnp.int32))
    return total.reshape(d, *sides, c).transpose(1, 2, 3, 0)


convolution.defvjp(_forward, _backward)


def small_convolution(x: Float[Array, "b h w c"], kernel: Float[Array, "k l c d"]) -> Float[Array, "b i j d"]:
    """`x` without anything round it, convolved: h - k + 1 by w - l + 1 pixels. For many small images.

    On a CPU what the taps see is put beside each other and multiplied: inside a loop, such as that over the steps of an
    epoch, XLA's own convolution of small images takes six to ten times as long, forward and backward.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_by_taps, default=_unpadded)


def _by_taps(x: Array, kernel: Array) -> Array:
    height, width, channels, filters = kernel.shape
    h, w = x.shape[1] - height + 1, x.shape[2] - width + 1
    beside = jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(height) for j in range(width)], -1)
    return beside @ kernel.reshape(height * width * channels, filters)


def _unpadded(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
