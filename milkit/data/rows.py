"""Some instances of a bag, without the others where the file allows it."""

from dataclasses import replace

import numpy as np

from milkit.bag import Bag
from milkit.data.features import FeatureSource
from milkit.errors import DataError


def read_rows(source: FeatureSource, bag_id: str, rows: np.ndarray) -> Bag:
    """Read chosen instances of a bag, in the order given; the arrays are copies.

    Of a native store only the pages that hold them are touched. Files of other tools cannot do that at a bearable
    speed (TRIDENT's chunks are single rows, and HDF5 looks each up), so they are read whole.

    Args:
        source: of features.
        bag_id: of the bag.
        rows: whole numbers from 0 to n - 1, [k]; one may come twice.

    Raises:
        DataError: no such bag, or no such instance.
    """
    rows = np.asarray(rows)
    bag = source.read(bag_id)
    n = len(bag.x)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (len(rows) and not 0 <= rows.min() <= rows.max() < n):
        raise DataError(f"Bag {bag_id!r} has instances 0 to {n - 1}; expected some of these, got {rows!r}.")
    um, px = bag.coords_um, bag.coords_px
    return replace(
        bag,
        x=np.take(bag.x, rows, axis=0),
        coords_um=None if um is None else np.take(um, rows, axis=0),
        coords_px=None if px is None else np.take(px, rows, axis=0),
    )
