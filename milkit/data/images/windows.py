"""A large image as overlapping windows, and their maps as one again: tile, predict, stitch."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from milkit.errors import DataError


def windows(height: int, width: int, size: int, overlap: int) -> Int[np.ndarray, "n 2"]:
    """Places (top, left) of windows that cover an image, row by row.

    Neighbours overlap by `overlap` pixels; the last of a row or column ends at the border and so overlaps more. Where
    the image is smaller than a window there is one, at 0, as large as the image.

    Args:
        height, width: of the image, px.
        size: side of a window, px.
        overlap: pixels that neighbours share, 0 to size - 1.

    Raises:
        DataError: sizes that are none.
    """
    if height < 1 or width < 1 or not 0 <= overlap < size:
        raise DataError(
            f"Windows of {size} px that overlap by {overlap} px over an image of {height} x {width} px; expected an "
            "image of 1 px or more, and an overlap from 0 to the window's side less 1."
        )
    rows, columns = (_starts(length, size, size - overlap) for length in (height, width))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def aligned_windows(height: int, width: int, size: tuple[int, int], overlap: int, step: int) -> Int[np.ndarray, "n 2"]:
    """Places (top, left) of windows whose starts are multiples of `step`, so that poolings cut an image as if whole.

    Neighbours overlap by `overlap` pixels or more. Windows at the right and bottom may reach beyond the image: what
    lies there is padding.

    Args:
        height, width: of the image, px.
        size: height and width of a window, px.
        overlap: pixels that neighbours share at least.
        step: what starts are multiples of, px.

    Raises:
        DataError: windows that would not get on.
    """
    if min(size) - overlap < step or min(height, width, step) < 1:
        raise DataError(
            f"Windows of {size[0]} x {size[1]} px that overlap by {overlap} px and start at multiples of {step} px, "
            f"over {height} x {width} px; expected windows of {overlap + step} px or more. Take larger windows."
        )
    rows, columns = (
        np.arange(0, max(length - side, 0) + stride, stride)
        for length, side in ((height, size[0]), (width, size[1]))
        for stride in [(side - overlap) // step * step]
    )
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def grid(height: int, width: int, size: int, stride: int) -> Int[np.ndarray, "n 2"]:
    """Places (top, left) of whole windows from the top left on; what is left at right and bottom is not covered."""
    rows, columns = (np.arange(0, length - size + 1, stride) for length in (height, width))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def stitch(
    patches: Iterable[np.ndarray], places: Int[np.ndarray, "n 2"], shape: tuple[int, int], margin: int = 0
) -> Float[np.ndarray, "h w c"]:
    """Maps of windows as the map of the image, blended linearly where windows overlap.

    A pixel counts by its distance from those edges of the window that lie inside the image, so that over r shared
    pixels one window fades out as the other fades in, in steps of 1 / (r + 1). Of windows that agree the result is what
    they say, whatever their size.

    Args:
        patches: the map of each window, [h, w, c], in any order of size; read one by one.
        places: top and left of each.
        shape: height and width of the image.
        margin: pixels along a window's inner edges that do not count: with as many as a network looks around itself,
            and windows that overlap by twice as many, the result is that of the whole image at once.

    Raises:
        DataError: windows that reach over the image, or leave pixels without a map.
    """
    total: np.ndarray | None = None
    weight = np.zeros(shape, np.float64)
    maps = list(patches)
    if len(maps) != len(places) or not maps:
        raise DataError(f"{len(maps)} maps of {len(places)} windows; expected one each, and at least one.")
    ends = [place + np.array(part.shape[:2]) for place, part in zip(places, maps, strict=True)]
    if places.min() < 0 or (np.max(ends, axis=0) > shape).any():
        raise DataError(f"Windows reach from {places.min(0)} to {np.max(ends, axis=0)}, beyond an image of {shape} px.")
    for part, (top, left), (bottom, right) in zip(maps, places.tolist(), ends, strict=True):
        down, along = (_fade(top, int(bottom), shape[0], margin), _fade(left, int(right), shape[1], margin))
        share = down[:, None] * along
        total = np.zeros((*shape, part.shape[2])) if total is None else total
        total[top:bottom, left:right] += share[..., None] * part
        weight[top:bottom, left:right] += share
    if total is None or (weight == 0).any():
        row, column = np.argwhere(weight == 0)[0].tolist()
        raise DataError(
            f"No window covers the pixel at row {row}, column {column} of {shape} (margin={margin}); let windows "
            "overlap by twice the margin or more."
        )
    return (total / weight[..., None]).astype(np.float32)


def _starts(length: int, size: int, step: int) -> np.ndarray:
    last = max(length - size, 0)
    return np.append(np.arange(0, last, step), last).astype(np.int64)


def _fade(start: int, end: int, length: int, margin: int) -> Float[np.ndarray, "n"]:
    """Weight of each pixel of a window along one axis: its distance from the nearer inner edge, 0 in the margin."""
    place = np.arange(1, end - start + 1, dtype=np.float64) - margin
    far = np.full(end - start, float(length))
    before = place if start > 0 else far
    after = place[::-1] if end < length else far
    return np.maximum(np.minimum(before, after), 0.0)
