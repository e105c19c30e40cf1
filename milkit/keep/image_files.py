"""Images that a model is shown: the files of a folder, each read once before any work begins."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from milkit.data.images.decode import SUFFIXES, Reading, read_image, stem_of
from milkit.data.images.load import threaded
from milkit.data.where import and_more
from milkit.errors import DataError


@dataclass(frozen=True)
class Shown:
    """An image to be predicted.

    Attributes:
        path: its file.
        stem: what its results are called.
        size: height and width, px.
        said: how it was converted.
    """

    path: Path
    stem: str
    size: tuple[int, int]
    said: tuple[str, ...]


def images_in(given: Path) -> list[Path]:
    """The image files of a folder, by name; or the one that is given.

    Raises:
        DataError: there is none.
    """
    given = given.expanduser()
    if given.is_file():
        return [given]
    if not given.is_dir():
        raise DataError(f"There is no folder of images at {given}; give a folder, or one image file.")
    found = sorted(p for p in given.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        there = sorted(p.name for p in given.iterdir())
        held = f"it holds {and_more(there[:5], len(there))}" if there else "it is empty"
        raise DataError(f"{given} holds no image ({', '.join(SUFFIXES)}); {held}. Give the folder that has them.")
    return found


def checked(paths: Sequence[Path], reading: Reading, smallest: int) -> list[Shown]:
    """Read every image once, so that a broken one is found before the work and not after half of it.

    Args:
        paths: the files.
        reading: how the model reads them.
        smallest: fewest pixels a side that the model reads, downsampled.

    Raises:
        DataError: files that cannot be read, or are too small; names the first of them and counts all.
    """
    full = replace(reading, downsample=1)

    def check(path: Path) -> Shown:
        pixels, said = read_image(path, full)
        height, width = pixels.shape[:2]
        if min(height, width) < (smallest - 1) * reading.downsample + 1:
            raise DataError(
                f"{path} has {height} x {width} pixels (height x width); the model, which makes one of "
                f"{reading.downsample} each way, reads {smallest} a side and more. Take it out of the folder."
            )
        return Shown(path, "", (height, width), said)

    found = threaded(check, list(paths))
    return [replace(one, stem=stem) for one, stem in zip(found, names_of(paths), strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """What results are called: a file's name without its ending, or with it where two would be called the same."""
    stems = [stem_of(path.name).lower() for path in paths]
    return [stem_of(p.name) if stems.count(s) == 1 else p.name for p, s in zip(paths, stems, strict=True)]


def file_word(name: str) -> str:
    """A kind's name as part of a file's."""
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "kind"
