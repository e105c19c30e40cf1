"""Maps of test images as a run folder keeps them: read from PNGs, crops stitched to the images they are from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from milkit.data.images.windows import stitch
from milkit.errors import RunFolderError
from milkit.predictions import Predictions

CROP_COLUMNS = ("image", "top", "left")
"""Columns of `columns.csv` that a study of crops has."""


@dataclass(frozen=True, eq=False)
class ImageMap:
    """What one run says of one test image.

    Attributes:
        image: its id.
        patient: whose it is.
        map: probability of foreground at each pixel.
        score: the image's own probability, the highest of its crops'.
    """

    image: str
    patient: str
    map: Float[np.ndarray, "h w"]
    score: float


def maps_of_tested(folder: Path, rows: Predictions, columns: Mapping[str, Mapping[str, str]]) -> Iterator[ImageMap]:
    """The maps of the test images of one run, one after the other, in the order of the images' ids.

    Args:
        folder: the run folder.
        rows: test rows of one run and selection, with maps.
        columns: `columns.csv`: column -> bag -> cell.

    Raises:
        RunFolderError: a map is missing or damaged.
    """
    of_crops = all(name in columns for name in CROP_COLUMNS)
    bags = rows.bag.tolist()
    # in the patient unit a bag is called after its patient, and its slide is the image
    images = np.array([columns["image"][bag] for bag in bags]) if of_crops else np.asarray(rows.slide)
    for image in np.unique(images):
        own = np.flatnonzero(images == image)
        parts = [map_of(folder, rows, i) for i in own]
        whole = parts[0]
        if of_crops:
            places = np.array([[int(columns["top"][bags[i]]), int(columns["left"][bags[i]])] for i in own])
            ends = [place + part.shape for place, part in zip(places, parts, strict=True)]
            shape = tuple(np.max(ends, axis=0).tolist())
            whole = stitch([part[..., None] for part in parts], places, shape)[..., 0]
        yield ImageMap(str(image), str(rows.patient[own[0]]), whole, float(rows.score[own, -1].max()))


def map_of(folder: Path, rows: Predictions, i: int | np.integer) -> Float[np.ndarray, "h w"]:
    """Probability of foreground at each pixel of the bag of row i, as it was kept.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    assert rows.map is not None
    return _foreground(_read(folder / str(rows.map[i]), len(rows.names), rows.kind), rows.names)


def _read(path: Path, labels: int, kind: str) -> Float[np.ndarray, "h w c"]:
    """Probabilities of each label; a level of the PNG stands for a 256th, of which the middle is taken."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            levels = np.asarray(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise RunFolderError(
            f"The map {path} cannot be read ({error}); it is written by `milkit run`. Restore it, or run anew."
        ) from None
    channels = 1 if kind == "Binary" else labels
    if levels.ndim != 2 or levels.dtype != np.uint8 or levels.shape[1] % channels:
        raise RunFolderError(f"The map {path} is {levels.dtype} {levels.shape}; expected one byte a pixel.")
    return (np.stack(np.split(levels, channels, 1), -1).astype(np.float64) + 0.5) / 256.0


def _foreground(maps: Float[np.ndarray, "h w c"], names: tuple[str, ...]) -> Float[np.ndarray, "h w"]:
    """Probability of foreground: the only map, or foreground's share where background has a map of its own (OEEM)."""
    if maps.shape[2] == 1:
        return maps[..., 0]
    if "foreground" not in names:
        raise RunFolderError(f"Maps of {', '.join(names)}: which of them the masks are of is not known.")
    fore = maps[..., names.index("foreground")]
    return fore / (fore + maps[..., names.index("background")]) if "background" in names else fore
