"""One bag as it lies on disk or in memory; free of JAX, so that looking at files costs no start of it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bag:
    """One bag: all instances, no padding.

    Attributes:
        id: the bag's name (a slide, a patient, an image).
        x: features, [n, d], any float dtype, n >= 1.
        coords_um: top-left corner of each tile in micrometres, [n, 2] (x, y), or None where the mpp is not known.
        coords_px: the same in pixels of level 0 (the scan's full resolution), [n, 2] whole numbers, or None.
        tile_um: width of a tile in micrometres, None where not known.
        mpp: micrometres per pixel of level 0, None where not known.
    """

    id: str
    x: np.ndarray
    coords_um: np.ndarray | None = None
    coords_px: np.ndarray | None = None
    tile_um: float | None = None
    mpp: float | None = None

    @property
    def features(self) -> np.ndarray:
        """Features, [n, d]; `x` by its long name."""
        return self.x
