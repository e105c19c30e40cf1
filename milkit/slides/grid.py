"""The grid of tiles over a slide: where squares of a width in micrometres lie, in whole pixels of level 0."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from milkit.errors import ConfigError

MOST_SQUARES = 1 << 24
"""Of a grid: a slide of 100 x 100 mm in squares of 25 um. What is known of each is held in memory."""


@dataclass(frozen=True)
class Grid:
    """Squares from the top-left corner of a slide, row by row. Those at right and bottom may reach over the border.

    Attributes:
        columns: how many squares lie side by side.
        rows: how many rows.
        step_px: from one corner to the next.
        width_px: of a square: its width in micrometres, rounded to whole pixels (half to even).
    """

    columns: int
    rows: int
    step_px: int
    width_px: int

    def corners(self, row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n 2"]:
        """Top-left corners (x, y) of squares."""
        return np.stack([column, row], 1).astype(np.int64) * self.step_px


def grid_of(size_px: tuple[int, int], mpp: float, tile_um: float, overlap_um: float = 0.0) -> Grid:
    """The grid of a slide. Steps are whole pixels, so that corners are, and neighbours lie equally far apart.

    Args:
        size_px: width and height of level 0.
        mpp: of level 0.
        tile_um: width of a square.
        overlap_um: of neighbours.

    Raises:
        ConfigError: tiles of less than a pixel, that do not move, or too many.
    """
    width = round(tile_um / mpp)
    step = width - round(overlap_um / mpp)
    if step < 1:
        raise ConfigError(
            f"Tiles of {tile_um:g} um that overlap by {overlap_um:g} um move by {step} pixels of {mpp:g} um; a step of "
            "one pixel or more is needed. Take wider tiles or less overlap."
        )
    columns, rows = (-(-side // step) for side in size_px)
    if columns * rows > MOST_SQUARES:
        raise ConfigError(
            f"Tiles of {tile_um:g} um that overlap by {overlap_um:g} um move by {step} pixels, so {size_px[0]} x "
            f"{size_px[1]} pixels would be {columns * rows:,} tiles; {MOST_SQUARES:,} is the most. Take wider tiles or "
            "less overlap."
        )
    return Grid(columns, rows, step, width)


def context_corners(xy_px: Int[np.ndarray, "n 2"], width_px: int, scale: int) -> Int[np.ndarray, "n 2"]:
    """Corners of squares `scale` times as wide about the same centres; they may lie outside the slide.

    Where (scale - 1) * width is odd, the centre is half a pixel of level 0 to the left and above.
    """
    return xy_px - -(-(scale - 1) * width_px // 2)
