"""How sharp tiles are: variance of the Laplacian, read in large blocks so that no tile is decoded by itself."""

from math import ceil

import numpy as np
from jaxtyping import Float, Int, UInt8

from milkit.slides.slide import Slide

QUALITY_MPP = 2.0
"""Micrometres a pixel at which blur is measured: nuclear edges show, and slides usually have a level near it."""
BLOCK_PX = 2048
"""Side of a block that is read at once: 12 MB of pixels."""


def blur_scores(
    slide: Slide, xy_px: Int[np.ndarray, "n 2"], width_px: int, mpp: float = QUALITY_MPP
) -> Float[np.ndarray, "n"]:
    """Variance of the Laplacian of each tile's grey values (0..255): the lower, the more blurred, or the emptier.

    Args:
        slide: opened.
        xy_px: top-left corners in pixels of level 0; what reaches over the slide's border does not count.
        width_px: of a tile, in pixels of level 0.
        mpp: at which it is measured. Figures of different mpp, scanners or stains do not compare.

    References:
        Pech-Pacheco et al. (2000), Diatom autofocusing in brightfield microscopy: a comparative study, ICPR.
    """
    scores = np.full(len(xy_px), np.nan, np.float32)
    if not len(xy_px):
        return scores
    side_px = max(1, int(BLOCK_PX * mpp / slide.mpp))
    block = xy_px // side_px
    order = np.lexsort((block[:, 0], block[:, 1]))
    changes = np.flatnonzero((np.diff(block[order], axis=0) != 0).any(1)) + 1
    for members in np.split(order, changes):
        scores[members] = _of_block(slide, xy_px[members], width_px, mpp)
    return scores


def laplacian_variances(
    grey: Float[np.ndarray, "h w"], start: Int[np.ndarray, "n 2"], stop: Int[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n"]:
    """Variance over rectangles [start, stop), (x, y), of the sum of the four neighbours minus four times the pixel."""
    edged = np.pad(grey.astype(np.float64), 1, mode="edge")
    curve = edged[:-2, 1:-1] + edged[2:, 1:-1] + edged[1:-1, :-2] + edged[1:-1, 2:] - 4 * edged[1:-1, 1:-1]
    count = np.maximum((stop - start).prod(1), 1)
    mean, square = (_sums(values, start, stop) / count for values in (curve, curve**2))
    return np.maximum(square - mean**2, 0).astype(np.float32)


def grey_of(rgb: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Luma, 0..255 (ITU-R BT.601)."""
    red, green, blue = (rgb[..., i].astype(np.float32) for i in range(3))
    return red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)


def _of_block(slide: Slide, xy_px: np.ndarray, width_px: int, mpp: float) -> np.ndarray:
    size = np.array(slide.size_px)
    low, high = xy_px.min(0), np.minimum(xy_px.max(0) + width_px, size)
    scale = slide.mpp / mpp
    wide, tall = (max(1, ceil(float(n) * scale)) for n in high - low)
    corner = (float(low[0]) * slide.mpp, float(low[1]) * slide.mpp)
    grey = grey_of(slide.read(corner, (wide, tall), mpp))
    start = np.rint((xy_px - low) * scale).astype(np.int64)
    stop = np.rint((np.minimum(xy_px + width_px, size) - low) * scale).astype(np.int64)
    start = np.clip(start, 0, [wide - 1, tall - 1])
    return laplacian_variances(grey, start, np.clip(stop, start + 1, [wide, tall]))


def _sums(values: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(np.cumsum(values, 0), 1, out=total[1:, 1:])
    (x0, y0), (x1, y1) = start.T, stop.T
    return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
