"""TRIDENT (0.3): `<mag>x_<size>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`.

`features` [N, d] in the encoder's dtype, chunks (1, d); `coords` int64 [N, 2], pixels of level 0. Attributes of
`features`: `encoder` (absent from older files), `name`, `savetodir`; of `coords`: `patch_size` (pixels at the target
magnification), `patch_size_level0` (pixels of level 0), `level0_magnification`, `target_magnification`, `overlap`,
`name`, `savetodir`, `level0_width`, `level0_height`. None is stored as the text 'None'.

Magnifications are rounded (a scanner with 0.23 um a pixel is "40x"), so they give no mpp: that of level 0 must come
from elsewhere. A tile's width on the slide is `patch_size_level0` x that mpp; `patch_size` x mpp would be wrong by the
factor between the two magnifications.
"""

from pathlib import Path

import h5py

from milkit.data.formats.header import Header, attributes, check_arrays, coords_of, features_of, number, sample_of
from milkit.data.formats.layout import Layout

TOOL = "TRIDENT"
KEPT = ("target_magnification", "level0_magnification", "patch_size", "patch_size_level0", "overlap")
"""Attributes of `coords` that provenance keeps under TRIDENT's own names."""


def is_trident(path: Path, file: h5py.File) -> bool:
    """Whether a file that holds `features` carries TRIDENT's attributes."""
    features = file.get("features")
    if not isinstance(features, h5py.Dataset):
        return False
    coords = file.get("coords")
    marked = coords is not None and any(name in coords.attrs for name in ("patch_size_level0", "target_magnification"))
    return marked or any(name in features.attrs for name in ("encoder", "savetodir"))


def headers(path: Path, file: h5py.File) -> tuple[Header, ...]:
    """What a TRIDENT file says without reading its features.

    Raises:
        DataError: shapes, dtypes or attributes that are not TRIDENT's.
    """
    features, coords = check_arrays(path, file)
    said = attributes(coords, KEPT)
    sizes = {name: number(path, said, name) for name in KEPT if name != "overlap"}
    tile_px = sizes["patch_size"]
    encoder = attributes(features, ("encoder",)).get("encoder")
    header = Header(
        id=path.stem,
        path=path,
        length=features.shape[0],
        width=features.shape[1],
        layout="trident",
        positioned=coords is not None,
        encoder=None if encoder is None else str(encoder),
        tile_px=None if tile_px is None else round(tile_px),
        # absent where TRIDENT was given another tool's positions
        tile_level0_px=sizes["patch_size_level0"],
        level0_magnification=sizes["level0_magnification"],
        said={name: said[name] for name in KEPT if name in said},
    )
    return (header,)


LAYOUT = Layout(
    name="trident",
    tool=TOOL,
    container="hdf5",
    claims=is_trident,
    headers=headers,
    features=features_of("features"),
    positions=coords_of("coords"),
    sample=sample_of("features"),
    lacks={"tile": "no attribute patch_size_level0 of coords; have TRIDENT cut the tiles, or give tile_um="},
    same=("patch_size", "target_magnification"),
)
