"""Test images beside their masks and maps: what a model of pixels saw, and where it was right."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from milkit.report.figures.style import WIDE, Drawing, axes, drawing

MOST_PIXELS = 400
"""Longer sides are drawn with every second, third ... pixel: a page is no viewer."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A test image as the page shows it.

    Attributes:
        said: which it is, and how well it went.
        image: pixels.
        truth: its mask; above 0 is foreground.
        map: probability of foreground.
        threshold: from here on a pixel is called foreground.
    """

    said: str
    image: UInt8[np.ndarray, "h w 3"]
    truth: Any
    map: Float[np.ndarray, "h w"]
    threshold: float


def sheet(shown: list[Shown]) -> Drawing:
    """A row an image: itself, its mask, its map, and what is called foreground."""
    with drawing():
        figure, grid = axes(WIDE, 2.2 * len(shown), nrows=len(shown), ncols=4, squeeze=False)
        for row, one in zip(grid, shown, strict=True):
            step = -(-max(one.map.shape) // MOST_PIXELS)
            called = one.map >= one.threshold
            parts: tuple[tuple[Any, str, dict[str, Any]], ...] = (
                (one.image, "image", {}),
                (np.asarray(one.truth) > 0, "mask", {"cmap": "gray", "vmin": 0, "vmax": 1}),
                (one.map, "map", {"cmap": "viridis", "vmin": 0, "vmax": 1}),
                (called, "foreground", {"cmap": "gray", "vmin": 0, "vmax": 1}),
            )
            for ax, (values, name, how) in zip(row, parts, strict=True):
                ax.imshow(values[::step, ::step], interpolation="nearest", **how)
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(visible=False)
                ax.set_title(name)
            row[0].set_ylabel(one.said.partition(":")[0])
    said = "; ".join(one.said for one in shown)
    caption = f"{said}. Map: probability of foreground from 0 (dark) to 1 (bright); foreground: from the threshold on."
    return Drawing("segmentation", figure, "Images, masks and maps", caption, wide=True)
