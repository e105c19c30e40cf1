"""Which tile of one tiling belongs to each tile of another, by position alone."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from milkit.errors import DataError

NEAREST = 4
"""Tiles among which that with the nearest centre is looked for; more than four grid squares never touch a point."""


def same_place(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "m 2"], tolerance: float) -> Int[np.ndarray, "n"]:
    """Row of the tile of b at the position of each tile of a, within `tolerance` along both axes; -1 for none.

    Raises:
        DataError: two tiles of a are at one tile of b, so which belong together cannot be told.
    """
    if not len(a) or not len(b):
        return np.full(len(a), -1)
    distance, row = cKDTree(b).query(a, p=np.inf)
    row = np.where(distance <= tolerance, row, -1)
    taken = row[row >= 0]
    if len(np.unique(taken)) < len(taken):
        twice = tuple(b[int(np.flatnonzero(np.bincount(taken) > 1)[0])].tolist())
        raise DataError(
            f"several tiles lie within {tolerance:g} um of {twice} um, so which belong together cannot be told. Does a "
            "file hold tiles twice, or is tolerance_um too large?"
        )
    return row


def square_around(
    points: Float[np.ndarray, "n 2"], centres: Float[np.ndarray, "m 2"], width: float
) -> Int[np.ndarray, "n"]:
    """The square that holds each point, that with the nearest centre where several do; -1 where none does.

    Of equally near ones the upper, then the left one is taken, so that the order of a file does not matter.
    """
    if not len(points) or not len(centres):
        return np.full(len(points), -1)
    order = np.lexsort((centres[:, 0], centres[:, 1]))
    distance, row = cKDTree(centres[order]).query(points, k=min(NEAREST, len(centres)), p=np.inf)
    distance, row = distance.reshape(len(points), -1), row.reshape(len(points), -1)
    near = np.isclose(distance, distance.min(1, keepdims=True), rtol=0, atol=1e-3 * width)
    best = np.where(near, row, len(centres)).min(1)
    inside = distance.min(1) <= width / 2 * (1 + 1e-6)
    return np.where(inside, order[np.minimum(best, len(centres) - 1)], -1)
