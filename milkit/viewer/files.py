"""Where each slide's file is: in a folder that is named, or as the store says; never by a path that a browser sends."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.data.slide_facts import slide_facts
from milkit.errors import DataError
from milkit.slides.tile_slides import SUFFIXES, slide_id_of


@dataclass(frozen=True)
class SlideFile:
    """A slide's file as it is to be opened.

    Attributes:
        path: the file; None where there is none.
        reason: why there is none.
        mpp: micrometres a pixel of level 0, where a store or the user said it.
        size_px: width and height of level 0 as the tiles were laid; None where not known.
    """

    path: Path | None
    reason: str = ""
    mpp: float | None = None
    size_px: tuple[int, int] | None = None


def find_files(
    slides: Sequence[str], stores: Sequence[Path], folder: Path | None, mpp: float | None
) -> dict[str, SlideFile]:
    """The file of every slide.

    Args:
        slides: ids of the run's slides.
        stores: stores that may say of which files their tiles were cut.
        folder: look for files by the slides' ids there, in its subfolders too; None takes the files that the stores
            name.
        mpp: of all slides, before what stores and files say.

    Raises:
        DataError: the folder is not there, or a store is damaged.
    """
    said: dict[str, dict[str, Any]] = {}
    for store in stores:
        said.update(slide_facts(store))
    there = None if folder is None else _of_folder(folder)
    out = {}
    for slide in slides:
        facts = said.get(slide, {})
        path, reason = _named(facts, bool(stores)) if there is None else _found(slide, there, folder)
        own = facts.get("mpp") if mpp is None else mpp
        size = facts.get("size_px")
        out[slide] = SlideFile(path, reason, own, None if size is None else (int(size[0]), int(size[1])))
    return out


def named_slides(stores: Sequence[Path]) -> tuple[str, ...]:
    """Slides of which some stores say from which file they were cut; raises a DataError for a damaged one."""
    return tuple(dict.fromkeys(slide for store in stores for slide in slide_facts(store)))


def _named(facts: Mapping[str, Any], any_store: bool) -> tuple[Path | None, str]:
    """The file that a store names: where it stands, not where a link to another folder would lead."""
    if not facts:
        if any_store:
            return None, "The store does not say of which file this slide is; give the slides' folder: --slides DIR."
        return None, "The run's features are no store that names slide files; give the slides' folder: --slides DIR."
    path = Path(facts["slide"])
    if not path.is_file():
        seen = "" if path.is_absolute() else f" (seen from {Path.cwd()})"
        return None, f"There is no file {path}{seen}; give the slides' folder: --slides DIR."
    if path.resolve().parent != path.parent.resolve():
        return None, f"{path} is a link into another folder; give that folder: --slides DIR."
    return path.resolve(), ""


def _of_folder(folder: Path) -> dict[str, list[Path]]:
    """Files of a folder that may be slides, by name with and without ending; links to folders are not followed."""
    if not folder.is_dir():
        raise DataError(f"--slides {folder} is no folder that is there; give the folder of the slide files.")
    found: dict[str, list[Path]] = {}
    for where, _, names in os.walk(folder):
        for path in (Path(where, name) for name in sorted(names)):
            if path.suffix.lower() in SUFFIXES:
                for name in {slide_id_of(path), path.name}:
                    found.setdefault(name, []).append(path)
    return found


def _found(slide: str, there: Mapping[str, list[Path]], folder: Path | None) -> tuple[Path | None, str]:
    """The one file of a slide's name, if it lies in the folder."""
    paths = there.get(slide, [])
    if not paths:
        return None, f"{folder} holds no slide file named {slide!r} ({', '.join(SUFFIXES)})."
    if len(paths) > 1:
        return None, f"{len(paths)} files are named {slide!r}: {', '.join(map(str, paths[:3]))}; keep one."
    if folder is None or not paths[0].resolve().is_relative_to(folder.resolve()):
        return None, f"{paths[0]} is a link out of {folder}; copy the slide there, or give its own folder."
    if not paths[0].is_file():
        return None, f"{paths[0]} is a link to nothing, or no file; copy the slide there."
    return paths[0].resolve(), ""


def stores_of(features: Sequence[str], given: Path | None) -> tuple[Path, ...]:
    """Files of stores: the one that is given, else those that the run's experiment names, as far as they are there.

    Raises:
        DataError: the given one is not there.
    """
    if given is not None:
        if not given.exists():
            raise DataError(f"--store {given} is not there; give the store that the run was trained on.")
        return _files(given)
    return tuple(file for path in features for file in _files(Path(path).expanduser()))


def _files(path: Path) -> tuple[Path, ...]:
    """A store, or the stores of a folder."""
    files = sorted(path.glob("*.h5")) if path.is_dir() else [path]
    return tuple(file for file in files if file.is_file())
