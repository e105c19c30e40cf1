"""CLAM's layout: `h5_files/`, `pt_files/` (where torch is installed) and `patches/`, which holds the tile size."""

import importlib.util
from pathlib import Path

import h5py
import numpy as np

from milkit.data.pack.back.slide import Slide, growing, set_attributes

TOOL = "CLAM"


def write(folder: Path, slide: Slide) -> Path:
    """Write one slide; gives the folder of the features."""
    coords = np.asarray(slide.need("coords_px", TOOL), np.int64)
    size = round(slide.need("tile_level0_px", TOOL))
    x = np.ascontiguousarray(slide.x, np.float32)
    for name in ("h5_files", "patches"):
        (folder / name).mkdir(exist_ok=True)
    with h5py.File(folder / "h5_files" / f"{slide.id}.h5", "w") as file:
        growing(file, "features", x, 32)
        growing(file, "coords", coords, 32)
    with h5py.File(folder / "patches" / f"{slide.id}.h5", "w") as file:
        # tiles in pixels of level 0, whatever level they were cut at: the width on the slide is the same
        said = {"patch_size": size, "patch_level": 0, "downsample": np.ones(2), "name": slide.id}
        set_attributes(growing(file, "coords", coords, 1), {**said, "save_path": "patches"})
    if importlib.util.find_spec("torch"):
        import torch

        (folder / "pt_files").mkdir(exist_ok=True)
        torch.save(torch.from_numpy(x), folder / "pt_files" / f"{slide.id}.pt")
    return folder / "h5_files"
