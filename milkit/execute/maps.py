"""Maps of images' pixels in a program's folder: one PNG a validation or test image, referred to in `predictions.csv`.

A byte a pixel: the probability in steps of 1/256, so that 128 and more is 1/2 and more. Several labels stand beside
each other, from left to right.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milkit.execute.folder import write_bytes

ROLES = ("validation", "test")
"""Whose maps are kept; those of training parts would fill disks."""


def map_file(run: str, selection: str, row: int) -> str:
    """Where a map lies in its program's folder; images are named by their row, as ids may hold anything."""
    return f"maps/{run}/{selection}/{row}.png"


def map_files(program: int, run: str, selection: str, role: str, bags: Sequence[tuple]) -> list[str]:
    """Files of some images' maps, relative to the run folder; "" where none is kept."""
    kept = role in ROLES
    return [
        f"programs/{program:04d}/{map_file(run, selection, row)}" if kept and seen is not None else ""
        for row, _, seen in bags
    ]


def write_maps(folder: Path, run: str, selection: str, bags: Sequence[tuple]) -> None:
    """Write the maps of a run's images, (row, logits, map [h, w, c] of bytes), into a program's folder."""
    from PIL import Image

    for row, _, seen in bags:
        if seen is None:
            continue
        pixels = np.concatenate([np.asarray(seen)[..., i] for i in range(np.asarray(seen).shape[-1])], 1)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        path = folder / map_file(run, selection, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, file.getvalue())
