"""What the supervised networks share: from logits of pixels to an `Output`, and the loss on masks of pixels.

These networks are upper bounds: made for masks, they show what a weakly supervised model misses by not having them.
In an experiment whose data hand out masks (`pixel_masks=True`) they learn from those, by `pixel_loss`; else from image
labels, by the generalised mean of their map as the weakly supervised models do.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from milkit.errors import ConfigError
from milkit.nn.images import masked
from milkit.pixel.maps import Map, image_label_loss, output_of
from milkit.types import Batch, Output


def output_of_pixels(logits: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], r: float) -> Output:
    """One map, "fused", and the logit of its GM_r; `extras["pixel_logits"]` holds the logits, 0 on padding.

    Args:
        logits: of each pixel, at the images' resolution.
        mask: True on real pixels.
        r: exponent of the generalised mean.
    """
    logits = masked(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), mask)
    output = output_of({"fused": Map(*(masked(jax.nn.sigmoid(z), mask) for z in (logits, -logits)))}, mask, r)
    return replace(output, extras=output.extras | {"pixel_logits": logits})


def supervised_loss(
    output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
    """`pixel_loss` where the batch has masks, else the loss of the map's image probability; and each by name."""
    if batch.truth is None or batch.known is None:
        return image_label_loss(output, batch, bag_loss)
    values = pixel_loss(output, batch.truth, batch.known)
    return values, {"pixels": values}


def pixel_loss(output: Output, truth: Num[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b"]:
    """Mean binary cross-entropy of an image's labelled pixels, over labels; 0 for an image without any.

    Args:
        output: of one of the supervised networks.
        truth: 0 or 1, or a probability, of each pixel and label.
        mask: True on pixels that count: real ones whose label is known.
    """
    z = output.extras["pixel_logits"]
    truth = jnp.where(mask[..., None], truth, 0).astype(z.dtype)
    each = masked(truth * jax.nn.softplus(-z) + (1 - truth) * jax.nn.softplus(z), mask).mean(-1)
    return each.sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)


def check_canvas(mask: Bool[Array, "b h w"], smallest: int, poolings: int) -> None:
    """Refuse images that poolings by 2 leave nothing of.

    Raises:
        ConfigError: the canvas is smaller than `smallest`.
    """
    if min(mask.shape[1:]) < smallest:
        raise ConfigError(
            f"Images of {mask.shape[1]} x {mask.shape[2]} pixels are too small for {poolings} poolings by 2; "
            f"the model needs at least {smallest} pixels a side."
        )
