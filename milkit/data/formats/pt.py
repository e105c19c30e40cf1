"""`<slide>.pt`, one tensor [N, d] a slide, as CLAM (`pt_files/`) writes it, and many scripts; TRIDENT's is an array.

TRIDENT (0.3) gives `torch.save` a NumPy array, which becomes a pickle; `pt_array.py` reads it. It or the tensor is all
there is: positions and tile size lie in other files, and are joined by name where those are found:
TRIDENT's `../patches/<slide>_patches.h5`, CLAM's `../h5_files/<slide>.h5` (positions) and `patches/<slide>.h5` (both).
A dict is read where the features in it can be told; `coords` in it have no unit.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from milkit.data.formats import clam, trident
from milkit.data.formats.guard_hdf5 import opened
from milkit.data.formats.header import Header, attributes, number
from milkit.data.formats.kind import holds
from milkit.data.formats.layout import Layout
from milkit.data.formats.npy_file import check_positions, digest, sampled_rows
from milkit.data.formats.pt_array import Pickled
from milkit.data.formats.pt_file import array, tensors
from milkit.errors import DataError

H5_FILES = "h5_files"


def is_trident(path: Path, content: None = None) -> bool:
    """Whether TRIDENT's tile positions lie beside the folder, by the name of one file: it is asked once a slide."""
    try:
        with os.scandir(path.parent.parent / clam.PATCHES) as entries:
            return next((e.name for e in entries if e.name.endswith(".h5")), "").endswith("_patches.h5")
    except OSError:
        return False


def is_clam(path: Path, content: None = None) -> bool:
    """Whether CLAM's HDF5 files, or its tile positions, lie beside the folder."""
    if holds(path.parent.parent / H5_FILES, ".h5"):
        return True
    folder = clam.patches_folder(path, "")
    return folder is not None and holds(folder, ".h5")


def is_pt(path: Path, content: None = None) -> bool:
    """Any: what is wrong with it is said by `headers`."""
    return True


def _instead(path: Path) -> str:
    folder = path.parent.parent / H5_FILES
    if folder.is_dir():
        return f"give {folder}, which holds the same features"
    return "have the tool write HDF5 (CLAM: h5_files, TRIDENT: .h5) and give that folder"


def _header(path: Path, layout: str) -> Header:
    found = tensors(path, _instead(path))
    n, d = (int(k) for k in found.features.shape)
    if found.coords is not None:
        check_positions(path, tuple(found.coords.shape), array(found.coords).dtype, n)
    return Header(path.stem, path, n, d, layout, unit="", positioned=found.coords is not None)


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """Shape only.

    Raises:
        DataError: without torch; no matrix of floats that can be told.
    """
    return (_header(path, "pt"),)


def clam_headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """Shape, and the file with positions beside; the tile size is added from CLAM's patches, as for its HDF5."""
    slide = _header(path, "clam-pt")
    beside = path.parent.parent / H5_FILES / f"{path.stem}.h5"
    if slide.length and not slide.positioned and beside.is_file():
        _check_coords(slide, beside)
        slide = replace(slide, unit="px", positioned=True, beside=beside)
    return (slide,)


def trident_headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """Shape, and what TRIDENT's patches file says of the tiles.

    Raises:
        DataError: as many tiles there as rows here are expected.
    """
    slide = _header(path, "trident-pt")
    beside = path.parent.parent / clam.PATCHES / f"{path.stem}_patches.h5"
    if not beside.is_file():
        return (slide,)
    if slide.length:
        _check_coords(slide, beside)
    with opened(beside) as file:
        said = attributes(file.get("coords"), trident.KEPT)
    sizes = {name: number(beside, said, name) for name in trident.KEPT if name != "overlap"}
    tile_px = sizes["patch_size"]
    return (
        replace(
            slide,
            unit="px",
            positioned=slide.length > 0,
            beside=beside,
            tile_px=None if tile_px is None else round(tile_px),
            tile_level0_px=sizes["patch_size_level0"],
            level0_magnification=sizes["level0_magnification"],
            said=said,
        ),
    )


def _check_coords(slide: Header, beside: Path) -> None:
    with opened(beside) as file:
        coords = file.get("coords")
        if coords is None:
            raise DataError(f"{beside}: no dataset 'coords'; expected the positions of {slide.path}'s tiles.")
        if coords.shape != (slide.length, 2) or coords.dtype.kind not in "iu":
            raise DataError(
                f"{slide.path} holds {slide.length} tiles, but {beside} lists {coords.shape} {coords.dtype} positions: "
                "the extraction was interrupted, or the tiles were cut anew since. Extract the slide again."
            )


def _with_patches(slide: Header, given: str) -> Header:
    """A tensor that nothing lies beside is CLAM's where the user gives a folder of patches."""
    return clam.with_patches(slide, given) if given else slide


def features(slide: Header) -> np.ndarray:
    """The matrix [n, d] of one slide, as stored."""
    return array(tensors(slide.path).features)


def positions(slide: Header) -> np.ndarray | None:
    """Positions [n, 2], from the tensor's own file or from the one beside it."""
    if slide.beside is None:
        coords = tensors(slide.path).coords
        return None if coords is None else array(coords)
    _check_coords(slide, slide.beside)
    with opened(slide.beside) as file:
        values: np.ndarray = file["coords"][:]
    return values


def sample(slide: Header) -> str:
    """Digest of some rows."""
    found = tensors(slide.path).features
    if isinstance(found, Pickled):
        return found.digest
    return digest(tuple(found.shape), array(found[sampled_rows(len(found))]))


LAYOUT = Layout(
    name="pt",
    tool="PyTorch",
    container="pt",
    claims=is_pt,
    headers=headers,
    features=features,
    positions=positions,
    sample=sample,
    placed=_with_patches,
    lacks={"tile": "a bare tensor says nothing of tiles; tile_um= gives the size"},
)
CLAM = replace(
    LAYOUT,
    name="clam-pt",
    tool=clam.TOOL,
    claims=is_clam,
    headers=clam_headers,
    placed=clam.with_patches,
    lacks=clam.LAYOUT.lacks,
)
TRIDENT = replace(
    LAYOUT,
    name="trident-pt",
    tool=trident.TOOL,
    claims=is_trident,
    headers=trident_headers,
    placed=None,
    lacks=trident.LAYOUT.lacks,
    same=trident.LAYOUT.same,
)
