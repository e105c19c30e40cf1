"""Writing features in another tool's layout, into a folder of their own, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.bags import check_features
from milkit.data.features import FeatureSource
from milkit.data.pack.back import clam, stamp, torchmil, trident
from milkit.data.pack.back.slide import Slide, check_name
from milkit.data.pack.plan import Asked, Opened, open_asked, tile_level0_px
from milkit.data.pack.provenance import labels_of
from milkit.data.where import did_you_mean
from milkit.errors import DataError

WRITERS: dict[str, Callable[[Path, Slide], Path]] = {
    "trident": trident.write,
    "clam": clam.write,
    "stamp": stamp.write,
    "torchmil": torchmil.write,
}


@dataclass(frozen=True)
class Tiling:
    """What the user says of the tiles where the features do not; None says nothing.

    Attributes:
        magnification: of the tiles.
        overlap: of neighbouring tiles, in pixels as the encoder saw them.
        tile_px: width of a tile in pixels as the encoder saw it.
    """

    magnification: float | None = None
    overlap: int | None = None
    tile_px: int | None = None


@dataclass(frozen=True)
class BackReport:
    """What was written.

    Attributes:
        folder: all of it.
        features: the folder to give to milkit or to the tool.
        slides: how many.
        notes: what a reader should know.
    """

    folder: Path
    features: Path
    slides: int
    notes: tuple[str, ...] = ()


def write_back(
    asked: Asked,
    to: str,
    out: str | Path,
    tiling: Tiling = Tiling(),
    progress: Callable[[int, int], None] | None = None,
) -> BackReport:
    """Write features in another tool's layout.

    Args:
        asked: the features, and what the user says of them.
        to: "trident", "clam", "stamp" or "torchmil".
        out: the folder to make; it must be empty or not there.
        tiling: what the user says of the tiles.
        progress: called with slides done and their number.

    Raises:
        DataError: a fact that the layout holds and the features do not; an id that is no file name; a folder that
            holds something; a value that float16 does not hold.
    """
    if to not in WRITERS:
        raise DataError(f"--to {to!r}: milkit writes {', '.join(WRITERS)}.{did_you_mean(to, WRITERS)}")
    out = Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already and not an empty folder; give the name of a new one.")
    opened = open_asked(asked)
    labels = labels_of(opened.source)
    names = [check_name(name) for name in opened.ids]  # all of them, before anything is written
    work = out.with_name(f".{out.name}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
        inside = work / out.name
        inside.mkdir()
        for done, name in enumerate(names):
            where = WRITERS[to](inside, _slide(opened, name, tiling, labels))
            if progress:
                progress(done + 1, len(names))
        os.replace(inside, out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return BackReport(out, out / where.relative_to(inside), len(names), tuple(_notes(opened, to, out)))


def _slide(opened: Opened, name: str, tiling: Tiling, labels: Mapping[str, str]) -> Slide:
    """A slide with all that is known of it."""
    source = opened.source
    bag, said = source.read(name), origin(source)
    check_features(name, bag.x)
    magnification, overlap = (_number(said.get(name)) for name in ("target_magnification", "overlap"))
    x = bag.x.astype(np.float32) if bag.x.dtype.name not in ("float16", "float32") else bag.x
    um, px, mpp = bag.coords_um, bag.coords_px, bag.mpp
    if px is None and um is not None and mpp is not None:
        px = np.rint(um.astype(np.float64) / mpp).astype(np.int64)
    width = tile_level0_px(source, name)
    if width is None and bag.tile_um is not None and mpp is not None:
        width = bag.tile_um / mpp
    return Slide(
        id=name,
        x=x,
        coords_px=px,
        coords_um=um,
        tile_um=bag.tile_um,
        tile_level0_px=width,
        tile_px=tiling.tile_px or source.provenance.get("tile_px"),
        encoder=opened.encoder,
        magnification=tiling.magnification or magnification,
        overlap=tiling.overlap if tiling.overlap is not None or overlap is None else int(overlap),
        label=labels.get(name),
        said=said,
    )


def origin(source: FeatureSource) -> Mapping[str, Any]:
    """What the tool that the features are from said of them; a store keeps it among its provenance."""
    facts = source.provenance
    files = facts.get("files")
    return (files[0].get("extra") if files else facts.get("extra")) or facts


def _number(value: Any) -> float | None:
    """A number that all slides share; a list stands for several."""
    return float(value) if isinstance(value, int | float) else None


def _notes(opened: Opened, to: str, out: Path) -> list[str]:
    notes = []
    if to == "clam" and not (out / "pt_files").is_dir():
        notes.append("pt_files/ is not written, as torch is not installed; CLAM's own training reads it")
    if to == "torchmil":
        first = opened.source.read(opened.ids[0])
        if first.coords_px is not None:
            notes.append("coords/ holds pixels of level 0: milkit reads them with --unit px")
        elif first.coords_um is not None:
            notes.append("coords/ holds micrometres: milkit reads them with --unit um")
        if not (out / "labels").is_dir():
            notes.append("labels/ is not written, as the features' files held no labels that are whole numbers")
    return notes
