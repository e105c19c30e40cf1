"""From standardised channels back to RGB, and from RGB to the amount of a stain."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

WHITE = 255.0
"""The brightest value of a channel."""
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
"""Of RGB in [0, 1]; models whose `normalisation` is "imagenet" are shown (RGB / 255 - mean) / SD."""
IMAGENET_SD = np.array([0.229, 0.224, 0.225], np.float32)
HED = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
"""Optical densities of haematoxylin, eosin and DAB, one a row (Ruifrok & Johnston 2001, table 1)."""


def rgb_of(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """RGB in [0, 255] of channels standardised as ImageNet's; padding gives a grey that means nothing."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, sd = (jnp.asarray(a, x.dtype) for a in (IMAGENET_MEAN, IMAGENET_SD))
    return jnp.clip(WHITE * (x * sd + mean), 0.0, WHITE)


def haematoxylin(rgb: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Amount of haematoxylin by colour deconvolution, in optical density (natural logarithm); noise may be below 0.

    Args:
        rgb: in [0, 255]. One is added to each value and to white, so that black has a density.

    References:
        Ruifrok & Johnston (2001), Quantification of histochemical staining by color deconvolution.
    """
    # the inverse in NumPy: its rows must not be rounded to a matrix unit's short products
    amounts = np.linalg.inv(HED / np.linalg.norm(HED, axis=1, keepdims=True))[:, 0].tolist()
    density = -jnp.log((rgb + 1.0) / (WHITE + 1.0))
    red, green, blue = (density[..., i] * amount for i, amount in enumerate(amounts))
    return red + green + blue
