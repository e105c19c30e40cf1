"""torchmil's folders: `features/<bag>.npy`, `coords/<bag>.npy` and, where labels are known, `labels/<bag>.npy`."""

from pathlib import Path

import numpy as np

from milkit.data.pack.back.slide import Slide

TOOL = "torchmil"


def write(folder: Path, slide: Slide) -> Path:
    """Write one slide, its positions in pixels of level 0 where they are known, else in micrometres."""
    coords = slide.coords_um if slide.coords_px is None else slide.coords_px
    label = np.array([int(slide.label)]) if slide.label and slide.label.lstrip("-").isdecimal() else None
    for name, values in (
        ("features", np.ascontiguousarray(slide.x, np.float32)),
        ("coords", coords),
        ("labels", label),
    ):
        if values is not None:
            (folder / name).mkdir(exist_ok=True)
            np.save(folder / name / f"{slide.id}.npy", values, allow_pickle=False)
    return folder
