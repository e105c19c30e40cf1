"""Images changed at random while they train, on the device, each by a key of its own; values worked in 0 to 255.

All changes are written for images that stand in a larger canvas: an image's own height and width turn it, not the
canvas's, so a padded image is changed as it would be alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from milkit.nn.stains import HED, WHITE
from milkit.train.config import Augment


class Placed(NamedTuple):
    """Images in a canvas.

    Attributes:
        x: pixels, 0 to 255; what lies beyond an image's size means nothing.
        size: height and width of each.
    """

    x: Num[Array, "b h w c"]
    size: Int[Array, "b 2"]


def augment(images: Placed, key: Key[Array, ""], how: Augment) -> Placed:
    """Change each image at random.

    Args:
        images: as read.
        key: of this step.
        how: what may happen. Right angles need a square canvas, since a turned image is as wide as it was high.
    """
    keys = jax.random.split(key, 5)
    x, size = images
    channels = x.shape[-1]
    if how.scale is not None:
        x = _zoomed(x, size, keys[0], how.scale)
    x, size = _turned(x, size, keys, how)
    if channels == 3 and how.stain:
        x = _restained(x, keys[3], how.stain)
    if how.colour:
        x = _recoloured(x, keys[4], how.colour, size)
    return Placed(x, size)


def follow(codes: Placed, key: Key[Array, ""], how: Augment) -> Placed:
    """Codes of pixels, moved as `augment` moves the images with the same key; a pixel takes the nearest one's code.

    Args:
        codes: uint8, of the images' own pixels.
        key: of this step.
        how: what may happen.
    """
    keys = jax.random.split(key, 5)
    x, size = codes
    if how.scale is not None:
        at = _window(x.shape, size, keys[0], how.scale)
        rows, columns = (jnp.floor(place + 0.5).astype(jnp.int32) for place in at)
        x = jnp.take_along_axis(x, rows[:, :, None, None], 1)
        x = jnp.take_along_axis(x, columns[:, None, :, None], 2)
    return Placed(*_turned(x, size, keys, how))


def real(size: Int[Array, "b 2"], height: int, width: int) -> Bool[Array, "b h w"]:
    """True on an image's own pixels."""
    return (jnp.arange(height)[:, None] < size[:, 0, None, None]) & (jnp.arange(width) < size[:, 1, None, None])


def _turned(
    x: Num[Array, "b h w c"], size: Int[Array, "b 2"], keys: Key[Array, "5"], how: Augment
) -> tuple[Num[Array, "b h w c"], Int[Array, "b 2"]]:
    """Turned and flipped, and the height and width that each has then."""
    b, height, width, _ = x.shape
    if how.right_angles and height == width:
        turn = jax.random.bernoulli(keys[1], 0.5, (b,))
        x = jnp.where(turn[:, None, None, None], x.swapaxes(1, 2), x)
        size = jnp.where(turn[:, None], size[:, ::-1], size)
    if how.flips or how.right_angles:  # a transpose and two flips make all eight turns
        x = _flipped(x, size, keys[2])
    return x, size


def _flipped(x: Num[Array, "b h w c"], size: Int[Array, "b 2"], key: Key[Array, ""]) -> Num[Array, "b h w c"]:
    flip = jax.random.bernoulli(key, 0.5, (2, len(x)))
    for axis in (0, 1):
        own = size[:, axis, None]
        place = jnp.arange(x.shape[axis + 1])
        back = jnp.where(flip[axis][:, None] & (place < own), own - 1 - place, place)
        index = back[:, :, None, None] if axis == 0 else back[:, None, :, None]
        x = jnp.take_along_axis(x, index, axis + 1)
    return x


def _zoomed(
    x: Float[Array, "b h w c"], size: Int[Array, "b 2"], key: Key[Array, ""], scale: tuple[float, float]
) -> Float[Array, "b h w c"]:
    """A window of each image, 1/scale of its height and width, at a random place, shown in the image's own size."""
    rows, columns = (_between(at) for at in _window(x.shape, size, key, scale))
    return jnp.einsum("bih,bhwc,bjw->bijc", rows, x, columns)


def _window(
    shape: tuple[int, ...], size: Int[Array, "b 2"], key: Key[Array, ""], scale: tuple[float, float]
) -> Iterator[Float[Array, "b n"]]:
    """Where in the image each row, and then each column, of its window is read."""
    keys = jax.random.split(key, 2)
    b = shape[0]
    factor = jnp.exp(jax.random.uniform(keys[0], (b, 1), minval=np.log(scale[0]), maxval=np.log(scale[1])))
    part = 1.0 / factor
    start = jax.random.uniform(keys[1], (b, 2)) * (1.0 - part)  # beyond the edge where part > 1: edge pixels
    for axis in (0, 1):
        yield _places(shape[axis + 1], size[:, axis], part[:, 0], start[:, axis])


def _places(n: int, own: Int[Array, "b"], part: Float[Array, "b"], start: Float[Array, "b"]) -> Float[Array, "b n"]:
    """Positions of n pixels of a window of an axis of which `own` pixels are real."""
    last = (own - 1)[:, None].astype(part.dtype)
    return jnp.clip((start[:, None] + part[:, None] * jnp.arange(n) / jnp.maximum(last, 1.0)) * last, 0.0, last)


def _between(at: Float[Array, "b n"]) -> Float[Array, "b n n"]:
    """Matrices that read pixels at these positions, linearly interpolated."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(at[..., None] - jnp.arange(at.shape[1])))


def _recoloured(
    x: Float[Array, "b h w c"], key: Key[Array, ""], strength: float, size: Int[Array, "b 2"]
) -> Float[Array, "b h w c"]:
    """Brightness, contrast and saturation, each by a factor within 1 +- strength."""
    brightness, contrast, saturation = jax.random.uniform(
        key, (3, len(x), 1, 1, 1), minval=1.0 - strength, maxval=1.0 + strength
    )
    x = x * brightness
    mask = real(size, x.shape[1], x.shape[2])[..., None]
    mean = jnp.sum(x.mean(-1, keepdims=True) * mask, (1, 2), keepdims=True) / jnp.sum(mask, (1, 2), keepdims=True)
    x = mean + (x - mean) * contrast
    grey = x.mean(-1, keepdims=True)
    return jnp.clip(grey + (x - grey) * saturation, 0.0, WHITE)


def _restained(x: Float[Array, "b h w c"], key: Key[Array, ""], strength: float) -> Float[Array, "b h w c"]:
    """More or less of each stain: its optical density times 1 +- strength, and shifted by up to strength / 20.

    References:
        Tellez et al. (2018), IEEE TMI 37:2126, section III-B: jitter in the space of haematoxylin, eosin and residual.
    """
    stains = jnp.asarray(HED / np.linalg.norm(HED, axis=1, keepdims=True), x.dtype)
    density = -jnp.log((jnp.clip(x, 0.0, WHITE) + 1.0) / (WHITE + 1.0))
    keys = jax.random.split(key, 2)
    shape = (len(x), 1, 1, 3)
    factor = 1.0 + jax.random.uniform(keys[0], shape, minval=-strength, maxval=strength)
    shift = jax.random.uniform(keys[1], shape, minval=-strength / 20, maxval=strength / 20)
    amount = density @ jnp.linalg.inv(stains) * factor + shift
    return jnp.clip((WHITE + 1.0) * jnp.exp(-(amount @ stains)) - 1.0, 0.0, WHITE)
