"""Images changed at random while they train, on the device, each by a key of its own; values worked in 0 to 255.

All changes are written for images that stand in a larger canvas: an image's own height and width turn it, not the
canvas's, so a padded image is changed as it would be alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from milkit.nn.stains import HED, WHITE
from milkit.train.config import Augment


class Placed(NamedTuple):
    """Images in a canvas.

    Attributes:
        x: pixels, 0 to 255; what lies beyond an image's size means nothing.
        size: height and width of each.
    """

    x: Float[Array, "b h w c"]
    size: Int[Array, "b 2"]


def augment(images: Placed, key: Key[Array, ""], how: Augment) -> Placed:
    """Change each image at random.

    Args:
        images: as read.
        key: of this step.
        how: what may happen. Right angles need a square canvas, since a turned image is as wide as it was high.
    """
    keys = jax.random.split(key, 5)
    b, height, width, channels = images.x.shape
    x, size = images
    if how.scale is not None:
        x = _zoomed(x, size, keys[0], how.scale)
    if how.right_angles and height == width:
        turn = jax.random.bernoulli(keys[1], 0.5, (b,))
        x = jnp.where(turn[:, None, None, None], x.swapaxes(1, 2), x)
        size = jnp.where(turn[:, None], size[:, ::-1], size)
    if how.flips or how.right_angles:  # a transpose and two flips make all eight turns
        x = _flipped(x, size, keys[2])
    if channels == 3 and how.stain:
        x = _restained(x, keys[3], how.stain)
    if how.colour:
        x = _recoloured(x, keys[4], how.colour, size)
    return Placed(x, size)


def real(size: Int[Array, "b 2"], height: int, width: int) -> Bool[Array, "b h w"]:
    """True on an image's own pixels."""
    return (jnp.arange(height)[:, None] < size[:, 0, None, None]) & (jnp.arange(width) < size[:, 1, None, None])


def _flipped(x: Float[Array, "b h w c"], size: Int[Array, "b 2"], key: Key[Array, ""]) -> Float[Array, "b h w c"]:
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
    keys = jax.random.split(key, 2)
    factor = jnp.exp(jax.random.uniform(keys[0], (len(x), 1), minval=np.log(scale[0]), maxval=np.log(scale[1])))
    part = 1.0 / factor
    start = jax.random.uniform(keys[1], (len(x), 2)) * (1.0 - part)  # beyond the edge where part > 1: edge pixels
    rows = _between(x.shape[1], size[:, 0], part[:, 0], start[:, 0])
    columns = _between(x.shape[2], size[:, 1], part[:, 0], start[:, 1])
    return jnp.einsum("bih,bhwc,bjw->bijc", rows, x, columns)


def _between(n: int, own: Int[Array, "b"], part: Float[Array, "b"], start: Float[Array, "b"]) -> Float[Array, "b n n"]:
    """Matrices that read n pixels, linearly interpolated, from a window of an axis of which `own` pixels are real."""
    last = (own - 1)[:, None].astype(part.dtype)
    at = jnp.clip((start[:, None] + part[:, None] * jnp.arange(n) / jnp.maximum(last, 1.0)) * last, 0.0, last)
    return jnp.maximum(0.0, 1.0 - jnp.abs(at[..., None] - jnp.arange(n)))


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
