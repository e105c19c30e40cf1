"""Resampling along one axis as a matrix: images as Pillow resizes them, grids of positions as PyTorch does.

References:
    Keys, IEEE TASSP 29(6), 1981: the cubic kernel, of which PyTorch takes a = -0.75 and Pillow a = -0.5.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

Filter = Literal["bilinear", "bicubic"]


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel: 1 at 0, 0 at other whole numbers and from 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def triangle(x: np.ndarray) -> np.ndarray:
    """The bilinear kernel: 1 at 0, 0 from 1 on."""
    return np.maximum(0.0, 1 - np.abs(x))


_FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, triangle),
    "bicubic": (2.0, lambda x: cubic(x, -0.5)),
}
"""Half the width of the kernel, in pixels, and the kernel."""


def antialiased(size: int, to: int, kind: Filter) -> Float[np.ndarray, "to size"]:
    """`to` points from `size`, the kernel widened where there are fewer of them; as Pillow, and PyTorch's antialias.

    Outside the image there is nothing: the weights inside are made to sum to 1.
    """
    support, kernel = _FILTERS[kind]
    scale = size / to
    wide = max(scale, 1.0)
    centre = (np.arange(to)[:, None] + 0.5) * scale
    first = np.maximum((centre - support * wide + 0.5).astype(int), 0)
    last = np.minimum((centre + support * wide + 0.5).astype(int), size)
    at = np.arange(size)[None]
    weights = np.where((at >= first) & (at < last), kernel((at + 0.5 - centre) / wide), 0.0)
    result: np.ndarray = weights / weights.sum(1, keepdims=True)
    return result


def clamped(size: int, to: int, scale: float) -> Float[np.ndarray, "to size"]:
    """`to` points from `size` by four neighbours each, whose edge goes on outside; as PyTorch without antialias.

    Args:
        size, to: numbers of points.
        scale: spacing of the new points in old ones; size / to, or what was asked for before rounding.
    """
    at = (np.arange(to) + 0.5) * scale - 0.5
    base = np.floor(at).astype(int)
    matrix = np.zeros((to, size))
    for tap in range(-1, 3):
        weight = cubic(at - (base + tap), -0.75)
        np.add.at(matrix, (np.arange(to), np.clip(base + tap, 0, size - 1)), weight)
    return matrix
