"""STAMP (2.0 to 2.5, and what came before): `<extractor>/<slide>.h5`.

`feats` [N, d] (`patch_embeddings` for multiplexed images), float16; `coords` float32 [N, 2] in micrometres. Attributes
of the file: `stamp_version`, `extractor`, `unit` = "um", `tile_size_um` (2.0: `tile_size`, also in micrometres),
`tile_size_px`, `code_hash`, `feat_type` = "tile". The mpp of level 0 is nowhere, so pixels of level 0 are not known.

Before 2.0 there was no unit: `coords` were in pixels of the image from which tiles of 224 px were cut, 256 um wide
unless `info.json` beside them says otherwise, and `augmented` [N] stood with them. Neither is taken for granted here.
Slide and patient embeddings (`feat_type` "slide" or "patient", an attribute `encoder`) are one vector each.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from milkit.data.formats.header import (
    Header,
    Unit,
    attributes,
    check_arrays,
    coords_of,
    features_of,
    number,
    sample_of,
)
from milkit.data.formats.layout import Layout
from milkit.errors import DataError

TOOL = "STAMP"
NAMES = ("feats", "patch_embeddings")
OLD_TILE_PX = 224
"""Pixels of a tile before 2.0, where that was not a setting."""
SAID = ("stamp_version", "extractor", "unit", "tile_size_um", "tile_size", "tile_size_px", "code_hash", "feat_type")
KEPT = ("stamp_version", "tile_size_um", "tile_size_px", "code_hash")
"""Attributes that provenance keeps under STAMP's own names."""


def is_stamp(path: Path, file: h5py.File) -> bool:
    """Whether a file holds features under one of STAMP's names."""
    return any(name in file and isinstance(file.get(name), h5py.Dataset) for name in NAMES)


def headers(path: Path, file: h5py.File) -> tuple[Header, ...]:
    """What a STAMP file says without reading its features.

    Raises:
        DataError: one vector a slide or patient; shapes, dtypes or attributes that are not STAMP's.
    """
    said = attributes(file, (*SAID, "encoder"))
    _check_tiles(path, said)
    name = next(name for name in NAMES if name in file)
    features, coords = check_arrays(path, file, name, whole=False)
    old = "unit" not in said and "augmented" in file
    tile_um = number(path, said, "tile_size_um", "the file")
    tile_px = number(path, said, "tile_size_px", "the file")
    unit = _unit(path, said)
    if tile_um is None and unit == "um":
        tile_um = number(path, said, "tile_size", "the file")  # 2.0
    header = Header(
        id=path.stem,
        path=path,
        length=features.shape[0],
        width=features.shape[1],
        layout="stamp",
        unit=unit,
        positioned=coords is not None,
        encoder=None if "extractor" not in said else str(said["extractor"]),
        tile_px=round(tile_px) if tile_px is not None else OLD_TILE_PX if old else None,
        tile_um=tile_um,
        said={key: said[key] for key in KEPT if key in said},
    )
    return (header,)


def _check_tiles(path: Path, said: Mapping[str, Any]) -> None:
    kind = said.get("feat_type", "slide" if "encoder" in said else "tile")
    if kind != "tile":
        raise DataError(
            f"{path}: STAMP's features of a whole {kind} (feat_type {kind!r}), one vector. A model of bags needs one a "
            "tile: give the folder that `stamp preprocess` wrote, from which these were made."
        )


def _unit(path: Path, said: Mapping[str, Any]) -> Unit:
    unit = said.get("unit")
    if unit not in (None, "um"):
        raise DataError(f"{path}: attribute 'unit' of the file is {unit!r}; STAMP writes 'um', or none (before 2.0).")
    return "um" if unit == "um" else ""


LAYOUT = Layout(
    name="stamp",
    tool=TOOL,
    container="hdf5",
    claims=is_stamp,
    headers=headers,
    features=features_of(*NAMES),
    positions=coords_of("coords"),
    sample=sample_of(*NAMES),
    lacks={
        "tile": "no attribute tile_size_um of the file, which STAMP writes since 2.0; tile_um= gives it (it was 256 "
        "unless info.json beside the files says otherwise)",
        "unit": ". Before 2.0 STAMP wrote pixels of tiles that were 224 px and mostly 256 um wide, 1.143 um a pixel: "
        "neighbours are then 224 apart, and unit='tile_px' with tile_um=256 places them",
    },
)
