"""The native store: all bags of a cohort in one HDF5 file, read through a memory map.

Datasets: `features` [N, d] contiguous and uncompressed (float16, float32, or bfloat16 as uint16 bits),
`offsets` int64 [B+1], `bag_ids` text [B], and where they are known `coords_um` float32 [N, 2] (top-left corner of
each tile, x and y, micrometres), `coords_px` int64 [N, 2] (the same in pixels of level 0), `slide_mpp` float64 [B]
(micrometres per pixel of level 0, NaN where unknown), `slide_tile_um` float64 [B] (width of a tile in micrometres) and
`slide_tile_px` float64 [B] (the same in pixels of level 0, which `milkit pack` keeps where the mpp is not known).
`milkit pack` adds `sources`, text (JSON, one a source file: name, bytes, sha256).
Bag b is rows `offsets[b]:offsets[b + 1]`. The file's attributes are `format`, `format_version`, `milkit_version`,
`dtype`, `encoder`, `mpp`, `tile_um`, `tile_px`, `provenance` (JSON) and `content_sha256`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.bag import Bag
from milkit.data.bags import check_id
from milkit.data.feature_sets import from_attribute
from milkit.data.formats.given import Given
from milkit.data.formats.guard_hdf5 import BROKEN, guarded
from milkit.data.formats.scale import check_mpp
from milkit.data.mapped import MappedFile
from milkit.data.store_write import (
    BLOCK_BYTES,
    FORMAT,
    FORMAT_VERSION,
    content_digest,
    disk_dtype,
    value_dtype,
    write_store,
)
from milkit.data.where import did_you_mean
from milkit.errors import DataError

__all__ = ["Store", "open_store", "write_store"]


@dataclass(frozen=True, eq=False)
class Store:
    """An open store. Nothing but the index is in memory; features come from the disk as they are touched.

    Attributes:
        path: the file.
        ids: bag ids, in file order.
        lengths: instances of each bag, int64 [B].
        features: width d.
        dtype: of the features: float16, float32 or bfloat16.
        provenance: `encoder`, `mpp`, `tile_um`, `tile_px` (None where unknown), `dtype`, `sha256` of the
            content, `milkit_version` and `extra` (what the writer added).
        x: all features, [N, d], read-only memory map.
        coords_um: all positions, float32 [N, 2], or None.
        coords_px: all positions in pixels of level 0, int64 [N, 2], or None.
        mpp: micrometres per pixel of level 0 of each bag, float64 [B], NaN where unknown; or None.
        tile_um: width of a tile of each bag in micrometres, likewise.
        tile_level0_px: width of a tile of each bag in pixels of level 0, likewise.
        offsets: first row of each bag, and N; int64 [B+1].
    """

    path: Path
    ids: tuple[str, ...]
    lengths: np.ndarray
    features: int
    dtype: np.dtype
    provenance: Mapping[str, Any]
    x: np.ndarray
    coords_um: np.ndarray | None
    offsets: np.ndarray
    index: Mapping[str, int] = field(repr=False)
    coords_px: np.ndarray | None = None
    mpp: np.ndarray | None = None
    tile_um: np.ndarray | None = None
    tile_level0_px: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.ids)

    @property
    def labels(self) -> dict[str, str]:
        """What the files that were packed said of the bags' labels, by id; mostly nothing."""
        said = self.provenance["extra"]
        labels = said.get("labels") if isinstance(said, dict) else None
        return {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}

    def read(self, bag_id: str) -> Bag:
        """One bag, whose arrays are views of the file, not copies.

        Raises:
            DataError: no such bag.
        """
        i = self.index.get(bag_id)
        if i is None:
            raise DataError(f"{self.path} holds no bag {bag_id!r}.{did_you_mean(bag_id, self.ids)}")
        rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        px = None if self.coords_px is None else self.coords_px[rows]
        mpp = _known(self.mpp, i)
        um = self.coords_um[rows] if self.coords_um is not None else None
        if um is None and px is not None and mpp is not None:
            um = (px * mpp).astype(np.float32)
        tile_um, tile_px = _known(self.tile_um, i) or self.provenance["tile_um"], _known(self.tile_level0_px, i)
        if tile_um is None and tile_px is not None and mpp is not None:
            tile_um = tile_px * mpp
        return Bag(bag_id, self.x[rows], um, px, tile_um, mpp)

    @property
    def needs_mpp(self) -> bool:
        """Whether there are pixels of level 0 of bags whose mpp is not known."""
        return self.coords_px is not None and (self.mpp is None or bool(np.isnan(self.mpp).any()))

    def at(self, mpp: Mapping[str, float], said: str = "") -> "Store":
        """The same store with positions in micrometres, where it holds pixels of level 0 only.

        Args:
            mpp: micrometres per pixel of level 0, by bag id.
            said: where it is from; not used, as the store knows what it holds.

        Raises:
            DataError: the store holds micrometres already, or another mpp.
        """
        if self.coords_px is None:
            where = "holds no positions" if self.coords_um is None else "holds positions in micrometres"
            raise DataError(f"{self.path} is a milkit store that {where}; leave out the mpp.")
        own = self.mpp if self.mpp is not None else np.full(len(self), np.nan)
        values = np.array([mpp.get(name, np.nan) for name in self.ids])
        for name, value in mpp.items():
            check_mpp(value, f"{self.path}, slide {name!r}")
        with np.errstate(invalid="ignore"):
            other = np.flatnonzero(np.abs(values - own) > 0.01 * own)
        if len(other):
            i = int(other[0])
            raise DataError(
                f"{self.path} says mpp {own[i]:g} of slide {self.ids[i]!r}, but {values[i]:g} is given; leave it out."
            )
        both = np.where(np.isnan(own), values, own)
        digest = hashlib.sha256(both.tobytes()).hexdigest()
        placed = replace(self, mpp=both, provenance={**self.provenance, "mpp_sha256": digest})
        return replace(placed, provenance={**placed.provenance, **placed._scale()})

    def _scale(self) -> dict[str, float]:
        """Tile width and mpp of the tiles by the bags' own sizes, medians, where the file does not say them."""
        if self.mpp is None or self.tile_level0_px is None or self.provenance["tile_um"] is not None:
            return {}
        widths = self.tile_level0_px * self.mpp
        if np.isnan(widths).any():
            return {}
        tile_um, tile_px = float(np.median(widths)), self.provenance["tile_px"]
        return {"tile_um": tile_um, **({"mpp": tile_um / tile_px} if tile_px else {})}

    def given(self, facts: Given) -> "Store":
        """The same store with what the user says beside it.

        Raises:
            DataError: the store says so itself, or otherwise.
        """
        store = self if facts.mpp is None else self.at(dict.fromkeys(self.ids, facts.mpp))
        if facts.tile_um is None:
            return store
        known = self.provenance["tile_um"]
        if known is not None:
            raise DataError(f"{self.path} says tiles of {known:g} um itself; leave out tile_um={facts.tile_um:g}.")
        return replace(store, provenance={**store.provenance, "tile_um": facts.tile_um})

    def validate(self, deep: bool = False) -> None:
        """Check the store; `open_store` has already checked its structure.

        Args:
            deep: read every value: NaN and infinities are looked for, and the content is compared with the
                digest taken when it was written. Takes as long as reading the file.

        Raises:
            DataError: what is wrong, and in which bag.
        """
        file = open_store(self.path)  # what the user said beside it is not its content
        if not deep:
            return
        digests = []
        parts = [("features", self.x), ("coords_um", self.coords_um)]
        if self.coords_px is not None:
            parts.append(("coords_px", self.coords_px))
        for what, values in parts:
            digest = hashlib.sha256()
            for start, block in _blocks(values):
                digest.update(block.view(np.uint8).data)
                self._check_finite(what, start, block)
            digests.append(digest.hexdigest())
        sizes = [v for v in (file.mpp, file.tile_um, file.tile_level0_px) if v is not None]
        if content_digest(digests, self.offsets, self.ids, sizes) != self.provenance["sha256"]:
            raise DataError(f"{self.path} is damaged: its content is not what was written. Write the store anew.")

    def _check_finite(self, what: str, start: int, block: np.ndarray) -> None:
        bad = ~np.isfinite(block).all(1)
        if bad.any():
            row = start + int(np.flatnonzero(bad)[0])
            i = int(np.searchsorted(self.offsets, row, side="right")) - 1
            raise DataError(
                f"{self.path}: {what} of bag {self.ids[i]!r} hold NaN or infinity at instance "
                f"{row - int(self.offsets[i])}; write the store anew without it."
            )


def _known(values: np.ndarray | None, i: int) -> float | None:
    """A bag's own size, None where there is none."""
    return None if values is None or np.isnan(values[i]) else float(values[i])


def _blocks(values: np.ndarray | None) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of an array, block by block."""
    if values is not None:
        rows = max(1, BLOCK_BYTES // (values.shape[1] * values.dtype.itemsize))
        for start in range(0, len(values), rows):
            yield start, values[start : start + rows]


def open_store(path: str | Path) -> Store:
    """Open a native store and check its structure; features are memory-mapped, not read.

    Raises:
        DataError: no such file, not a store, a store of a newer format, one cut short, or one whose parts do
            not agree.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a store" if path.is_dir() else f"is not there; the folder is {Path.cwd()}"
        raise DataError(f"The store {path} {what}.")
    try:
        with guarded(path) as file:
            return _open(path, file)
    except BROKEN as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    text = str(error)
    if path.stat().st_size == 0:
        return DataError(f"{path} is an empty file, not a store; write it anew.")
    if "truncated file" in text:
        return DataError(f"{path} is cut short (HDF5 expects more bytes than there are); copy or write it anew.")
    if "signature not found" in text:
        return DataError(f"{path} is not an HDF5 file; expected a store written by milkit.data.store.write_store.")
    return DataError(f"{path} cannot be read as a store, it is damaged or cut short ({text}); copy or write it anew.")


def _open(path: Path, file: h5py.File) -> Store:
    attrs = dict(file.attrs)
    _check_format(path, file, attrs)
    name = str(attrs["dtype"])
    features, offsets = file["features"], file["offsets"][:]
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1:
        raise DataError(f"{path} is damaged: offsets are {offsets.dtype} {offsets.shape}; expected int64 [bags + 1].")
    offsets = offsets.astype(np.int64)
    ids = tuple(file["bag_ids"].asstr()[:].tolist())
    _check_parts(path, features, offsets, ids, name)
    whole = MappedFile.of(path)
    x = _mapped(whole, path, features).view(value_dtype(name))
    coords = _mapped(whole, path, file["coords_um"]) if "coords_um" in file else None
    if coords is not None and coords.shape != (len(x), 2):
        raise DataError(f"{path} is damaged: coords_um has shape {coords.shape}; expected {(len(x), 2)}.")
    try:
        for before, bag in zip(("", *ids), ids, strict=False):
            check_id(bag, before)
    except DataError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    index = {bag: i for i, bag in enumerate(ids)}
    if len(index) != len(ids):
        raise DataError(f"{path} holds a bag id more than once; write the store anew.")
    return Store(
        path=path,
        ids=ids,
        lengths=np.diff(offsets),
        features=int(x.shape[1]),
        dtype=x.dtype,
        provenance=_provenance(attrs, int(x.shape[1]), path),
        x=x,
        coords_um=coords,
        offsets=offsets,
        index=index,
        coords_px=_pixels(whole, path, file, len(x)),
        mpp=_sizes(path, file, "slide_mpp", len(ids)),
        tile_um=_sizes(path, file, "slide_tile_um", len(ids)),
        tile_level0_px=_sizes(path, file, "slide_tile_px", len(ids)),
    )


def _pixels(whole: MappedFile, path: Path, file: h5py.File, n: int) -> np.ndarray | None:
    if "coords_px" not in file:
        return None
    values = _mapped(whole, path, file["coords_px"])
    if values.shape != (n, 2) or values.dtype != np.dtype("<i8"):
        raise DataError(f"{path} is damaged: coords_px is {values.dtype} {values.shape}; expected int64 {(n, 2)}.")
    return values


def _sizes(path: Path, file: h5py.File, name: str, bags: int) -> np.ndarray | None:
    if name not in file:
        return None
    data = file[name]
    if data.shape != (bags,) or data.dtype != np.dtype("<f8"):
        raise DataError(f"{path} is damaged: {name} is {data.dtype} {data.shape}; expected float64 {(bags,)}.")
    values: np.ndarray = data[:]
    return values


def _check_format(path: Path, file: h5py.File, attrs: Mapping[str, Any]) -> None:
    if attrs.get("format") != FORMAT:
        raise DataError(
            f"{path} is an HDF5 file but not a milkit store: it has no attribute format={FORMAT!r}; it holds "
            f"{sorted(file)[:6]}. Write one with milkit.data.store.write_store."
        )
    if int(attrs["format_version"]) > FORMAT_VERSION:
        raise DataError(
            f"{path} has store format {attrs['format_version']}, of milkit {attrs.get('milkit_version')}; "
            f"this milkit reads up to {FORMAT_VERSION}. Update milkit."
        )


def _check_parts(path: Path, features: h5py.Dataset, offsets: np.ndarray, ids: tuple[str, ...], name: str) -> None:
    """Raise where the parts of a store do not agree with each other."""
    wrong = ""
    if name not in ("float16", "float32", "bfloat16") or features.dtype != disk_dtype(name):
        wrong = f"features are {features.dtype} on disk, but its attribute says {name}"
    elif features.ndim != 2 or features.chunks is not None:
        wrong = "features are not a contiguous table"
    elif len(offsets) != len(ids) + 1 or not ids:
        wrong = f"{len(ids)} bag ids but {len(offsets)} offsets; expected one offset more than ids"
    elif offsets[0] != 0 or offsets[-1] != len(features) or (np.diff(offsets) < 1).any():
        wrong = f"offsets do not rise from 0 to the {len(features)} rows of features"
    if wrong:
        raise DataError(f"{path} is damaged: {wrong}. Write the store anew.")


def _mapped(whole: MappedFile, path: Path, data: h5py.Dataset) -> np.ndarray:
    """A contiguous dataset as a read-only view of the file."""
    offset, size = data.id.get_offset(), len(whole)
    if offset is None or size < offset + data.size * data.dtype.itemsize:
        raise DataError(f"{path} is cut short: {data.name} does not fit into its {size} bytes; write it anew.")
    # no np.memmap, slices of which cost more than the read of a small bag
    return whole.array(data.dtype, data.shape, offset)


def _provenance(attrs: Mapping[str, Any], width: int, path: Path) -> dict[str, Any]:
    sets = {}
    if "feature_sets" in attrs:
        sets = {"feature_sets": from_attribute(attrs["feature_sets"], width, str(path))}
    return {
        "encoder": str(attrs["encoder"]) if "encoder" in attrs else None,
        "mpp": float(attrs["mpp"]) if "mpp" in attrs else None,
        "tile_um": float(attrs["tile_um"]) if "tile_um" in attrs else None,
        "tile_px": int(attrs["tile_px"]) if "tile_px" in attrs else None,
        "dtype": str(attrs["dtype"]),
        "sha256": str(attrs["content_sha256"]),
        "milkit_version": str(attrs["milkit_version"]),
        "extra": json.loads(attrs["provenance"]),
        **sets,
    }
