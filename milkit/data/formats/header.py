"""What is known of a slide's feature file without reading its features; and reading HDF5 that others wrote."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from milkit.data.formats.guard_hdf5 import opened
from milkit.errors import DataError

Unit = Literal["px", "um", "grid", "tile_px", ""]
SAMPLED = 3
"""Rows of each slide that go into the digest of a folder: the first, the middle and the last."""


@dataclass(frozen=True, eq=False)
class Header:
    """One slide, as its file describes it.

    Attributes:
        id: of the slide: mostly the file's name without its ending.
        path: the file that holds its features.
        length: instances n; 0 for a slide without tissue.
        width: features d.
        layout: name of the layout it is of.
        key: name of the slide inside a file of several slides; "" where the file holds one.
        unit: of its positions: "px" of level 0, "um", "grid" (columns and rows), "tile_px" (pixels of the tiles as the
            tool handed them to the encoder), or "" where the file does not say.
        unit_said: whether the file leaves no doubt of the unit; where it does, one that the user gives counts.
        positioned: whether the file holds positions.
        beside: the file that holds its positions, where that is another one.
        centred: whether its positions are those of the centres of tiles as tools round them: corner + int(width) // 2,
            in pixels of level 0.
        encoder: its name, None where the file does not say.
        tile_px: width of a tile in pixels as the tool handed it to the encoder, None where unknown.
        tile_level0_px: width of a tile in pixels of level 0, None where unknown.
        tile_um: width of a tile in micrometres where the file says it, else None.
        mpp_level0: micrometres per pixel of level 0 where the file says it, else None.
        level0_magnification: as the tool rounded it, None where unknown.
        label: what the file says the slide's label is, as text; None where it says nothing.
        said: attributes worth keeping under the tool's own names.
        sample: sha256 of the shape and some rows, to know the file again; "" where `Layout.sample` makes it.
    """

    id: str
    path: Path
    length: int
    width: int
    layout: str = ""
    key: str = ""
    unit: Unit = "px"
    unit_said: bool = True
    positioned: bool = True
    beside: Path | None = None
    centred: bool = False
    encoder: str | None = None
    tile_px: int | None = None
    tile_level0_px: float | None = None
    tile_um: float | None = None
    mpp_level0: float | None = None
    level0_magnification: float | None = None
    label: str | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    sample: str = ""


def attributes(data: h5py.HLObject | None, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Attributes as plain Python values; those that say 'None' are left out, and so are those of a missing dataset.

    Args:
        data: a file, group or dataset.
        names: which; each that is not read saves a tenth of a millisecond.
    """
    if data is None:
        return {}
    attrs = data.attrs
    wanted = ((k, attrs.get(k)) for k in names) if names is not None else attrs.items()
    return {k: v for k, v in ((k, _plain(v)) for k, v in wanted) if v is not None and v != "None"}


def _plain(value: Any) -> Any:
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if isinstance(value, np.ndarray) and value.size == 1:
        return _plain(value.reshape(-1)[0])  # some writers store a number as an array of one
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number(path: Path, said: Mapping[str, Any], name: str, of: str = "'coords'") -> float | None:
    """An attribute (of `coords`, or of what `of` says) that is a number above 0; None where it is absent.

    Raises:
        DataError: anything else.
    """
    if name not in said:
        return None
    try:
        result = float(said[name])
    except (TypeError, ValueError):
        result = float("nan")
    if not (np.isfinite(result) and result > 0):
        raise DataError(f"{path}: attribute {name!r} of {of} is {said[name]!r}; expected a number above 0.")
    return result


def label_of(value: Any) -> str | None:
    """A label as text, from an attribute or a dataset of one value; None where it is absent or several."""
    if isinstance(value, h5py.Dataset):
        value = value[()] if value.size == 1 else None
    value = _plain(value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def check_arrays(
    path: Path,
    file: h5py.Group,
    name: str = "features",
    *,
    positions: str = "coords",
    whole: bool = True,
    where: str = "",
) -> tuple[h5py.Dataset, h5py.Dataset | None]:
    """Features [n, d] and positions [n, 2] of a slide, by shape and dtype only.

    Args:
        path: of the file, for messages.
        file: it, or the group of a slide in it.
        name: of the dataset of features.
        positions: of the dataset of positions; "" leaves them alone.
        whole: positions must be whole pixels.
        where: the group's name, for messages.

    Raises:
        DataError: one vector a slide, shapes that do not fit, values that are no floats, positions that are not
            whole pixels.
    """
    features, coords = file[name], file.get(positions) if positions else None
    shape = features.shape
    at = f"{path}, {where!r}" if where else str(path)
    if len(shape) == 1 or (len(shape) == 2 and shape[0] == 1 and _many(coords)):
        raise DataError(
            f"{at}: {name} have shape {shape}, one vector for the whole slide. A model of bags needs one a tile: give "
            "the folder of the tiles' features (TRIDENT: features_<encoder>)."
        )
    if len(shape) != 2 or shape[1] == 0:
        raise DataError(f"{at}: {name} have shape {shape}; expected [tiles, features].")
    if features.dtype.kind != "f" and not _is_bfloat16(features):
        raise DataError(f"{at}: {name} are {features.dtype}; expected float16, bfloat16 or float32.")
    if coords is None or not shape[0]:  # a slide without tissue: older tools leave odd shapes there
        return features, coords
    if coords.shape != (shape[0], 2):
        raise DataError(
            f"{at}: coords have shape {coords.shape}, but there are {shape[0]} rows of {name}; the file was written "
            "in two halves that do not fit. Make it anew."
        )
    kinds = "iu" if whole else "iuf"
    if coords.dtype.kind not in kinds:
        raise DataError(
            f"{at}: coords are {coords.dtype}; expected "
            + (
                "whole pixels of level 0. Positions in another unit cannot be told apart from them; write a store "
                "(docs/data.md) with positions in micrometres."
                if whole
                else "numbers."
            )
        )
    return features, coords


def _many(coords: h5py.Dataset | None) -> bool:
    """Whether positions say that a slide has more than one tile."""
    return coords is not None and len(coords.shape) == 2 and coords.shape[0] > 1


def _is_bfloat16(data: h5py.Dataset) -> bool:
    """Two opaque bytes are how h5py writes NumPy's bfloat16; a float of 16 bits with 8 of exponent is the other way."""
    if data.dtype.kind == "V" and data.dtype.itemsize == 2 and data.dtype.names is None:
        return True
    kind = data.id.get_type()
    return isinstance(kind, h5py.h5t.TypeFloatID) and kind.get_size() == 2 and kind.get_ebias() == 127


def values_of(data: h5py.Dataset) -> np.ndarray:
    """All values of a features dataset, [n, d], in the precision of the file."""
    values: np.ndarray = data[:]
    if _is_bfloat16(data):
        import ml_dtypes  # comes with jax; light, but seldom needed

        bfloat16 = np.dtype(ml_dtypes.bfloat16)
        # where HDF5 knows the type, h5py widens it to float32, which loses nothing
        return values.view(bfloat16) if values.dtype.kind == "V" else values.astype(bfloat16)
    return values.astype(values.dtype.newbyteorder("="), copy=False)  # JAX takes no other order of bytes


def sample(features: h5py.Dataset) -> str:
    """sha256 of shape, dtype and up to `SAMPLED` rows: tells another extraction without reading the matrix.

    Of compressed features the rows are those of the first chunk, which has to be opened as a whole.
    """
    digest = hashlib.sha256(f"{features.shape} {features.dtype}".encode())
    packed = features.compression is not None
    n = min(features.shape[0], features.chunks[0]) if packed else features.shape[0]
    rows = features[0:n] if packed else features
    for row in sorted({0, n // 2, n - 1}) if n else ():
        digest.update(np.ascontiguousarray(rows[row]).tobytes())
    return digest.hexdigest()


def sample_of(*names: str) -> Callable[[Header], str]:
    """Samples a slide from the first of these datasets that its file has; for `Layout.sample`."""

    def read(slide: Header) -> str:
        with opened(slide.path) as file:
            return sample(_features(slide, file, names))

    return read


def features_of(*names: str) -> Callable[[Header], np.ndarray]:
    """Reads the features [n, d] of a slide from the first of these datasets that its file has; for `Layout.features`.

    The reader raises a DataError where the dataset is no longer what it was when the file was opened.
    """

    def read(slide: Header) -> np.ndarray:
        with opened(slide.path) as file:
            return values_of(_features(slide, file, names))

    return read


def coords_of(name: str) -> Callable[[Header], np.ndarray | None]:
    """Reads the positions [n, 2] of a slide from a dataset of its file, None where there is none."""

    def read(slide: Header) -> np.ndarray | None:
        with opened(slide.path) as file:
            data = _inside(slide, file, name)
            if data is None:
                return None
            if data.shape != (slide.length, 2):
                raise DataError(f"{slide.path} changed since it was opened: {data.shape} positions.")
            values: np.ndarray = data[:]
            return values

    return read


def _features(slide: Header, file: h5py.File, names: Sequence[str]) -> h5py.Dataset:
    data = next((found for name in names if (found := _inside(slide, file, name)) is not None), None)
    if data is None or data.shape != (slide.length, slide.width):
        found = "no features" if data is None else f"{data.shape} instead of {(slide.length, slide.width)}"
        raise DataError(f"{slide.path} changed since it was opened: {found}.")
    return data


def _inside(slide: Header, file: h5py.File, name: str) -> h5py.Dataset | None:
    place = f"{slide.key}/{name}" if slide.key else name
    data = file.get(place)
    return data if isinstance(data, h5py.Dataset) else None
