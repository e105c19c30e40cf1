"""TRIDENT's layout: `<mag>x_<size>px_<overlap>px_overlap/` with `patches/` and `features_<encoder>/`."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.pack.back.slide import Slide, check_name, growing, set_attributes

TOOL = "TRIDENT"


def write(folder: Path, slide: Slide) -> Path:
    """Write the positions and the features of one slide; gives the folder of the features."""
    size, encoder = int(slide.need("tile_px", TOOL)), str(slide.need("encoder", TOOL))
    magnification, overlap = slide.need("magnification", TOOL), int(slide.need("overlap", TOOL))
    coords = np.asarray(slide.need("coords_px", TOOL), np.int64)
    tiling = folder / f"{magnification:g}x_{size}px_{overlap}px_overlap"
    features = tiling / f"features_{check_name(encoder.replace('/', '_').replace(':', '_'))}"
    on_coords: dict[str, Any] = {
        "patch_size": size,
        "patch_size_level0": round(slide.need("tile_level0_px", TOOL)),
        "level0_magnification": _one(slide, "level0_magnification"),
        "target_magnification": int(magnification) if float(magnification).is_integer() else magnification,
        "overlap": overlap,
        "name": slide.id,
        "savetodir": tiling.name,
        "level0_width": _one(slide, "level0_width"),
        "level0_height": _one(slide, "level0_height"),
    }
    for where in (tiling / "patches", features):
        where.mkdir(parents=True, exist_ok=True)
    with h5py.File(tiling / "patches" / f"{slide.id}_patches.h5", "w") as file:
        set_attributes(growing(file, "coords", coords, 1), on_coords)
    with h5py.File(features / f"{slide.id}.h5", "w") as file:
        said = {"encoder": encoder, "name": slide.id, "savetodir": features.name}
        set_attributes(growing(file, "features", slide.x, 1), said)
        set_attributes(growing(file, "coords", coords, 1), on_coords)
    return features


def _one(slide: Slide, name: str) -> Any:
    """What the features' own tool said of all slides; None where slides differ or nothing was said."""
    value = slide.said.get(name)
    return None if isinstance(value, list | dict) else value
