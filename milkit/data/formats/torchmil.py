"""torchmil (1.0), folders of `.npy`: `features/<bag>.npy` [N, d], `labels/<bag>.npy`, `coords/<bag>.npy` [N, 2].

Its data sets have them at the top (`features/`, or `features/features_<encoder>/`) or one folder down
(`patches_512/`). Labels of instances (`patch_labels/`, `inst_labels/`, `slice_labels/`, `frame_labels/`) stay out of
the features. `coords` are pixels in some sets and columns and rows in others, and no file says which, so the unit is
asked for; those of frames and volumes are no places on a slide and are left alone.
"""

from pathlib import Path

import numpy as np

from milkit.data.formats import npy as plain
from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout
from milkit.data.formats.npy_file import check_matrix, check_positions, npy
from milkit.data.where import and_more
from milkit.errors import DataError

TOOL = "torchmil"
FEATURES, LABELS, COORDS = "features", "labels", "coords"
MARKS = (LABELS, COORDS, "patch_labels", "inst_labels", "slice_labels", "frame_labels")
"""Folders of which one lies beside the features."""


def _root(path: Path) -> Path | None:
    """The folder that holds `features` and its company, for it, the features' own folder, or the one above both."""
    for root in (path, path.parent, path.parent.parent):
        inside = path in (root, root / FEATURES) or path.parent == root / FEATURES
        if inside and (root / FEATURES).is_dir() and any((root / mark).is_dir() for mark in MARKS):
            return root
    below = [entry for entry in sorted(path.glob("patches_*")) if (entry / FEATURES).is_dir()]
    return _root(below[0]) if len(below) == 1 else None


def _place(path: Path) -> tuple[Path, Path | None]:
    """The path and the root, as the user wrote them where the parents are in what was written."""
    root = _root(path)
    return (path, root) if root is not None else (path.absolute(), _root(path.absolute()))


def _features(path: Path, root: Path) -> list[Path]:
    """The folders with features that a path may mean."""
    if path.parent == root / FEATURES:
        return [path]
    top = root / FEATURES
    return [
        folder for folder in (top, *sorted(e for e in top.iterdir() if e.is_dir())) if next(folder.glob("*.npy"), None)
    ]


def is_torchmil(path: Path, content: None = None) -> bool:
    """Whether a folder is one of torchmil's: arrays of features with labels or positions of the same names beside."""
    path, root = _place(path)
    if root is None:
        return False
    names = {file.name for folder in _features(path, root) for file in folder.glob("*.npy")}
    beside = {file.name for mark in MARKS for file in (root / mark).glob("*.npy")}
    return bool(names & beside)


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """Shapes, and the labels of the bags.

    Raises:
        DataError: several sets of features; arrays that do not fit.
    """
    path, root = _place(path)
    if root is None:
        raise DataError(f"{path} changed since it was looked at: no {FEATURES} with labels or positions beside.")
    folders = _features(path, root)
    if len(folders) > 1:
        named = and_more([str(folder) for folder in folders[:5]], len(folders))
        raise DataError(f"{path} holds several sets of features; give one of them: {named}.")
    return tuple(_header(file, root) for file in sorted(folders[0].glob("*.npy")) if not file.name.startswith("."))


def _header(file: Path, root: Path) -> Header:
    found = npy(file)
    check_matrix(file, found.shape, found.dtype)
    n, d = found.shape
    coords = root / COORDS / file.name
    beside = None
    if coords.is_file() and n:
        places = npy(coords)
        if len(places.shape) == 2 and places.shape[1] == 2:
            check_positions(coords, places.shape, places.dtype, n)
            beside = coords
    return Header(
        id=file.stem,
        path=file,
        length=n,
        width=d,
        layout="torchmil",
        unit="",
        positioned=beside is not None,
        beside=beside,
        label=_label(root / LABELS / file.name),
    )


def _label(path: Path) -> str | None:
    """The label of a bag as text, where it is one number."""
    if not path.is_file():
        return None
    found = npy(path)
    if found.dtype.kind not in "iufb" or int(np.prod(found.shape)) != 1:
        return None
    value = found.values().reshape(()).item()
    return f"{value:g}" if isinstance(value, float) else str(int(value))


def positions(slide: Header) -> np.ndarray | None:
    """`coords` [n, 2], as stored."""
    if slide.beside is None:
        return None
    found = npy(slide.beside)
    check_positions(slide.beside, found.shape, found.dtype, slide.length)
    return found.values()


LAYOUT = Layout(
    name="torchmil",
    tool=TOOL,
    container="folder",
    claims=is_torchmil,
    headers=headers,
    features=plain.features,
    positions=positions,
    sample=plain.sample,
    lacks={
        "unit": ". torchmil's own examples divide pixels to columns and rows: neighbours are then 1 apart, and "
        "unit='grid' with tile_um= places them"
    },
)
