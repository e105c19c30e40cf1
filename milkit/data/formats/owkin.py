"""Owkin (HistoSSLscaling, 2023): `<slide>/features.npy`, float32 [N, 3 + d].

The first three columns are not features: the level in OpenSlide's DeepZoom pyramid, and the tile's column and row there
(`DeepZoomGenerator`, no overlap). They are recognised by what they hold - one whole level, whole columns and rows
that hardly repeat, beside columns that are no whole numbers - and never reach a model. An array of which this cannot be
said either way (a single tile, whole numbers throughout) is refused until the user says what it is.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from milkit.data.formats import npy as plain
from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout
from milkit.data.formats.npy_file import Npy, check_matrix, npy
from milkit.data.matching import file_stem
from milkit.data.where import and_more
from milkit.errors import DataError

TOOL = "Owkin"
FEATURES = "features.npy"
OWN = 3
"""Columns that are level, column and row."""
LOOKED_AT = 64
"""Rows that are read to recognise them."""
ONCE = 0.9
"""Least fraction of rows with a place of their own: columns of flags repeat theirs."""
HIGHEST = 40
"""Levels of a DeepZoom pyramid: each halves a side, so 40 is beyond any slide."""

Judgement = Literal["owkin", "plain", "unsure"]


def judged(rows: np.ndarray) -> Judgement:
    """Whether the first three columns of some rows [n, 3 + d] are level, column and row."""
    if len(rows) == 0:
        return "unsure"
    if rows.shape[1] <= OWN:
        return "plain"
    first = rows[:, :OWN].astype(np.float64)
    if not np.isfinite(first).all() or (first != np.rint(first)).any() or (first < 0).any():
        return "plain"
    if first[0, 0] > HIGHEST or (first[:, 0] != first[0, 0]).any() or not first.any():  # all 0: features cut at 0
        return "plain"
    rest = rows[:, OWN:].astype(np.float64)
    whole = bool((rest == np.rint(rest)).all())
    places = len(np.unique(first[:, 1:], axis=0))
    return "owkin" if places > 1 and places >= ONCE * len(first) and not whole else "unsure"


def _look(path: Path) -> tuple[Npy, Judgement]:
    found = npy(path)
    check_matrix(path, found.shape, found.dtype)
    n = found.shape[0]
    return found, judged(found.rows(sorted({int(i) for i in np.linspace(0, n - 1, min(n, LOOKED_AT))})))


def is_owkin(path: Path, content: None = None) -> bool:
    """Whether a file's first columns are level, column and row, or may be."""
    try:
        found, what = _look(path)
    except DataError:
        return False
    return what == "owkin" or (what == "unsure" and found.shape[0] > 0)


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """One file, `<slide>.npy`.

    Raises:
        DataError: what its first columns are cannot be told.
    """
    found, what = _look(path)
    if what != "owkin":
        raise DataError(_unsure(path))
    return (_header(path, path.stem, found),)


def _unsure(path: Path) -> str:
    return (
        f"{path}: its first three columns may be a tile's level, column and row, as Owkin writes them, or features; "
        "its numbers do not tell. Say it: open_features(..., layout='owkin') or layout='npy'; for the command line, "
        "save the features alone (numpy.save of x[:, 3:]) as <slide>.npy."
    )


def told(path: Path, content: None = None) -> tuple[Header, ...]:
    """One file of which the user says that it is Owkin's."""
    found, what = _look(path)
    if what == "plain" or found.shape[1] <= OWN:
        raise DataError(f"{path}: its first three columns are no level, column and row; layout='npy' reads it.")
    return (_header(path, path.stem, found),)


def _header(path: Path, name: str, found: Npy) -> Header:
    n, d = found.shape
    return Header(name, path, n, d - OWN, "owkin", unit="grid", positioned=n > 0)


def is_folder(path: Path, content: None = None) -> bool:
    """Whether a folder holds folders with a `features.npy` each."""
    return any((entry / FEATURES).is_file() for entry in _folders(path))


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def folder_headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """All slides of a folder; one of which the numbers do not tell is taken to be as the others are.

    Raises:
        DataError: arrays without these columns, in all or in some of the folders; none that tells.
    """
    files = [entry / FEATURES for entry in _folders(path) if (entry / FEATURES).is_file()]
    looked = [(file, *_look(file)) for file in files]
    bare = [str(file) for file, found, what in looked if what == "plain"]
    if bare:
        raise DataError(
            f"The first three columns of {and_more(bare[:3], len(bare))} are no level, column and row, as Owkin's "
            f"are. If they are features, put the files into one folder as <slide>.npy."
        )
    if not any(what == "owkin" for _, _, what in looked):
        raise DataError(_unsure(files[0]))
    return tuple(_header(file, file_stem(file.parent.name), found) for file, found, _ in looked)


def told_folder(path: Path, content: None = None) -> tuple[Header, ...]:
    """All slides of a folder of which the user says that they are Owkin's."""
    files = [entry / FEATURES for entry in _folders(path) if (entry / FEATURES).is_file()]
    return tuple(replace(told(file)[0], id=file_stem(file.parent.name)) for file in files)


def _own(slide: Header) -> tuple[Npy, np.ndarray]:
    """The array, and its level, column and row [n, 3].

    Raises:
        DataError: they are none in some row, or the file changed.
    """
    found = npy(slide.path)
    if found.shape != (slide.length, slide.width + OWN):
        raise DataError(f"{slide.path} changed since it was opened: {found.shape}.")
    first = found.columns(0, OWN).astype(np.float64)
    if len(first) and ((first[:, 0] != first[0, 0]).any() or (first != np.rint(first)).any()):
        raise DataError(
            f"{slide.path}: its first three columns are level, column and row in the rows looked at first, but not in "
            "all; make the file anew."
        )
    return found, first


def features(slide: Header) -> np.ndarray:
    """Features [n, d], without level, column and row."""
    found, _ = _own(slide)
    return found.columns(OWN, found.shape[1])


def positions(slide: Header) -> np.ndarray:
    """Column and row of each tile, [n, 2]."""
    return _own(slide)[1][:, 1:]


_LACKS = {"tile": "Owkin's files do not hold it (its own are 224 px at the stored DeepZoom level); tile_um= gives it"}
LAYOUT = Layout(
    name="owkin",
    tool=TOOL,
    container="npy",
    claims=is_owkin,
    headers=headers,
    told=told,
    features=features,
    positions=positions,
    sample=plain.sample,
    lacks=_LACKS,
)
FOLDER = replace(LAYOUT, container="folder", claims=is_folder, headers=folder_headers, told=told_folder)
