"""A study's images as a folder of PNGs and a table, which ordinary experiments read; no mask is opened.

The roles of the one split stand in the table, and where each bag lies in its image: maps of crops are stitched by that.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from milkit.data.images import ImageCohort
from milkit.data.protocol import Split
from milkit.data.study import Study
from milkit.execute.folder import write_bytes, write_text

TABLE = "table.csv"
FILE = "bag"
"""Column of the image files."""
PLACE = ("image", "top", "left")
"""Columns that say which image a crop is from, and where it lies in it."""


def pixels(study: Study, row: int) -> UInt8[np.ndarray, "h w c"]:
    """The image of a bag."""
    assert study.sizes is not None
    height, width = study.sizes[row].tolist()
    return np.asarray(study.read(row).x).reshape(height, width, -1)


def write_image(path: Path, image: UInt8[np.ndarray, "..."]) -> None:
    """A PNG, whole or not at all; a mask [h, w] becomes one channel."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, file.getvalue())


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def write_study(study: Study, split: Split, folder: Path) -> dict[str, int]:
    """Write the images of a study, and the table of `cohort`; how many bags each role has."""
    of_crops = all(name in study.columns for name in PLACE)
    rows = []
    for role in ("train", "validation", "test"):
        for i in getattr(split, role).tolist():
            name = f"bag_{i:06d}"
            write_image(folder / f"{name}.png", pixels(study, i))
            place = [study.columns[p][i] for p in PLACE] if of_crops else [study.slides[i][0], 0, 0]
            rows.append([name, int(study.targets.values[i]), study.patient[i], role, *place])
    write_table(folder / TABLE, (FILE, "label", "patient", "split", *PLACE), rows)
    return {role: len(getattr(split, role)) for role in ("train", "validation", "test")}


def cohort(folder: Path, **more: object) -> ImageCohort:
    """The images and the table that lie in a folder."""
    options: dict[str, object] = {"image": FILE, "patient": "patient", "split": "split", "site": "-", "cohort": "-"}
    return ImageCohort(str(folder / TABLE), **{**options, **more})  # type: ignore[arg-type]
