"""An image with what was found in it: a line around each object, and a tint."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

How = Literal["both", "contour", "tint"]
TINT = 0.3
"""Share of the colour in tinted pixels."""
LINES = 400
"""A line is one pixel wide for each so many of the image's shorter side."""


def overlay(
    pixels: UInt8[np.ndarray, "h w 3"],
    masks: list[Bool[np.ndarray, "h w"]],
    colours: list[tuple[int, int, int]],
    how: How = "both",
) -> UInt8[np.ndarray, "h w 3"]:
    """Masks on an image, later ones above earlier ones.

    Args:
        pixels: the image.
        masks: of each kind.
        colours: red, green, blue of each.
        how: tint the inside, draw a line along its border (within the mask), or both.
    """
    out = pixels.copy()
    wide = max(1, round(min(pixels.shape[:2]) / LINES))
    for mask, colour in zip(masks, colours, strict=True):
        if how != "contour":
            mixed = out[mask] * (1.0 - TINT) + np.array(colour) * TINT
            out[mask] = np.rint(mixed).astype(np.uint8)
        if how != "tint":
            # beyond the image counts as inside: an object that goes on has no border there
            inner = ndimage.binary_erosion(mask, iterations=wide, border_value=1)
            out[mask & ~inner] = colour
    return out
