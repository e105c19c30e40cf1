"""`milkit heatmap` as a function: the scores of a slide as pictures, polygons, raw numbers and a page."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import milkit
from milkit.data.bags import file_name_of
from milkit.errors import ConfigError, DataError, RunFolderError
from milkit.heatmaps.kinds import KINDS
from milkit.heatmaps.opened import open_run
from milkit.heatmaps.page import SHOWN, page
from milkit.heatmaps.picture import Overlay, overlay, png
from milkit.heatmaps.polygons import geojson
from milkit.heatmaps.pyramid import write_pyramid
from milkit.heatmaps.raw import write_csv, write_hdf5
from milkit.heatmaps.scores import SlideScores, slide_scores
from milkit.heatmaps.shown import MAP, SCALES, Scale
from milkit.heatmaps.slide_file import file_of, opened_slide, slide_named
from milkit.slides.slide import Slide

FORMATS = {"png": ".png", "geojson": ".geojson", "ome.tif": ".ome.tif", "h5": ".h5", "csv": ".csv", "html": ".html"}
"""What can be written, and the ends of the files' names."""
DEFAULT = ("png", "geojson", "ome.tif", "h5", "html")


@dataclass(frozen=True)
class Drawing:
    """How a heat map is shown.

    Attributes:
        formats: which files are written, of `FORMATS`.
        scale: colours by rank within the slide, or by raw score.
        opacity: of the colours over the slide, above 0 to 1.
        contours: quantiles whose outlines are among the polygons, each once.
        tiles: how many tiles of each end the page shows.
    """

    formats: tuple[str, ...] = DEFAULT
    scale: Scale = "rank"
    opacity: float = 0.5
    contours: tuple[float, ...] = ()
    tiles: int = SHOWN

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ConfigError(f"--format {' '.join(unknown) or '(none)'}: expected some of {', '.join(FORMATS)}.")
        if self.scale not in SCALES:
            raise ConfigError(f"--scale {self.scale}: expected one of {', '.join(SCALES)}.")
        if not 0 < self.opacity <= 1:
            raise ConfigError(f"--opacity is {self.opacity:g}; expected a number above 0, at most 1.")
        if not 0 <= self.tiles <= 200:
            raise ConfigError(f"--tiles is {self.tiles}; expected 0 to 200 tiles of each end.")
        wrong = [q for q in self.contours if not 0 < q < 1]
        if wrong:
            raise ConfigError(f"--contours {wrong[0]:g} is no quantile; expected numbers between 0 and 1.")


def heatmap(
    run: Path | str,
    slide: str,
    out: Path | str,
    drawing: Drawing | None = None,
    *,
    kind: str = "attention",
    label: str | None = None,
    slides: Path | None = None,
    mpp: float | None = None,
    name: str = "",
    seen: bool = False,
    other_file: bool = False,
    force: bool = False,
    store: Path | None = None,
    cohort: Path | None = None,
    selection: str = "",
    trust_source: bool = False,
) -> tuple[SlideScores, list[Path]]:
    """Lay what a run's models say of a slide's tiles over the slide.

    Args:
        run: folder of a run, or of a kept model.
        slide: the slide's file, or its id.
        out: folder of the files; made where it is missing.
        drawing: how it is shown; None for the usual.
        kind, label, seen: see `milkit.heatmaps.scores.slide_scores`.
        slides: folder of slide files, where `slide` is an id and the store does not know where the file is now.
        mpp: micrometres a pixel of level 0, where the slide does not state it.
        name: of the files, without ending; "" takes the slide's id.
        other_file: go on although the file is not the one that the store has kept.
        force: replace files that are there.
        store, cohort, selection, trust_source: see `milkit.heatmaps.opened.open_run`.

    Returns:
        The scores and the files written: all of them, or after an error none.

    Raises:
        MilkitError: see `slide_scores`; a slide that cannot be read or is another; files that may not be replaced.
    """
    drawing, out = drawing or Drawing(), Path(out)
    if kind not in KINDS:
        raise ConfigError(f"There is no kind {kind!r}; expected one of {', '.join(KINDS)}.")
    opened = open_run(Path(run), store=store, cohort=cohort, selection=selection, trust_source=trust_source)
    slide_id, path = slide_named(opened, slide)
    if path is not None and slides is not None:
        raise ConfigError(f"--slides is for a slide that is named by its id, and {slide} is a file; leave one out.")
    files = {form: out / _file_name(name, slide_id, FORMATS[form]) for form in drawing.formats}
    _refuse_existing(files.values(), out, force)
    scores = slide_scores(opened, slide_id, kind=kind, label=label, seen=seen, mpp=mpp)
    path = path or file_of(scores, slides)
    with opened_slide(path, scores, mpp, other_file) as (read, noted):
        made = overlay(read, noted, drawing.scale, drawing.opacity) if {"png", "html"} & files.keys() else None

        def fill(folder: Path) -> None:
            for form, file in files.items():
                _write(form, folder / file.name, read, noted, drawing, made)
            if not read.unchanged():
                raise DataError(f"{path} was changed while it was read; nothing was written. Try again.")

        _all_or_none(files.values(), out, fill)
    return noted, list(files.values())


def _file_name(name: str, slide_id: str, ending: str) -> str:
    try:
        return file_name_of(name or slide_id, ending)
    except DataError:
        said = f"--name {name!r}" if name else f"The slide's id, {slide_id!r},"
        raise ConfigError(f"{said} is no name that files can have everywhere; give another by --name.") from None


def facts_of(scores: SlideScores, slide: Slide, drawing: Drawing) -> dict[str, Any]:
    """What the files keep of a heat map, JSON-able."""
    return {
        "slide_id": scores.slide_id, "slide": str(slide.path), "size_px": list(slide.size_px), "mpp": slide.mpp,
        "tile_px": scores.width_px, "tiles": len(scores), "kind": scores.kind, "label": scores.label,
        "what": scores.what, "models": list(scores.models), "averaged": "mean of raw scores",
        "held_out": scores.held_out, "marks": list(scores.marks), "answer": scores.answer, "said": scores.said,
        "probability": scores.probability, "interval": scores.interval, "bag": scores.bag,
        "bag_slides": list(scores.bag_slides), "run": str(scores.run), "selection": scores.selection,
        "scale": drawing.scale, "colour_map": MAP, "legend": scores.legend(), "milkit": milkit.__version__,
    }  # fmt: skip


def _write(
    form: str, file: Path, slide: Slide, scores: SlideScores, drawing: Drawing, made: Overlay | None
) -> None:  # fmt: skip
    """One file; `made` is the overlay of those that show it."""
    facts = facts_of(scores, slide, drawing)
    scale, opacity = drawing.scale, drawing.opacity
    if form == "png" and made is not None:
        png(made, scores, scale, slide.mpp).save(file, "PNG", pnginfo=_png_text(facts, made.px))
    elif form == "html" and made is not None:
        file.write_text(page(slide, scores, made, scale, drawing.tiles), "utf-8")
    elif form == "geojson":
        with file.open("w", encoding="utf-8") as text:
            text.writelines(geojson(scores, scale, drawing.contours, facts))
    elif form == "ome.tif":
        write_pyramid(file, slide, scores, scale, opacity, scores.legend())
    elif form == "h5":
        write_hdf5(file, scores, facts)
    elif form == "csv":
        write_csv(file, scores)


def _png_text(facts: dict[str, Any], px: float) -> Any:
    """Text that a PNG carries: what it shows, and how to find a pixel of the slide in it."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_itxt("milkit", json.dumps({**facts, "level0_px_per_pixel": px}, ensure_ascii=False))
    return text


def _refuse_existing(files: Iterable[Path], out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file; --out names a folder.")
    there = [file for file in files if file.exists()]
    folders = [file for file in there if file.is_dir()]
    if folders:
        raise RunFolderError(f"{folders[0]} is a folder; give another --out or --name.")
    if there and not force:
        raise RunFolderError(f"{there[0]} is there already; replace it by --force, or give another --out or --name.")


def _all_or_none(files: Iterable[Path], out: Path, fill: Callable[[Path], None]) -> None:
    """Write files into a temporary folder and then give them their own names."""
    temporary, was_there = None, out.is_dir()
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".heatmap.", suffix=".part", dir=out))
        fill(temporary)
        for file in files:
            os.replace(temporary / file.name, file)
    except OSError as error:
        raise RunFolderError(f"{out} could not be written ({error.strerror or error}); nothing was changed.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if not was_there:
            with contextlib.suppress(OSError):
                out.rmdir()  # only if nothing came to lie in it
