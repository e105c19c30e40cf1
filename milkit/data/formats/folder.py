"""Folders of feature files: which files they hold, which tool wrote them, and whether they belong together."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.agree import check_agree
from milkit.data.formats import clam, trident
from milkit.data.formats.header import Header, opened
from milkit.data.formats.slide_files import SlideFiles, common
from milkit.data.store_write import FORMAT
from milkit.data.where import and_more
from milkit.errors import DataError

STORE = "milkit store"
LAYOUTS: dict[str, tuple[str, Callable[[Path, h5py.File], Header]]] = {
    "trident": (trident.TOOL, trident.header),
    "clam": (clam.TOOL, clam.header),
}
KNOWN = "milkit reads its own stores, TRIDENT's patch features and CLAM's h5_files"
MOST = 5
"""Files that a message names."""


@dataclass(frozen=True)
class Found:
    """The feature files under some paths.

    Attributes:
        layout: "trident", "clam" or `STORE`.
        files: all of them, in the order of the paths, each folder by name.
        headers: one a file; () for stores.
        folders: the paths as the user wrote them.
        notes: what was passed over.
    """

    layout: str
    files: tuple[Path, ...]
    headers: tuple[Header, ...]
    folders: tuple[str, ...]
    notes: tuple[str, ...]


def find(paths: Sequence[Path]) -> Found:
    """Look at every file under some paths: its header only, never a feature matrix.

    Raises:
        DataError: a path without feature files; files of other or of several tools; half-written ones. Names the files.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in paths:
        inside, passed = _files(path.expanduser())
        files += inside
        if passed:
            notes.append(f"not read in {path}: {and_more(passed[:MOST], len(passed))}")
    headers: list[Header] = []
    layouts: list[str] = []
    wrong: list[str] = []
    for file in files:
        try:
            with opened(file) as content:
                layout = layout_of(file, content)
                if layout != STORE:
                    headers.append(LAYOUTS[layout][1](file, content))
        except DataError as error:
            wrong.append(str(error))
        else:
            layouts.append(layout)
    if wrong:
        raise DataError("\n".join(wrong[:MOST] + ([f"... and {len(wrong) - MOST} more"] if len(wrong) > MOST else [])))
    named = [(str(file), layout) for file, layout in zip(files, layouts, strict=True)]
    layout = check_agree("layout", named, "give files of one tool, or write them all into one store (docs/data.md).")
    return Found(layout, tuple(files), tuple(headers), tuple(str(p) for p in paths), tuple(notes))


def layout_of(path: Path, file: h5py.File) -> str:
    """Which tool wrote an open file.

    Raises:
        DataError: none that milkit reads; says what the file looks like.
    """
    if file.attrs.get("format") == FORMAT:
        return STORE
    held = sorted(file)
    if "features" in file and isinstance(file["features"], h5py.Dataset):
        if trident.is_trident(file):
            return "trident"
        if clam.is_clam(file):
            return "clam"
        if file["features"].ndim == 1:
            return "clam"  # refused there: one vector a slide
    reason = f"it holds {held[:6]}, which {'is no layout' if held else 'nothing'} that milkit knows"
    if held == ["coords"]:
        reason = "it holds tile positions but no features (a *patches* file); give the folder of the features"
    elif "imgs" in file:
        reason = "it holds images of tiles, not features; extract features first"
    elif "stamp_version" in file.attrs or {"feats", "patch_embeddings"} & set(held):
        reason = "it looks like STAMP's, which this version does not read"
    elif held and all(isinstance(file[name], h5py.Group) for name in held):
        reason = (
            f"it holds groups ({and_more(held[:3], len(held))}), one a slide perhaps, which this version does not read"
        )
    elif "features" in file:
        attributes = sorted({name for data in held for name in file[data].attrs})[:6]
        reason = (
            f"it holds {held[:6]} with attributes {attributes}, which neither TRIDENT nor CLAM writes, so the unit of "
            "its positions is unknown"
        )
    raise DataError(f"{path}: {reason}. {KNOWN}; anything else can be written into a store (docs/data.md).")


def source_of(found: Found, encoder: str = "", patches: str = "") -> SlideFiles:
    """The files of one tool as a source of features.

    Args:
        found: what `find` found; not stores.
        encoder: its name, for files that do not say it.
        patches: CLAM's folder of patches, where it does not lie beside the features.

    Raises:
        DataError: a slide given twice; files of two widths, encoders or tilings; an encoder that the files contradict.
    """
    slides = found.headers
    _check_once(slides)
    notes = list(found.notes)
    if found.layout == "clam":
        slides = tuple(clam.with_patches(slide, patches) for slide in slides)
    elif patches:
        raise DataError(
            f"patches={patches!r} is for CLAM's files; {trident.TOOL}'s know their tile size. Leave it out."
        )
    slides = tuple(_named(slide, encoder) for slide in slides)
    width = _one("features an instance", slides, lambda slide: slide.width)
    name = _one(
        "encoder", slides, lambda slide: slide.encoder, "give the encoder of files that do not say it: encoder=."
    )
    if found.layout == "trident":  # CLAM may cut 512 px of one scanner and 256 of another: in um they agree
        _one("patch_size", slides, lambda slide: slide.tile_px)
        _one("target_magnification", slides, lambda slide: slide.said.get("target_magnification"))
    tile_px = {slide.tile_px for slide in slides}
    notes += _without_size(slides, found.layout)
    if name is None:
        notes.append(f"the encoder is not known: {LAYOUTS[found.layout][0]}'s files do not name it; encoder='...' does")
    provenance: dict[str, Any] = {
        "encoder": name,
        "mpp": None,
        "tile_um": None,
        "tile_px": tile_px.pop() if len(tile_px) == 1 else None,
        "tool": LAYOUTS[found.layout][0],
        "layout": found.layout,
        "folders": list(found.folders),
        **common(slides),
        "sample_sha256": _digest(slides),
    }
    return SlideFiles(
        ids=tuple(slide.id for slide in slides),
        lengths=np.array([slide.length for slide in slides], np.int64),
        features=width,
        provenance=provenance,
        slides={slide.id: slide for slide in slides},
        notes=tuple(notes),
    )


def _files(path: Path) -> tuple[list[Path], list[str]]:
    """The `.h5` files of a path, by name, and the names of what else lies there."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise DataError(f"No feature file or folder at {path}; the folder is {Path.cwd()}.")
    # names that begin with a dot are the system's: copies to network drives leave ._slide.h5 beside slide.h5
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in inside if entry.suffix.lower() == ".h5" and entry.is_file()]
    if files:
        taken = set(files)
        return files, [entry.name for entry in inside if entry not in taken]
    if (path / "h5_files").is_dir():
        return _files(path / "h5_files")
    raise DataError(_no_files(path, inside))


def _no_files(path: Path, inside: Sequence[Path]) -> str:
    """What a folder without `.h5` files is, and which one to give."""
    beside = path.parent / "h5_files"
    if any(entry.suffix == ".pt" for entry in inside) or (path / "pt_files").is_dir():
        also = f" CLAM writes the same features as HDF5: give {beside}." if beside.is_dir() else ""
        how = " Give HDF5 files: CLAM keeps them in h5_files, TRIDENT writes them unless told not to."
        return f"{path} holds .pt files, which this version does not read (they hold no positions).{also or how}"
    folders = sorted(entry for entry in (*path.glob("features_*"), *path.glob("*/features_*")) if entry.is_dir())
    if folders:
        named = and_more([str(folder) for folder in folders[:MOST]], len(folders))
        return f"{path} holds folders of features, of one tiling and encoder each; give one of them: {named}."
    held = and_more([entry.name for entry in inside[:MOST]], len(inside)) or "nothing"
    give = "give the folder with one feature file a slide, several such folders, or a store."
    return f"{path} holds no .h5 file (it holds {held}); {give}"


def _check_once(slides: Sequence[Header]) -> None:
    first: dict[str, Path] = {}
    for slide in slides:
        if slide.id in first:
            raise DataError(
                f"Slide {slide.id!r} is in {first[slide.id]} and in {slide.path}; a cohort holds a slide once. Leave "
                "one out, or rename it."
            )
        first[slide.id] = slide.path


def _named(slide: Header, encoder: str) -> Header:
    if encoder and slide.encoder is not None and slide.encoder != encoder:
        raise DataError(
            f"{slide.path} says encoder {slide.encoder!r}, but encoder={encoder!r} is given; leave it out, or give the "
            "right folder."
        )
    return replace(slide, encoder=encoder) if encoder else slide


def _one(
    what: str, slides: Sequence[Header], value: Callable[[Header], Any], do: str = "give the files of one kind."
) -> Any:
    return check_agree(what, [(str(slide.path), value(slide)) for slide in slides], do)


def _without_size(slides: Sequence[Header], layout: str) -> list[str]:
    """A note on the slides whose tile size is not known, and what would supply it."""
    lack = [slide.id for slide in slides if slide.tile_level0_px is None]
    if not lack:
        return []
    why = {
        "clam": "CLAM keeps it in patches/<slide>.h5 (attributes patch_size, downsample); patches='folder' names the "
        "folder",
        "trident": "no attribute patch_size_level0 of coords; have TRIDENT cut the tiles, or write a store",
    }[layout]
    return [
        f"the tile size of {len(lack)} of {len(slides)} slides is not known ({and_more(lack[:3], len(lack))}): {why}"
    ]


def _digest(slides: Sequence[Header]) -> str:
    text = "\n".join(f"{slide.id} {slide.sample}" for slide in slides)
    return hashlib.sha256(text.encode()).hexdigest()
