"""Images out of the packed study: in a canvas, changed at random in training, and with masks where these are given."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from milkit.data.study import UNKNOWN
from milkit.train.augment import Placed, augment, follow, real
from milkit.train.config import Augment
from milkit.train.setup import Hyper, Packed, Setup, batch_loss
from milkit.train.state import forward
from milkit.types import Batch, Images


def gather_images(
    data: Packed,
    hyper: Hyper,
    index: Int[Array, "b"],
    weight: Float[Array, "b"],
    canvas: tuple[int, int],
    key: Key[Array, ""] | None = None,
    augmenting: Augment | None = None,
) -> Images:
    """Images out of the packed study, at the top left of a canvas, scaled for this run.

    Args:
        data: the packed study.
        hyper: the run's values.
        index: rows of the study.
        weight: fillers (0) become all padding.
        canvas: height and width, no less than any image's.
        key, augmenting: given in training only: what happens to images at random.
    """
    size = data.sizes[index]
    x = jnp.take(data.x, _pixel_rows(data, index, size, canvas), axis=0, mode="clip")
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if key is not None and augmenting is not None:
        x, size = augment(Placed(x, size), key, augmenting)
    mask = real(size, *canvas) & (weight > 0)[:, None, None]
    if hyper.shift is not None:
        x = (x - hyper.shift) * hyper.inverse_scale
    return Images(jnp.where(mask[..., None], x, 0.0), mask)


def with_truth(
    batch: Batch,
    data: Packed,
    canvas: tuple[int, int],
    key: Key[Array, ""] | None = None,
    augmenting: Augment | None = None,
) -> Batch:
    """A batch of images with what is known of their pixels, where masks are handed out; else as it is.

    Args:
        batch: images that `gather_images` gave for the same data, canvas, key and augmenting.
        data, canvas, key, augmenting: as there.
    """
    if data.truth is None:
        return batch
    size = data.sizes[batch.index]
    codes = jnp.take(data.truth, _pixel_rows(data, batch.index, size, canvas), mode="clip")
    if key is not None and augmenting is not None:
        moved, size = follow(Placed(codes[..., None], size), key, augmenting)
        codes = moved[..., 0]
    known = real(size, *canvas) & (codes != UNKNOWN) & (batch.weight > 0)[:, None, None]
    labels = jnp.arange(batch.target.shape[1] if batch.target.ndim == 2 else 1, dtype=codes.dtype)
    values = ((codes[..., None] >> labels) & 1).astype(jnp.result_type(float))
    return replace(batch, truth=jnp.where(known[..., None], values, 0.0), known=known)


def _pixel_rows(
    data: Packed, index: Int[Array, "b"], size: Int[Array, "b 2"], canvas: tuple[int, int]
) -> Int[Array, "b h w"]:
    """Rows of the packed study of each pixel of a canvas; those of padding mean nothing."""
    height, width = (jnp.arange(n, dtype=jnp.int32) for n in canvas)
    return data.offsets[index][:, None, None] + height[:, None] * size[:, 1, None, None] + width


def judge_images(
    setup: Setup,
    length: int,
    data: Packed,
    hyper: Hyper,
    params: Any,
    buffers: Any,
    index: Int[Array, "b"],
    weight: Float[Array, "b"],
) -> tuple[Float[Array, "b c"], Float[Array, "b"]]:
    """Logits of some images whose masks are handed out, and the model's own loss of each, which reads them."""
    assert setup.canvas is not None
    images = gather_images(data, hyper, index, weight, setup.canvas)
    batch = with_truth(Batch(images, data.target[index], weight, index), data, setup.canvas)
    output, _ = forward(setup.graph, params, buffers, images, None, setup.train.precision)
    return output.logits, batch_loss(setup, hyper, output, batch)
