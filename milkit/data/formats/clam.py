"""CLAM (2025-04): `<features>/h5_files/<slide>.h5`, and `patches/<slide>.h5` in another folder.

`h5_files`: `features` float32 [N, d], `coords` int [N, 2] in pixels of level 0, chunks (32, d), no attributes: what the
tile size was is only in the *patches* file of the same slide, whose `coords` carry `patch_size`, `patch_level`,
`downsample` and more. `patch_size` is in pixels of `patch_level`, so a tile's width at level 0 is `patch_size` x
`downsample`. No file names the encoder. CLAM appends to `h5_files` batch by batch, so one that was interrupted is a
sound HDF5 file with too few rows; the patches file gives it away.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.formats.header import (
    Header,
    attributes,
    check_arrays,
    coords_of,
    features_of,
    number,
    opened,
    sample_of,
)
from milkit.data.formats.kind import holds
from milkit.data.formats.layout import Layout
from milkit.data.formats.spread import in_pixels
from milkit.errors import DataError

TOOL = "CLAM"
PATCHES = "patches"
KEPT = ("patch_size", "patch_level", "downsample")
"""Attributes of a patches file's `coords` that provenance keeps under CLAM's own names."""


def is_clam(path: Path, file: h5py.File) -> bool:
    """Whether a file holds what CLAM writes and nothing else: two datasets without attributes."""
    datasets = set(file) == {"features", "coords"} and all(isinstance(file.get(n), h5py.Dataset) for n in file)
    return datasets and not any(len(file[name].attrs) for name in ("features", "coords")) and not len(file.attrs)


def headers(path: Path, file: h5py.File) -> tuple[Header, ...]:
    """What a CLAM feature file says without reading its features: little.

    Raises:
        DataError: shapes or dtypes that are not CLAM's.
    """
    features, coords = check_arrays(path, file)
    n, d = features.shape
    # pixels of level 0 if CLAM wrote them; nothing in the file says that it did
    return (Header(path.stem, path, n, d, "clam", unit_said=False, positioned=coords is not None),)


def patches_folder(path: Path, given: str) -> Path | None:
    """The folder with the patches file of a feature file: the one given, or one beside it; None if there is none.

    Raises:
        DataError: a given folder that is not there or holds no patches.
    """
    if given:
        folder = Path(given).expanduser()
        inner = folder / PATCHES
        folder = inner if inner.is_dir() else folder
        if not holds(folder, ".h5"):
            raise DataError(f"patches={given!r}: no folder with CLAM's patches (<slide>.h5) there.")
        return folder
    # <features>/patches beside h5_files, or <results>/patches beside <features>
    beside = (path.parent.parent / PATCHES, path.parent.parent.parent / PATCHES)
    return next((folder for folder in beside if folder.is_dir()), None)


def with_patches(slide: Header, given: str) -> Header:
    """The header with the tile size of its patches file; unchanged where there is no such file.

    Raises:
        DataError: a patches file that does not fit the features, or that cannot be read.
    """
    folder = patches_folder(slide.path, given)
    path = None if folder is None else folder / f"{slide.id}.h5"
    if path is None or not path.is_file():
        return slide
    with opened(path) as file:
        if "coords" not in file:
            raise DataError(f"{path}: no dataset 'coords'; expected CLAM's patches file, it holds {sorted(file)[:6]}.")
        coords = file["coords"]
        if len(coords) != slide.length:
            raise DataError(
                f"{slide.path}: features of {slide.length} tiles, but {path} lists {len(coords)}: the extraction was "
                "interrupted, or the tiles were cut anew since. Extract the slide again, or remove the file."
            )
        said = attributes(coords, KEPT)
    size, downsample = number(path, said, "patch_size"), _downsample(path, said)
    kept = {**said, "downsample": downsample}
    if slide.layout != "clam" and not slide.positioned and slide.length:  # pt_files hold features only
        slide = replace(slide, unit="px", positioned=True, beside=path)
    return replace(
        slide,
        tile_px=None if size is None else round(size),
        tile_level0_px=None if size is None or downsample is None else size * downsample,
        said={name: kept[name] for name in KEPT if kept.get(name) is not None},
    )


def _downsample(path: Path, said: Mapping[str, Any]) -> float | None:
    """How much smaller `patch_level` is than level 0; CLAM stores it for x and y."""
    value = said.get("downsample")
    if value is None:
        return None
    both = np.atleast_1d(np.asarray(value))
    fits = both.dtype.kind in "fiu" and both.size in (1, 2) and np.isfinite(both).all() and (both > 0).all()
    if not fits or both.max() > 1.01 * both.min():  # level sizes are rounded to whole pixels, hence not quite equal
        raise DataError(f"{path}: attribute 'downsample' of 'coords' is {value!r}; expected one factor for x and y.")
    return float(both.mean())


LAYOUT = Layout(
    name="clam",
    tool=TOOL,
    container="hdf5",
    claims=is_clam,
    headers=headers,
    features=features_of("features"),
    positions=in_pixels(coords_of("coords")),
    sample=sample_of("features"),
    placed=with_patches,
    lacks={
        "tile": "CLAM keeps it in patches/<slide>.h5 (attributes patch_size, downsample); patches='folder' names the "
        "folder, tile_um= gives the size",
    },
)
