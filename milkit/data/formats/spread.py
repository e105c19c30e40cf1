"""Whether positions can be pixels of level 0: columns and rows, which some tools store instead, are too close."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

from milkit.data.formats.header import Header
from milkit.errors import DataError

FEWEST = 16
"""Tiles below which nothing is concluded."""
LEAST_PX2 = 100.0
"""Room a tile in the rectangle around all tiles: tiles of 256 px that overlap by 90 % in both directions still have
655 px2, while columns and rows of tissue that fills a twentieth of the rectangle have 20."""
NARROWEST = 16.0
"""Least width and height of that rectangle, since tiles may lie in one row."""


def look_like_cells(xy: Shaped[np.ndarray, "n 2"]) -> bool:
    """Whether positions are columns and rows rather than pixels.

    Args:
        xy: positions [n, 2].
    """
    if len(xy) < FEWEST:
        return False
    width, height = np.maximum(np.ptp(xy.astype(np.float64), axis=0) + 1.0, NARROWEST).tolist()
    return bool(width * height < LEAST_PX2 * len(xy))


def in_pixels(read: Callable[[Header], np.ndarray | None]) -> Callable[[Header], np.ndarray | None]:
    """A reader of positions that refuses columns and rows where pixels are meant, and the file does not say either."""

    def checked(slide: Header) -> np.ndarray | None:
        xy = read(slide)
        if xy is not None and slide.unit == "px" and look_like_cells(xy):
            raise DataError(
                f"{slide.path}: positions of slide {slide.id!r} go from {xy.min(0).tolist()} to {xy.max(0).tolist()} "
                f"for {len(xy)} tiles: columns and rows, not pixels of level 0. Say unit='grid', and tile_um= for the "
                "step."
            )
        return xy

    return checked
