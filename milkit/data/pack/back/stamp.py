"""STAMP's layout: `<slide>.h5` with `feats` in float16 and `coords` in micrometres."""

from pathlib import Path

import h5py
import numpy as np

import milkit
from milkit.data.pack.back.slide import Slide
from milkit.data.store_write import as_stored

TOOL = "STAMP"
VERSION = "2.1.0"
"""The first version of STAMP that reads this layout; later ones refuse only what is newer than themselves."""


def write(folder: Path, slide: Slide) -> Path:
    """Write one slide; gives the folder of the features."""
    said = {
        "stamp_version": VERSION,
        "extractor": str(slide.need("encoder", TOOL)),
        "unit": "um",
        "tile_size_um": float(slide.need("tile_um", TOOL)),
        "tile_size_px": int(slide.need("tile_px", TOOL)),
        "code_hash": f"written by milkit {milkit.__version__}",
        "feat_type": "tile",
    }
    coords = np.asarray(slide.need("coords_um", TOOL), np.float32)
    with h5py.File(folder / f"{slide.id}.h5", "w") as file:
        file["coords"] = coords
        file["feats"] = as_stored(slide.id, slide.x, "float16")
        for name, value in said.items():
            file.attrs[name] = value
    return folder
