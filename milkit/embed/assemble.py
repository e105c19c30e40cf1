"""Parts to a store: features copied bag by bag in the order of the cohort, compared with what was noted of them."""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.pack.journal import write_whole
from milkit.data.store import open_store
from milkit.data.store_write import (
    BLOCK_BYTES,
    LIBVER,
    StoreDtype,
    disk_dtype,
    lay_out_features,
    store_attributes,
    sync,
    write_rest,
)
from milkit.embed.part import DONE, POSITIONS, Done, StopError, part_folder, read_done, write_all, writing
from milkit.embed.settings import Settings
from milkit.errors import DataError

PUBLISHED = "published.txt"
"""Content of the store that these parts were made into, which may be replaced by one of more of them."""
ROOM = 1 << 20
"""Bytes for what a store holds besides numbers of tiles."""


def assemble(
    work: Path, ids: Sequence[str], out: Path, settings: Settings, about: Mapping[str, Any]
) -> str:  # fmt: skip
    """Make a store of encoded bags. It gets its name when it is whole and on the disk.

    Nothing of it depends on the clock, on names of temporary files or on how often encoding was interrupted.

    Args:
        work: the folder of all bags.
        ids: of the bags, in the order of the store.
        out: the store; what is there is replaced.
        settings: of the features.
        about: what else its provenance says.

    Returns:
        sha256 of the content.

    Raises:
        StopError: the disk refuses, or gives back what was not written to it.
        DataError: bags of different widths, or sizes that contradict each other.
    """
    done = [_done(work, name) for name in ids]
    width = _width(done)
    fresh = work / "store.h5"
    attrs = _attributes(settings, about, width)
    lines = [json.dumps(d.facts, sort_keys=True, ensure_ascii=False) for d in done]
    with writing(out), contextlib.ExitStack() as stack:
        flat = {name: stack.enter_context((work / f"{name}.bin").open("w+b", 0)) for name in _held(done)}
        digests = _fill(work, done, width, fresh, settings.dtype, flat)
        with h5py.File(fresh, "r+", libver=LIBVER) as file:
            content = write_rest(file, attrs, ids, [d.tiles for d in done], flat, _sizes(done), digests)
            file.create_dataset("slides", data=lines, dtype=h5py.string_dtype("utf-8"))
        sync(fresh)
        open_store(fresh)
        write_whole(work / PUBLISHED, content)
        os.replace(fresh, out)
        sync(out.parent)
    return content


def provenance(settings: Settings, about: Mapping[str, Any], width: int) -> dict[str, Any]:
    """What a store says of how its features were made."""
    made = {k: getattr(settings, k) for k in ("batch", "backend", "jax", "threads")}
    return {"tool": "milkit embed", "encoder": {**settings.encoder, "width": width}, **made, **about}


def _attributes(settings: Settings, about: Mapping[str, Any], width: int) -> dict[str, Any]:
    tile_um, tile_px = settings.tile_um, settings.tile_px
    mpp = tile_um / tile_px if tile_um and tile_px else None
    name = str(settings.encoder.get("encoder", ""))
    return store_attributes(settings.dtype, name, mpp, tile_um, tile_px, provenance(settings, about, width))


def _done(work: Path, name: str) -> Done:
    found = read_done(part_folder(work, name))
    if found is None:
        raise StopError(f"What was encoded of {name!r} is gone from {part_folder(work, name)}; repeat the command.")
    return found


def _width(done: Sequence[Done]) -> int:
    first = done[0]
    for one in done:
        if one.width != first.width:
            raise DataError(
                f"{one.id!r} has {one.width} features a tile, and {first.id!r} {first.width}: the encoder gives "
                "different numbers. Mend it, and embed anew (--anew)."
            )
    return first.width


def _held(done: Sequence[Done]) -> list[str]:
    """The positions that all bags have, which are those that a store can hold."""
    return [name for name in POSITIONS if all(d.digests[name] for d in done)]


def _sizes(done: Sequence[Done]) -> dict[str, np.ndarray]:
    every = {"slide_mpp": "mpp", "slide_tile_um": "tile_um", "slide_tile_px": "width_px"}
    sizes = {
        name: np.array([np.nan if (v := getattr(d, its)) is None else v for d in done], "<f8")
        for name, its in every.items()
    }
    return {name: values for name, values in sizes.items() if not np.isnan(values).all()}


def _fill(
    work: Path, done: Sequence[Done], width: int, fresh: Path, dtype: StoreDtype, flat: Mapping[str, io.FileIO]
) -> list[str]:  # fmt: skip
    """Copy features and positions; gives the digests of the whole as a store counts them."""
    kind, tiles = disk_dtype(dtype), sum(d.tiles for d in done)
    row = width * kind.itemsize
    with h5py.File(fresh, "w", libver=LIBVER) as store:
        lay_out_features(store, (tiles, width), kind)
        start = int(store["features"].id.get_offset())
    whole = {name: hashlib.sha256() for name in ("features", *POSITIONS)}
    rows = {"features": row, **{name: 2 * np.dtype(POSITIONS[name]).itemsize for name in flat}}
    with fresh.open("r+b", 0) as file:
        file.seek(start)
        for one in done:
            folder = part_folder(work, one.id)
            for name, into in {"features": file, **flat}.items():
                own = hashlib.sha256()
                for block in _blocks(folder / f"{name}.bin", one.tiles * rows[name]):
                    own.update(block)
                    whole[name].update(block)
                    write_all(into, block)
                if own.hexdigest() != one.digests[name]:
                    raise _damaged(folder, one.id)
        if hasattr(os, "posix_fallocate"):  # HDF5 writes the rest, and takes a full disk badly
            os.posix_fallocate(file.fileno(), start + tiles * row, sum(rows.values()) * tiles - row * tiles + ROOM)
    held = ("features", *POSITIONS) if "coords_px" in flat else ("features", "coords_um")
    return [whole[name].hexdigest() for name in held]


def _damaged(folder: Path, bag_id: str) -> StopError:
    (folder / DONE).unlink(missing_ok=True)  # its sound blocks are kept, the rest is encoded again
    return StopError(
        f"What was encoded of {bag_id!r} does not read back as it was written (in {folder}): the disk is faulty, or "
        "somebody changed it. Repeat the command, which encodes it again."
    )


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file, block by block; a file that ends too early gives less."""
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, BLOCK_BYTES))):
            size -= len(block)
            yield block
