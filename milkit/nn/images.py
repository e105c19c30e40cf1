"""Blocks of networks on images whose pixels are masked: convolution, batch normalisation, max-pool, resizing.

An image stands in the top-left corner of a canvas; `mask` is True on its pixels, which are a rectangle. One rule holds
for all blocks: **a block never reads padding, and says nothing about what it leaves there** (`masked` puts zeros).
So an image gives the same result whatever the canvas around it, exactly as if its own edge were the canvas's.

Layout is NHWC and kernels are HWIO. Parameters are float32; results have the wider type of input and parameters, and
means, variances and interpolation are computed in float32 at least, also where the input is bfloat16.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.nn.convolution import convolution
from milkit.nn.initialisers import torch_bias, torch_kernel

ConvInit = Literal["torch", "he"]
"""How kernels start. `torch`: kernel and bias uniform(+-1/sqrt(fan_in)), the default of torch.nn.Conv2d. `he`: normal
with variance 2/fan_in (He et al., 2015), bias 0, which keeps the scale of a deep ReLU network without normalisation."""

Resizing = Literal["align_corners", "half_pixel"]
"""Where pixels stand. `align_corners`: the corner pixels' centres coincide. `half_pixel`: the images' edges do."""


def masked(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
    """Zeros on padding, whatever stood there."""
    return jnp.where(mask[..., None], x, 0)


def image_sizes(mask: Bool[Array, "b h w"]) -> Int[Array, "b 2"]:
    """Height and width of each image in its canvas; 0 for fillers."""
    height, width = mask[:, :, 0].sum(1, dtype=jnp.int32), mask[:, 0, :].sum(1, dtype=jnp.int32)
    return jnp.stack([height, width], 1)


class Conv(nnx.Module):
    """A convolution with torch's zero padding of (size - 1) / 2 pixels round the image itself.

    Args:
        in_channels, out_channels: channels.
        size: odd side of the kernel in pixels.
        stride: step in pixels; the result's mask is then `strided(mask, stride)`.
        dilation: spacing of the kernel's taps in pixels.
        use_bias: whether a bias is added.
        init: see `ConvInit`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int = 3,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = True,
        init: ConvInit = "torch",
    ):
        self.stride, self.dilation, self.size = stride, dilation, size
        shape = (size, size, in_channels, out_channels)
        if init == "torch":
            kernel, bias = torch_kernel(), torch_bias(size * size * in_channels)
        else:
            kernel, bias = nnx.initializers.he_normal(), nnx.initializers.zeros_init()
        self.kernel = nnx.Param(kernel(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(bias(rngs.params(), (out_channels,), jnp.float32)) if use_bias else None

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b i j d"]:
        """`x` convolved; with a stride of 1 the result has the mask of `x`."""
        kernel = self.kernel[...]
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        x, kernel = masked(x, mask).astype(dtype), kernel.astype(dtype)
        if self.size == 1 and self.stride == 1:
            y = x @ kernel[0, 0]  # a matrix product is faster than a convolution of one tap
        elif self.stride == 1:
            y = convolution(x, kernel, self.dilation)
        else:
            beside = self.dilation * (self.size - 1) // 2
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=((beside, beside), (beside, beside)),
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return y if self.bias is None else y + self.bias[...].astype(dtype)


def strided(mask: Bool[Array, "b h w"], stride: int) -> Bool[Array, "b i j"]:
    """The mask after a `Conv` with a stride: ceil(size / stride) pixels a side."""
    return mask[:, ::stride, ::stride]


class BatchNorm(nnx.Module):
    """Batch normalisation over the real pixels of a batch, with torch's running statistics.

    In training the batch's mean and variance (dividing by the number of pixels) are used, and the running ones move a
    tenth of the way to them, the variance with n - 1 in its denominator. A batch without a real pixel moves nothing.

    Args:
        channels: channels.
        momentum: share of the batch in the new running statistics.
        epsilon: added to the variance.

    References:
        Ioffe & Szegedy (2015, ICML); torch.nn.BatchNorm2d for momentum and epsilon.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.momentum, self.epsilon = momentum, epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Float[Array, "b h w c"]:
        """`x` normalised, by running statistics when `deterministic`, else by the batch's, which it then keeps."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        values = x.astype(wide)
        if deterministic:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._of_batch(values, mask)
        gain = jax.lax.rsqrt(var + self.epsilon) * self.scale[...]
        return ((values - mean) * gain + self.bias[...]).astype(x.dtype)

    def _of_batch(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
        found = mask.sum()
        count = jnp.maximum(found, 1).astype(x.dtype)
        mean = masked(x, mask).sum((0, 1, 2)) / count
        var = masked(jnp.square(x - mean), mask).sum((0, 1, 2)) / count
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        for kept, new in ((self.mean, mean), (self.var, unbiased)):
            share = jnp.where(found > 0, self.momentum, 0.0)
            moved = kept[...] + share * (jax.lax.stop_gradient(new) - kept[...])
            kept[...] = moved.astype(kept[...].dtype)
        return mean, var


def pooled_mask(mask: Bool[Array, "b h w"]) -> Bool[Array, "b i j"]:
    """The mask after `max_pool`: True where all of a 2x2 window is real, so floor(size / 2) pixels a side."""
    h, w = mask.shape[1] // 2, mask.shape[2] // 2
    return mask[:, 1 : 2 * h : 2, 1 : 2 * w : 2]  # real pixels are a rectangle: the last of the window tells


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """The highest of each 2x2 window; an odd last row or column is left out, as in torch. See `pooled_mask`.

    Of equal values the first, row by row, gets the gradient, as in torch. Written out because XLA's own gradient of a
    window's maximum is a serial scatter on a CPU.
    """
    return _highest(x)[0]


def _highest(x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b i j c"], Int[Array, "b i j c"]]:
    """The highest of each window and its number in it, 0 to 3."""
    h, w = 2 * (x.shape[1] // 2), 2 * (x.shape[2] // 2)
    a, b, c, d = (x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1))
    right, lower_right = b > a, d > c
    top, bottom = jnp.where(right, b, a), jnp.where(lower_right, d, c)
    below = bottom > top
    which = jnp.where(below, 2 + lower_right.astype(jnp.int8), right.astype(jnp.int8))
    return jnp.where(below, bottom, top), which


def _max_pool_forward(x: Float[Array, "b h w c"]) -> tuple[Array, tuple[Array, Array]]:
    highest, which = _highest(x)
    shape = jnp.zeros((x.shape[1], x.shape[2], 0))  # carries the canvas's size, no numbers
    return highest, (which, shape)


def _max_pool_backward(kept: tuple[Array, Array], g: Float[Array, "b i j c"]) -> tuple[Float[Array, "b h w c"]]:
    which, shape = kept
    b, h, w, c = g.shape
    place = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    spread = jnp.where(which[:, :, None, :, None] == place, g[:, :, None, :, None], 0).reshape(b, 2 * h, 2 * w, c)
    odd = ((0, 0), (0, shape.shape[0] - 2 * h), (0, shape.shape[1] - 2 * w), (0, 0))
    return (jnp.pad(spread, odd),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def resize(
    x: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    to: Bool[Array, "b i j"],
    mode: Resizing = "align_corners",
) -> Float[Array, "b i j c"]:
    """Bilinear resizing of each image to the size it has in the mask `to`, not to the canvas's; zeros on padding.

    Every output pixel is a convex combination of input pixels, so a map of probabilities stays one, and its complement
    is resized to the complement. It is meant for enlarging: shrinking skips pixels, as it does in torch.

    Args:
        x: images; at least in float32 the result, as interpolated logits feed logarithms.
        mask: True on their real pixels.
        to: True on the real pixels of the result.
        mode: see `Resizing`.
    """
    small, large = image_sizes(mask), image_sizes(to)
    x = masked(x, mask).astype(jnp.promote_types(x.dtype, jnp.float32))
    rows = interpolation(small[:, 0], large[:, 0], x.shape[1], to.shape[1], mode).astype(x.dtype)
    columns = interpolation(small[:, 1], large[:, 1], x.shape[2], to.shape[2], mode).astype(x.dtype)
    exact = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("bih,bhwc->biwc", rows, x, precision=exact)
    return jnp.einsum("bjw,biwc->bijc", columns, tall, precision=exact)


def interpolation(
    small: Int[Array, "b"], large: Int[Array, "b"], source: int, target: int, mode: Resizing
) -> Float[Array, "b target source"]:
    """Matrices that resize a line of `small` pixels, in a canvas of `source`, to `large` in a canvas of `target`.

    Rows of real output pixels sum to 1; rows of padding are 0.
    """
    place, source_place = jnp.arange(target, dtype=jnp.int32), jnp.arange(source, dtype=jnp.int32)
    before, after = small[:, None], large[:, None]
    # positions as fractions of whole numbers: in float32 a position of 100 would be off by 1e-5 of a pixel
    if mode == "align_corners":
        over, under = place * (before - 1), jnp.maximum(after - 1, 1)
    else:
        over, under = (2 * place + 1) * before - after, jnp.maximum(2 * after, 1)
    over = jnp.clip(over, 0, jnp.maximum(before - 1, 0) * under)
    low, part = (over // under)[..., None], ((over % under).astype(float) / under)[..., None]
    weight = jnp.where(source_place == low, 1 - part, jnp.where(source_place == low + 1, part, 0))
    return jnp.where((place < after)[..., None] & (before > 0)[..., None], weight, 0)
