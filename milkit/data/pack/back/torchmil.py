"""torchmil's folders: `features/<bag>.npy` and `coords/<bag>.npy`."""

from pathlib import Path

import numpy as np

from milkit.data.pack.back.slide import Slide

TOOL = "torchmil"


def write(folder: Path, slide: Slide) -> Path:
    """Write one slide, its positions in pixels of level 0 where they are known, else in micrometres."""
    coords = slide.coords_um if slide.coords_px is None else slide.coords_px
    for name, values in (("features", np.ascontiguousarray(slide.x, np.float32)), ("coords", coords)):
        if values is not None:
            (folder / name).mkdir(exist_ok=True)
            np.save(folder / name / f"{slide.id}.npy", values, allow_pickle=False)
    return folder
