"""mussel (1.5): `<slide>.h5` or `<slide>.features.h5`.

`features` [N, d] float32, float16 or bfloat16 (two opaque bytes), `coords` int64 [N, 2] in pixels of level 0, both with
gzip and shuffle as a rule. Attributes of `coords`: `patch_size` and `step_size` (pixels of level 0), `patch_level` (0),
`patch_size_to_resize_to_for_desired_mpp` (pixels of a tile as the encoder saw it), `mpp` (of those), `native_mpp` (of
level 0), `mpp_is_fallback` (native_mpp was assumed, the scan does not say it), `name` (of the slide), and how tissue
was found. No attribute names the encoder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from milkit.data.formats.header import Header, attributes, check_arrays, coords_of, features_of, number, sample_of
from milkit.data.formats.layout import Layout
from milkit.errors import DataError

TOOL = "mussel"
RESIZED = "patch_size_to_resize_to_for_desired_mpp"
MARKS = (RESIZED, "native_mpp")
SIZES = ("patch_size", RESIZED, "mpp", "native_mpp")
KEPT = (*SIZES, "patch_level", "step_size", "mpp_is_fallback")
"""Attributes of `coords` that provenance keeps under mussel's own names."""
AGREE = 1.05
"""`patch_size` is rounded to whole pixels of level 0, so widths agree to a pixel in some 100 only."""


def is_mussel(path: Path, file: h5py.File) -> bool:
    """Whether `coords` beside `features` carry mussel's attributes."""
    if "features" not in file or "coords" not in file:
        return False
    coords = file.get("coords")
    return isinstance(coords, h5py.Dataset) and any(name in coords.attrs for name in MARKS)


def headers(path: Path, file: h5py.File) -> tuple[Header, ...]:
    """What a mussel file says without reading its features.

    Raises:
        DataError: shapes, dtypes or attributes that are not mussel's; sizes that contradict each other.
    """
    features, coords = check_arrays(path, file)
    said = attributes(coords, (*KEPT, "name"))
    sizes = {name: number(path, said, name) for name in SIZES}
    # an mpp that was assumed is not one that is known
    mpp_level0 = None if said.get("mpp_is_fallback") else sizes["native_mpp"]
    level0_px = sizes["patch_size"] if said.get("patch_level", 0) == 0 else None
    tile_px = sizes[RESIZED]
    _check_sizes(path, sizes)
    header = Header(
        id=_id(path, said),
        path=path,
        length=features.shape[0],
        width=features.shape[1],
        layout="mussel",
        tile_px=None if tile_px is None else round(tile_px),
        tile_level0_px=level0_px,
        mpp_level0=mpp_level0,
        said={name: said[name] for name in KEPT if name in said},
    )
    return (header,)


def _id(path: Path, said: Mapping[str, Any]) -> str:
    """The slide's name, where the file's is that and a word for what it holds."""
    name = str(said.get("name", ""))
    return name if name and path.stem.startswith(f"{name}.") else path.stem


def _check_sizes(path: Path, sizes: Mapping[str, float | None]) -> None:
    """Raise unless a tile is as wide at level 0 as after it was resized."""
    level0, resized, mpp, native = sizes["patch_size"], sizes[RESIZED], sizes["mpp"], sizes["native_mpp"]
    if level0 is None or resized is None or mpp is None or native is None:
        return
    before, after = level0 * native, resized * mpp
    if max(before, after) > AGREE * min(before, after):
        raise DataError(
            f"{path}: a tile is patch_size {level0:g} x native_mpp {native:g} = {before:.4g} um wide at level 0, but "
            f"{resized:g} px x mpp {mpp:g} = {after:.4g} um after it was resized; one of these attributes of 'coords' "
            "is wrong. Cut the tiles anew."
        )


LAYOUT = Layout(
    name="mussel",
    tool=TOOL,
    container="hdf5",
    claims=is_mussel,
    headers=headers,
    features=features_of("features"),
    positions=coords_of("coords"),
    sample=sample_of("features"),
    lacks={
        "tile": "no attribute patch_size of coords at level 0; tile_um= gives it",
        "mpp": "native_mpp is absent, or mussel assumed it (mpp_is_fallback), since the scan does not say it",
    },
    same=(RESIZED, "mpp"),
)
