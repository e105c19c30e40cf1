"""The slides that the viewer's tests look at."""

import numpy as np
import slide_files

from milkit.types import Bag

MPP, WIDTH, COLUMNS, ROWS, CORNER = 0.5, 64, 5, 4, 32
TOLD = 13  # the tile that makes a slide positive: column 3, row 2
SIZE = (600, 352)
DARK = (120, 60, 130)


def corners():
    """Corners of the tiles in pixels of level 0; the fifth of the grid is left out."""
    y, x = np.divmod(np.arange(COLUMNS * ROWS), COLUMNS)
    return np.delete(np.stack([x, y], 1) * WIDTH + CORNER, 4, 0).astype(np.int64)


def pixels():
    """A noisy slide; the telling tile is of one dark colour."""
    out = slide_files.picture(*SIZE)
    x, y = corners()[TOLD]
    out[y : y + WIDTH, x : x + WIDTH] = DARK
    return out


def slide_bags(n=12, seed=0):
    """Slides of one grid; every second one is positive."""
    rng = np.random.default_rng(seed)
    xy = corners()
    for i in range(n):
        x = 0.1 * rng.normal(size=(len(xy), 5)).astype(np.float32)
        x[TOLD, 0] += 3.0 * (i % 2)
        yield Bag(f"s{i}", x, (xy * MPP).astype(np.float32), xy, WIDTH * MPP, MPP)
