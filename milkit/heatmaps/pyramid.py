"""The overlay as a pyramidal OME-TIFF: tiled, levels as SubIFDs, its pixel size stated, so that viewers lay it right.

A pixel is a whole part of the step that all tile edges share, so that the edges of tiles are edges of pixels wherever
that step is wide enough; where it is not, edges are rounded to the nearest pixel.
"""

import math
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from jaxtyping import Int, UInt8

from milkit.heatmaps.painted import blended, painted
from milkit.heatmaps.scores import SlideScores
from milkit.heatmaps.shown import Scale, normalised
from milkit.slides.slide import Slide

ACROSS = 16
"""Least pixels across a tile, where the picture does not become too large."""
MOST_PIXELS = 1 << 24
"""Of the finest level; 17 million."""
COARSEST = 512
"""Levels are halved until the longer side is no longer than this."""
TILE, STRIP = 256, 1024
"""Side of a tile of the file; and rows of the picture read at once."""


def pixel_of(xy_px: Int[np.ndarray, "n 2"], width_px: int, size_px: tuple[int, int]) -> tuple[float, bool]:
    """Pixels of level 0 that one pixel of the picture is wide, and whether all edges of tiles are edges of pixels.

    Args:
        xy_px: top-left corners of tiles.
        width_px: of a tile.
        size_px: width and height of level 0.
    """
    # so wide that the picture does not become too large
    least = max(1.0, math.sqrt(size_px[0] * size_px[1] / MOST_PIXELS))
    shared = int(np.gcd.reduce(np.append(xy_px.ravel(), width_px)))
    parts = min(math.ceil(ACROSS * shared / width_px), math.floor(shared / least))
    if parts >= 1:
        return shared / parts, True
    return max(least, float(max(1, width_px // ACROSS))), False


def write_pyramid(path: Path, slide: Slide, scores: SlideScores, scale: Scale, opacity: float, about: str) -> bool:
    """Write the overlay.

    Args:
        path: the file, which must not be there.
        slide: that the tiles were cut from.
        scores: of its tiles.
        scale: how scores become colours.
        opacity: of the colours, 0..1.
        about: kept as the image's description.

    Returns:
        Whether the edges of tiles are edges of pixels.
    """
    import tifffile

    px, exact = pixel_of(scores.xy_px, scores.width_px, slide.size_px)
    levels = _levels(_blend(slide, scores, scale, opacity, px))
    mpp = slide.mpp * px
    name = ", ".join([f"{scores.slide_id}: {scores.what}", *scores.marks])
    metadata: dict[str, Any] = {
        "axes": "YXS",
        "Name": name,
        "Description": about,
        # else it is made of the time and of this machine's network address
        "UUID": f"urn:uuid:{uuid5(NAMESPACE_OID, name + about)}",
        "PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm",
    }  # fmt: skip
    how: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib", "predictor": True}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as file:
        file.write(
            levels[0], subifds=len(levels) - 1, resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER",
            metadata=metadata, software="milkit", **how,
        )  # fmt: skip
        for i, level in enumerate(levels[1:], 1):
            coarse = 1e4 / (mpp * 2**i)
            file.write(level, subfiletype=1, resolution=(coarse, coarse), resolutionunit="CENTIMETER", **how)
    return exact


def _blend(
    slide: Slide, scores: SlideScores, scale: Scale, opacity: float, px: float
) -> UInt8[np.ndarray, "h w 3"]:  # fmt: skip
    width, height = (math.ceil(side / px) for side in slide.size_px)
    values = painted(scores.xy_px, scores.width_px, normalised(scores, scale), (height, width), px)
    out = np.empty((height, width, 3), np.uint8)
    mpp = slide.mpp * px
    for top in range(0, height, STRIP):
        rows = min(STRIP, height - top)
        pixels = slide.read((0.0, top * mpp), (width, rows), mpp)
        out[top : top + rows] = blended(pixels, values[top : top + rows], opacity)
    return out


def _levels(finest: UInt8[np.ndarray, "h w 3"]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Each level half as fine as the one before, means of 2 x 2 pixels; an odd last row or column is doubled."""
    levels = [finest]
    while max(levels[-1].shape[:2]) > COARSEST:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    h, w = pixels.shape[:2]
    even = np.pad(pixels, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge").astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)
