"""One HDF5 file a cohort, one group a slide: ACMIL's (`feat`), and the same with `features`.

ACMIL: `/<slide>/feat` float16 [N, d], `/<slide>/coords` [N, 2] in pixels of level 0, attribute `label` of `/<slide>`.
It copies neither the tile size nor the encoder's name out of the patches files that it reads. The other kind, which
many scripts write: `/<slide>/features` and `/<slide>/coords`, whose attributes `patch_size` and `patch_level` may be
there; a `patch_size` at another level than 0 says the width at level 0 only with a `downsample`.

What else lies in a group (labels or areas of instances) stays out of the features.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py

from milkit.data.formats.header import (
    Header,
    attributes,
    check_arrays,
    coords_of,
    features_of,
    label_of,
    number,
    sample_of,
)
from milkit.data.formats.layout import Layout
from milkit.data.formats.spread import in_pixels
from milkit.errors import DataError

KEPT = ("patch_size", "patch_level", "downsample")
"""Attributes of `coords` that provenance keeps under their own names."""


def has_groups(name: str, path: Path, file: h5py.File) -> bool:
    """Whether the first of a file's groups holds features of this name."""
    first = next(iter(file), None)
    if first is None:
        return False
    group = file.get(first)
    return isinstance(group, h5py.Group) and isinstance(group.get(name), h5py.Dataset)


def headers(name: str, layout: str, path: Path, file: h5py.File) -> tuple[Header, ...]:
    """What a file says of all its slides without reading their features.

    Raises:
        DataError: a group without features; shapes, dtypes or attributes that do not fit. Names the group.
    """
    return tuple(_header(name, layout, path, slide, file[slide]) for slide in file)


def _header(name: str, layout: str, path: Path, slide: str, group: Any) -> Header:
    if not (isinstance(group, h5py.Group) and isinstance(group.get(name), h5py.Dataset)):
        what = f"holds {sorted(group)[:6]}" if isinstance(group, h5py.Group) else "is a dataset"
        raise DataError(
            f"{path}: {slide!r} {what}; expected a group with {name!r} and 'coords', as the first one is. Make the "
            "file anew, or remove what is no slide from it."
        )
    features, coords = check_arrays(path, group, name, where=slide)
    said = attributes(coords, KEPT)
    size = number(path, said, "patch_size", f"'{slide}/coords'")
    downsample = 1.0 if said.get("patch_level") == 0 else number(path, said, "downsample", f"'{slide}/coords'")
    return Header(
        id=slide,
        path=path,
        length=features.shape[0],
        width=features.shape[1],
        layout=layout,
        key=slide,
        unit_said=size is not None,
        positioned=coords is not None,
        tile_px=None if size is None else round(size),
        tile_level0_px=None if size is None or downsample is None else size * downsample,
        label=label_of(group.attrs.get("label")),
        said={key: said[key] for key in KEPT if key in said},
    )


def of_groups(name: str, layout: str, tool: str, tile: str) -> Layout:
    """The layout of files with a group a slide, whose features are called `name`."""
    claims: Callable[[Path, Any], bool] = partial(has_groups, name)
    return Layout(
        name=layout,
        tool=tool,
        container="hdf5",
        claims=claims,
        headers=partial(headers, name, layout),
        features=features_of(name),
        positions=in_pixels(coords_of("coords")),
        sample=sample_of(name),
        lacks={"tile": tile},
    )


LAYOUT = of_groups(
    "features",
    "groups",
    "grouped HDF5",
    "attributes patch_size and patch_level (0, or with downsample) of coords say it; tile_um= gives it",
)
