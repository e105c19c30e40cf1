"""The files of a store while it is packed: laid out, read back and compared, completed."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.pack.journal import Work, Written
from milkit.data.pack.shards import Shard
from milkit.data.store import open_store
from milkit.data.store_write import BLOCK_BYTES, LIBVER, disk_dtype, lay_out_features, sync, write_rest
from milkit.errors import DataError

POSITIONS = {"coords_um": 8, "coords_px": 16}
"""Bytes of an instance's position."""


def lay_out(work: Work, shard: Shard, width: int, dtype: str) -> int:
    """Make a shard's files in full length, or bring those of an interrupted pack back to that state.

    What slides wrote stays; what a completion had added, which may be half of it, goes.

    Returns:
        The byte at which the features begin.
    """
    path, fresh = work.shard(shard.number), work.path / "fresh.h5"
    with h5py.File(fresh, "w", libver=LIBVER) as file:
        lay_out_features(file, (shard.rows, width), disk_dtype(dtype))
        start = int(file["features"].id.get_offset())
    end, size = start + shard.rows * width * disk_dtype(dtype).itemsize, fresh.stat().st_size
    if path.exists():
        with fresh.open("rb") as new, path.open("r+b") as old:
            old.write(new.read(start))
            old.truncate(size)
            new.seek(end)
            old.seek(end)
            old.write(new.read())
        fresh.unlink()
    else:
        os.replace(fresh, path)
    for name, row_bytes in POSITIONS.items():
        with work.positions(shard.number, name).open("ab") as flat:
            flat.truncate(shard.rows * row_bytes)
    return start


def is_sound(path: Path, place: int, size: int, digest: str) -> bool:
    """Whether a stretch of a file has the sha256 it was written with."""
    found = hashlib.sha256()
    with path.open("rb", 0) as file:
        for block in _blocks(file, place, size):
            found.update(block)
    return found.hexdigest() == digest


def _blocks(file: io.FileIO, place: int, size: int) -> Any:
    """A stretch of a file in blocks; a file that ends too early gives less."""
    buffer = memoryview(bytearray(min(size, BLOCK_BYTES)))
    file.seek(place)
    while size:
        got = file.readinto(buffer[: min(size, len(buffer))])
        if not got:
            return
        yield buffer[:got]
        size -= got


def read_back(work: Work, shard: Shard, start: int, row_bytes: int, done: Sequence[Written]) -> str:
    """Read a shard's features from the disk and compare them with what was converted, slide by slide.

    Returns:
        sha256 of all its features.

    Raises:
        DataError: bytes that are not those that were written.
    """
    path = work.shard(shard.number)
    sync(path)
    whole = hashlib.sha256()
    with path.open("rb", 0) as file:
        if hasattr(os, "posix_fadvise"):  # from the disk, not from what the system remembers of it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        place = start
        for length, entry in zip(shard.lengths, done, strict=True):
            one = hashlib.sha256()
            for block in _blocks(file, place, length * row_bytes):
                one.update(block)
                whole.update(block)
            place += length * row_bytes
            if one.hexdigest() != entry.features:
                raise DataError(
                    f"{path} does not read back as it was written (slide {entry.index + 1}): the disk or its memory "
                    "is faulty. Give --resume to write that slide again."
                )
    return whole.hexdigest()


def complete(
    work: Work,
    shard: Shard,
    ids: Sequence[str],
    done: Sequence[Written],
    attrs: Mapping[str, Any],
    features: str,
    positions: Sequence[str],
) -> str:
    """Write all of a shard but its features, and check that it opens as a store.

    Args:
        work: the work folder.
        shard: the file.
        ids: of its slides.
        done: what was written of each.
        attrs: of the file.
        features: sha256 of its features.
        positions: of `POSITIONS`, those that the store holds.

    Returns:
        The digest of its content.
    """
    path = work.shard(shard.number)
    every = {"slide_mpp": "mpp", "slide_tile_um": "tile_um", "slide_tile_px": "tile_px"}
    sizes = {
        name: np.array([np.nan if (v := getattr(entry, its)) is None else v for entry in done], "<f8")
        for name, its in every.items()
    }
    sizes = {name: values for name, values in sizes.items() if not np.isnan(values).all()}
    flat = {name: work.positions(shard.number, name) for name in positions}
    digests = [features, *(_sha256(flat[n]) if n in flat else hashlib.sha256().hexdigest() for n in POSITIONS)]
    open_files: dict[str, io.RawIOBase] = {name: place.open("rb", 0) for name, place in flat.items()}
    try:
        with h5py.File(path, "r+", libver=LIBVER) as file:
            held = digests if "coords_px" in flat else digests[:2]
            content = write_rest(file, attrs, ids, shard.lengths, open_files, sizes, held)
            sources = [entry.source_line for entry in done if entry.source is not None]
            if sources:
                file.create_dataset("sources", data=sources, dtype=h5py.string_dtype("utf-8"))
    finally:
        for flat_file in open_files.values():
            flat_file.close()
    sync(path)
    store = open_store(path)
    found = [hashlib.sha256(v.data).hexdigest() for v in (store.coords_um, store.coords_px) if v is not None]
    if store.ids != tuple(ids) or found != [digests[1 + k] for k, n in enumerate(POSITIONS) if n in flat]:
        raise DataError(f"{path} does not read back as it was written: the disk or its memory is faulty. Pack anew.")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
