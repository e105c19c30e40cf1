"""Which file a slide is, and whether it is the one that the tiles were cut from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from milkit.data.matching import file_stem
from milkit.data.where import did_you_mean
from milkit.errors import DataError
from milkit.heatmaps.opened import Opened
from milkit.heatmaps.scores import SlideScores
from milkit.slides.mpp import MppError
from milkit.slides.open import open_slide
from milkit.slides.slide import Slide
from milkit.slides.tile_slides import SUFFIXES, slide_id_of
from milkit.slides.tiling import slide_digest

SAME_MPP = 0.01
"""Relative difference of two mpp that are one: scanners state .2525 where others state .25."""


def slide_named(opened: Opened, said: str) -> tuple[str, Path | None]:
    """The slide's id in the run, and its file where that is what was said.

    Args:
        opened: the run.
        said: a slide's file, or its id.

    Raises:
        DataError: the run has no such slide, or several.
    """
    if said in opened.known and not Path(said).is_file():
        return said, None
    path = Path(said)
    if not path.is_file():
        known = [own for own in opened.known if file_stem(own) == file_stem(said)]
        bags = dict(zip(opened.study.bag.tolist(), opened.study.slides, strict=True))
        if len(known) == 1 and not path.suffix:
            return known[0], None
        if len(bags.get(said, ())) > 1 or not path.suffix or path.parent == Path():
            return said, None  # what asks for its scores says what is wrong
        raise DataError(f"There is no slide file {path}; the folder is {Path.cwd()}.")
    names = {path.name, path.stem, slide_id_of(path)}
    found = sorted(names & opened.known.keys()) or sorted(s for s in opened.known if file_stem(s) == file_stem(said))
    if len(found) == 1:
        return found[0], path
    if found:
        raise DataError(f"{path} could be each of the slides {', '.join(found)} of {opened.folder}; rename the file.")
    near = did_you_mean(slide_id_of(path), opened.known)
    raise DataError(f"{opened.folder} has no slide {slide_id_of(path)!r} among its {len(opened.known)}.{near}")


def file_of(scores: SlideScores, slides: Path | None) -> Path:
    """The file of a slide that was named by its id.

    Args:
        scores: of the slide.
        slides: folder to look in, with its subfolders; None takes the path that the store has kept.

    Raises:
        DataError: it is not there, or there are several.
    """
    name = scores.slide_id
    if slides is None:
        kept = scores.slide.get("slide")
        if not kept:
            raise DataError(
                f"The store does not say which file slide {name!r} was cut from; give the file itself in place of the "
                "id, or the folder of the slides: --slides DIR."
            )
        if not Path(str(kept)).is_file():
            raise DataError(f"Slide {name!r} was cut from {kept}, which is not there; say where it is: --slides DIR.")
        return Path(str(kept))
    if not slides.is_dir():
        raise DataError(f"--slides {slides} is no folder; the folder is {Path.cwd()}.")
    files = [
        Path(where, file)
        for where, _, inside in os.walk(slides)
        for file in sorted(inside)
        if Path(file).suffix.lower() in SUFFIXES and name in (file, slide_id_of(Path(file)))
    ]
    if len(files) != 1:
        what = f"{len(files)} files named {name!r}: {', '.join(map(str, files[:4]))}" if files else f"no slide {name!r}"
        raise DataError(f"{slides} holds {what}; give the slide's file in place of the id.")
    return files[0]


@contextmanager
def opened_slide(
    path: Path, scores: SlideScores, mpp: float | None = None, other_file: bool = False
) -> Iterator[tuple[Slide, SlideScores]]:
    """Open the slide of some scores, after making sure that it is the one that the tiles were cut from.

    Args:
        path: the file.
        scores: of the slide.
        mpp: micrometres a pixel of level 0, where the file does not state it.
        other_file: go on although the file's name, size or time of change differ from those that the store has kept.

    Returns:
        The slide; and the scores, noting what was not as expected.

    Raises:
        DataError: it cannot be opened, is another file, or the tiles do not lie within it.
    """
    notes = []
    digest = scores.slide.get("digest")
    if digest and digest != slide_digest(path):
        if not other_file:
            raise DataError(
                f"The tiles of slide {scores.slide_id!r} were cut from {scores.slide.get('slide')}, and {path} differs "
                "from that file in name, size or time of change. If it is the same slide all the same (a copy, say), "
                "add --other-file."
            )
        notes.append(f"{path.name} differs in name, size or time of change from the file that the tiles were cut from")
    try:
        slide = open_slide(path, mpp=mpp)
    except MppError:
        if mpp is not None:
            raise
        slide = open_slide(path, mpp=scores.mpp)
        notes.append(f"the file states no mpp that can be used; {scores.mpp:g} is the features'")
    with slide:
        _check(slide, scores)
        yield slide, replace(scores, notes=(*scores.notes, *notes))


def _check(slide: Slide, scores: SlideScores) -> None:
    """Raise where the tiles cannot have been cut from the slide."""
    if abs(slide.mpp - scores.mpp) > SAME_MPP * scores.mpp:
        raise DataError(
            f"{slide.path} has {slide.mpp:g} micrometres a pixel, but the features of slide {scores.slide_id!r} say "
            f"{scores.mpp:g}: it is another scan, or its level 0 is another. Give the file that was tiled; or if only "
            f"what it states is wrong, --mpp {scores.mpp:g}."
        )
    size, kept = slide.size_px, scores.slide.get("size_px")
    if kept and tuple(kept) != size:
        raise DataError(
            f"{slide.path} is {size[0]} x {size[1]} pixels, but the tiles of slide {scores.slide_id!r} were cut from "
            f"{scores.slide.get('slide')} of {kept[0]} x {kept[1]}; give the file that was tiled."
        )
    outside = (scores.xy_px < 0).any(1) | (scores.xy_px >= np.array(size)).any(1)
    if outside.any():
        x, y = scores.xy_px[int(np.flatnonzero(outside)[0])].tolist()
        raise DataError(
            f"{int(outside.sum())} of {len(scores)} tiles of slide {scores.slide_id!r} lie outside {slide.path}, which "
            f"is {size[0]} x {size[1]} pixels (one begins at {x}, {y}): the features are another slide's, or their "
            "positions count in pixels of another level."
        )
