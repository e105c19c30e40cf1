"""Values of tiles as a raster: each pixel has the mean of the tiles that cover it."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from milkit.heatmaps.shown import coloured


def painted(
    xy_px: Int[np.ndarray, "n 2"],
    width_px: int,
    values: Float[np.ndarray, "n"],
    shape: tuple[int, int],
    px: float,
) -> Float[np.ndarray, "h w"]:
    """The mean of the tiles that cover each pixel, NaN where none does or none is known.

    A tile covers the pixels between its edges, each rounded to the nearest pixel's edge (half up) and at least one
    pixel wide, so neighbours meet without a gap. Takes time by tiles and pixels, not by their product.

    Args:
        xy_px: top-left corners, pixels of level 0.
        width_px: of a tile, in pixels of level 0.
        values: of each tile; NaN paints nothing.
        shape: height and width of the raster.
        px: pixels of level 0 that one of its pixels is wide.
    """
    known = np.isfinite(values)
    xy, values = xy_px[known], values[known]
    low = np.floor(xy / px + 0.5).astype(np.int64)
    high = np.maximum(np.floor((xy + width_px) / px + 0.5).astype(np.int64), low + 1)
    most = np.array([shape[1], shape[0]])
    low, high = np.clip(low, 0, most), np.clip(high, 0, most)
    count = _summed(low, high, np.ones(len(values)), shape)
    total = _summed(low, high, values, shape)
    covered = np.rint(count) > 0
    return np.where(covered, total / np.where(covered, count, 1), np.nan)


def blended(
    pixels: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "h w"], opacity: float
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture under the colours of values from 0 to 1; where they are NaN it stays as it is."""
    colour = coloured(values.ravel()).reshape(*values.shape, 4)
    share = (opacity * (colour[..., 3:] > 0)).astype(np.float32)
    return np.rint(pixels * (1 - share) + colour[..., :3] * share).astype(np.uint8)


def _summed(
    low: Int[np.ndarray, "n 2"], high: Int[np.ndarray, "n 2"], values: Float[np.ndarray, "n"], shape: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Sum over rectangles in each pixel: each adds at its corners, and is then summed up along both axes."""
    steps = np.zeros((shape[0] + 1, shape[1] + 1))
    for (x, y), sign in (((low, low), 1), ((high, low), -1), ((low, high), -1), ((high, high), 1)):
        np.add.at(steps, (y[:, 1], x[:, 0]), sign * values)
    return steps.cumsum(0).cumsum(1)[:-1, :-1]
