"""Writing the native store: one pass over the bags, little memory, never half a file under its final name."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

import milkit
from milkit.bag import Bag
from milkit.data.bags import as_bag, check_coords, check_features, check_id
from milkit.data.feature_sets import FeatureSet, as_attribute, check_widths
from milkit.errors import DataError

FORMAT = "milkit.store"
FORMAT_VERSION = 2
"""2 added positions in pixels, and mpp and tile width of each bag; stores without them are still written as 1."""
StoreDtype = Literal["float16", "float32", "bfloat16"]
BLOCK_BYTES = 16 * 2**20
"""How much is copied, hashed or scanned at a time."""
LIBVER = ("earliest", "v110")
"""Versions of the file format that a store keeps to, so that older HDF5 libraries read it."""
_FLOAT16_MAX = 65504.0


def disk_dtype(name: str) -> np.dtype:
    """The dtype on disk, little-endian; HDF5 knows no bfloat16, so its bits are kept as uint16."""
    return np.dtype({"float16": "<f2", "float32": "<f4", "bfloat16": "<u2"}[name])


def value_dtype(name: str) -> np.dtype:
    """The dtype in memory."""
    if name == "bfloat16":
        import ml_dtypes  # comes with jax; light, but not needed for the other two

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def write_store(
    path: str | Path,
    bags: Iterable[Any],
    *,
    dtype: StoreDtype = "float16",  # what encoders run in; halves disk and transfer
    encoder: str | None = None,
    mpp: float | None = None,
    tile_um: float | None = None,
    tile_px: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    feature_sets: Sequence[FeatureSet] = (),
    overwrite: bool = False,
) -> Path:
    """Write bags into one native HDF5 store.

    The bags are taken one at a time (a generator will do) and spooled to temporary files beside the target:
    memory holds one bag, and the disk needs room for the features twice while writing. The store gets its
    name only when it is whole and on disk; after an error nothing is left behind and an older store is
    untouched.

    Args:
        path: the file to write, usually `.h5`; its folder is made where it is missing.
        bags: of `milkit.Bag`; ids unique and not blank; `x` [n, d] finite, n >= 1, one d for all; `coords_um` [n, 2] in
            micrometres for all bags or for none, and so `coords_px`; `mpp` and `tile_um` are kept bag by bag.
        dtype: of the features on disk.
        encoder: name of the encoder that made the features, with its version.
        mpp: micrometres per pixel of the tiles as the encoder saw them.
        tile_um: width of a tile in micrometres.
        tile_px: width of a tile in pixels as the encoder saw it.
        provenance: anything else worth keeping, JSON-able (source files, tiling parameters ...).
        feature_sets: what lies side by side in an instance, where it is more than one encoder's features.
        overwrite: replace a store that is there already.

    Returns:
        The path written.

    Raises:
        DataError: the file exists; a bag is empty, of another width, not finite, given twice or without an
            id; a value does not fit the dtype; the disk is full. The message names the bag.
    """
    path = Path(path).expanduser()
    if dtype not in ("float16", "float32", "bfloat16"):
        raise DataError(f"dtype={dtype!r}; a store holds float16, float32 or bfloat16.")
    attrs = store_attributes(dtype, encoder, mpp, tile_um, tile_px, provenance)
    if feature_sets:
        attrs["feature_sets"] = as_attribute(feature_sets)
    _refuse_existing(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a folder of its own beside the target: same disk, so the last step is a rename
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise DataError(f"The store {path} cannot be written: {error.strerror or error}.") from None
    try:
        with (
            (work / "features").open("w+b", 0) as features,
            (work / "coords").open("w+b", 0) as coords,
            (work / "pixels").open("w+b", 0) as pixels,
        ):
            spool = _Spool(dtype, features, coords, pixels)
            for bag in bags:  # an error of the caller's own generator passes through unchanged
                with _disk_errors(path):
                    spool.add(bag)
            if feature_sets:
                check_widths([s.width for s in feature_sets], spool.width, str(path))
            with _disk_errors(path):
                _write_hdf5(work / "store.h5", spool, attrs)
        _refuse_existing(path, overwrite)
        with _disk_errors(path):
            os.replace(work / "store.h5", path)
            sync(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say which store could not be written; HDF5's own messages name neither file nor cause."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 raises either
        cause = getattr(error, "strerror", None) or error
        raise DataError(
            f"Writing the store {path} failed: {cause}. Nothing was left behind; "
            "check the free space (features are needed twice while writing) and try again."
        ) from error


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the name of a file to write.")
    if path.exists() and not overwrite:
        raise DataError(f"{path} is there already; give overwrite=True to replace it, or another name.")


def store_attributes(
    dtype: str,
    encoder: str | None,
    mpp: float | None,
    tile_um: float | None,
    tile_px: int | None,
    provenance: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Attributes of a store's file but `content_sha256`; raises where sizes contradict each other."""
    sizes = {"mpp": mpp, "tile_um": tile_um, "tile_px": tile_px}
    for name, value in sizes.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise DataError(f"{name}={value} is no size; expected a number above 0, or None where it is unknown.")
    if mpp is not None and tile_um is not None and tile_px is not None:
        implied = mpp * tile_px
        if abs(implied - tile_um) > 0.01 * tile_um:  # 1 %: more than rounding, less than any real mix-up
            raise DataError(
                f"tile_px={tile_px} x mpp={mpp} is {implied:g} um, but tile_um={tile_um:g}; mpp and tile_px "
                "are those of the tile as the encoder saw it (after resizing). Leave out the unknown one."
            )
    try:
        text = json.dumps(dict(provenance or {}), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"provenance cannot be written as JSON ({error}); use text, numbers, lists, dicts.") from None
    known = {"encoder": encoder, **sizes}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "milkit_version": milkit.__version__,
        "dtype": dtype,
        "provenance": text,
        **{name: value for name, value in known.items() if value is not None},
    }


@dataclass
class _Spool:
    """Bags as they come, appended to flat files; keeps only ids, lengths and running digests."""

    dtype: str
    features: io.RawIOBase
    coords: io.RawIOBase
    pixels: io.RawIOBase
    ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    width: int = 0
    has: dict[str, bool] = field(default_factory=dict)
    mpp: list[float] = field(default_factory=list)
    tile_um: list[float] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    hashes: tuple[Any, Any, Any] = field(default_factory=lambda: (hashlib.sha256(), hashlib.sha256(), hashlib.sha256()))

    def add(self, bag: Any) -> None:
        """Check one bag and append it."""
        bag = as_bag(bag, len(self.ids))
        before, first = (self.ids[-1], self.ids[0]) if self.ids else ("", "")
        check_id(bag.id, before)
        if bag.id in self.seen:
            raise DataError(f"Bag {bag.id!r} is given twice; ids must be unique.")
        x = bag.x
        check_features(bag.id, x, first, self.width)
        packed = as_stored(bag.id, x, self.dtype)
        coords = self._checked(bag, "coords_um", "<f4")
        pixels = self._checked(bag, "coords_px", "<i8")
        self.hashes[0].update(packed)
        _write_all(self.features, packed)
        if coords is not None:
            self.hashes[1].update(coords)
            _write_all(self.coords, coords)
        if pixels is not None:
            self.hashes[2].update(pixels)
            _write_all(self.pixels, pixels)
        self.mpp.append(np.nan if bag.mpp is None else bag.mpp)
        self.tile_um.append(np.nan if bag.tile_um is None else bag.tile_um)
        self.width = x.shape[1]
        self.ids.append(bag.id)
        self.seen.add(bag.id)
        self.lengths.append(len(x))

    def _checked(self, bag: Bag, name: str, dtype: str) -> np.ndarray | None:
        """Positions of a bag, which all bags have or none."""
        values = getattr(bag, name)
        given = values is not None
        if self.ids and given != self.has[name]:
            raise DataError(
                f"Bag {bag.id!r} has {'' if given else 'no '}{name}, unlike the bags before it; "
                "give them for all bags or for none."
            )
        self.has[name] = given
        if values is None:
            return None
        check_coords(bag.id, values, len(bag.x), name)
        return np.ascontiguousarray(values, dtype)

    @property
    def sizes(self) -> dict[str, np.ndarray]:
        """Mpp and tile width of the bags, float64 [B], those of which any is known."""
        every = {"slide_mpp": np.array(self.mpp, "<f8"), "slide_tile_um": np.array(self.tile_um, "<f8")}
        return {name: values for name, values in every.items() if not np.isnan(values).all()}


def _write_all(file: io.RawIOBase, values: np.ndarray) -> None:
    """Write an array to an unbuffered file, one call to which may take only a part (a disk nearly full)."""
    left = values.reshape(-1).view(np.uint8).data
    while left:
        left = left[file.write(left) :]


def as_stored(name: str, x: np.ndarray, dtype: str, first: int = 0) -> np.ndarray:
    """The features as they go to disk, from instance `first` on; raises where they do not fit."""
    if x.dtype == value_dtype(dtype):
        return np.ascontiguousarray(x).view(disk_dtype(dtype))
    with np.errstate(over="ignore", under="ignore"):  # overflow is reported below, underflow to 0 is rounding
        values = x.astype(value_dtype(dtype))
    over = ~np.isfinite(values)
    if dtype == "float16":
        over |= np.abs(x.astype(np.float64 if x.dtype.itemsize > 4 else np.float32)) > _FLOAT16_MAX
    if over.any():
        row, column = np.argwhere(over)[0].tolist()
        raise DataError(
            f"Bag {name!r}: the value {x[row, column]} at instance {first + row}, feature {column} is beyond what "
            f"{dtype} holds{' (65504)' if dtype == 'float16' else ''}; write the store with dtype='float32'"
            f"{'' if dtype == 'float16' else ' and scaled features'}."
        )
    return np.ascontiguousarray(values).view(disk_dtype(dtype))


def content_digest(
    digests: Sequence[str], offsets: np.ndarray, ids: Iterable[str], sizes: Sequence[np.ndarray] = ()
) -> str:
    """sha256 of a store's content.

    Args:
        digests: of features, coords_um and, where the store has them, coords_px.
        offsets: of the bags.
        ids: of the bags.
        sizes: mpp and tile width of the bags, those that the store holds.
    """
    numbers = [hashlib.sha256(np.asarray(v).tobytes()).hexdigest() for v in (np.asarray(offsets, "<i8"), *sizes)]
    return hashlib.sha256(
        "\n".join([*digests[:2], numbers[0], json.dumps(list(ids)), *digests[2:], *numbers[1:]]).encode()
    ).hexdigest()


def _write_hdf5(path: Path, spool: _Spool, attrs: Mapping[str, Any]) -> None:
    if not spool.ids:
        raise DataError("There is no bag to write; a store holds at least one.")
    shape, dtype = (sum(spool.lengths), spool.width), disk_dtype(spool.dtype)
    positions = {"coords_um": spool.coords, "coords_px": spool.pixels}
    with h5py.File(path, "w", libver=LIBVER) as file:
        lay_out_features(file, shape, dtype)
        _fill(spool.features, file["features"])
        write_rest(
            file,
            attrs,
            spool.ids,
            spool.lengths,
            {name: spooled for name, spooled in positions.items() if spool.has[name]},
            spool.sizes,
            [h.hexdigest() for h in spool.hashes[: 3 if spool.has["coords_px"] else 2]],
        )
    sync(path)


def lay_out_features(file: h5py.File, shape: tuple[int, int], dtype: np.dtype) -> None:
    """Make the features' dataset: no chunks, no filter and its place in the file fixed, so it can be memory-mapped."""
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_layout(h5py.h5d.CONTIGUOUS)
    kind.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    kind.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # every byte of it is written later
    file.create_dataset("features", shape, dtype, dcpl=kind)


def write_rest(
    file: h5py.File,
    attrs: Mapping[str, Any],
    ids: Sequence[str],
    lengths: Sequence[int],
    positions: Mapping[str, io.RawIOBase],
    sizes: Mapping[str, np.ndarray],
    digests: Sequence[str],
) -> str:
    """Write all of a store but its features; returns the digest of its content.

    Args:
        file: a store that holds features.
        attrs: of the file.
        ids: of the bags.
        lengths: instances of each.
        positions: flat files of `coords_um` (float32) and `coords_px` (int64), those that the store holds.
        sizes: float64 [B] arrays, in their order.
        digests: of features, coords_um and, where the store has them, coords_px.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    file.attrs.update(attrs)
    for name, spooled in positions.items():
        kind = np.dtype("<f4" if name == "coords_um" else "<i8")
        _fill(spooled, file.create_dataset(name, (int(offsets[-1]), 2), kind))
    for name, values in sizes.items():
        file.create_dataset(name, data=values)
    if "coords_px" not in positions and not sizes:
        file.attrs["format_version"] = 1  # which older versions of milkit read
    file.create_dataset("offsets", data=offsets)
    file.create_dataset("bag_ids", data=list(ids), dtype=h5py.string_dtype("utf-8"))
    digest = content_digest(digests, offsets, ids, list(sizes.values()))
    file.attrs["content_sha256"] = digest
    return digest


def _fill(spooled: io.RawIOBase, data: h5py.Dataset) -> None:
    """Copy a spooled flat file into a contiguous dataset, block by block."""
    rows = max(1, BLOCK_BYTES // (data.shape[1] * data.dtype.itemsize))
    spooled.seek(0)
    for start in range(0, data.shape[0], rows):
        block = np.empty((min(start + rows, data.shape[0]) - start, data.shape[1]), data.dtype)
        if spooled.readinto(block.reshape(-1).view(np.uint8).data) != block.nbytes:
            raise OSError(f"a spooled file of {data.name} lost bytes")
        data[start : start + len(block)] = block


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
