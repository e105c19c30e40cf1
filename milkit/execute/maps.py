"""Maps of images' pixels in a program's folder: one PNG a validation or test image, referred to in `predictions.csv`.

A byte a pixel: the probability in steps of 1/256, so that 128 and more is 1/2 and more. Several labels stand beside
each other, from left to right.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from milkit.execute.folder import write_bytes

ROLES = ("validation", "test")
"""Whose maps are kept; those of training parts would fill disks."""
WRITERS = 32
"""Maps written at a time: each waits for the disk (8 ms one by one, 1.4 ms so), and a study of crops has thousands."""


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
    kept = [(folder / map_file(run, selection, row), seen) for row, _, seen in bags if seen is not None]
    for parent in {path.parent for path, _ in kept}:
        parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda one: _write(*one), kept))


def _write(path: Path, seen: Any) -> None:
    from PIL import Image

    map_ = np.asarray(seen)
    file = io.BytesIO()
    Image.fromarray(np.concatenate([map_[..., i] for i in range(map_.shape[-1])], 1)).save(file, "PNG")
    write_bytes(path, file.getvalue())
