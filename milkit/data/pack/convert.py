"""One slide into its place: read, checked, rounded and written; the part of a pack that runs in many processes."""

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from milkit.bag import Bag
from milkit.data.bags import check_coords, check_features
from milkit.data.features import FeatureSource
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.pack.journal import Written
from milkit.data.pack.plan import from_portable, own_tile_um, tile_level0_px
from milkit.data.pack.rounding import Rounding, rounding
from milkit.data.store_write import as_stored, value_dtype
from milkit.errors import DataError

BLOCK = 1 << 20
"""Bytes converted at a time: what is computed of them stays in a core's cache."""


@dataclass(frozen=True)
class Task:
    """A slide to be written.

    Attributes:
        index: of the slide.
        id: of the slide.
        length: its instances.
        row: first row of it in its file.
        shard: file of features.
        start: byte at which the features of that file begin.
        coords_um, coords_px: flat files of positions.
        source: the file it is from with its size and time of change, where this is the first slide of that file.
    """

    index: int
    id: str
    length: int
    row: int
    shard: Path
    start: int
    coords_um: Path
    coords_px: Path
    source: tuple[str, int, int] | None


class Converter:
    """Writes slides of a source in one dtype."""

    def __init__(self, source: FeatureSource, dtype: str, keep: bool) -> None:
        self.source, self.dtype, self.keep = source, dtype, keep

    def __call__(self, task: Task) -> Written:
        """Write one slide.

        Raises:
            DataError: what is wrong with it, with its name.
        """
        said = None if task.source is None else _digest_of(*task.source)
        bag = self.source.read(task.id)
        self._check(bag, task)
        features, lost = self._features(bag, task)
        um = _place(task.coords_um, task.row, bag.coords_um, "<f4")
        px = _place(task.coords_px, task.row, bag.coords_px, "<i8")
        tile_um, tile_px = own_tile_um(self.source, task.id), tile_level0_px(self.source, task.id)
        return Written(task.index, features, um, px, bag.mpp, tile_um, tile_px, lost, said)

    def _check(self, bag: Bag, task: Task) -> None:
        if len(bag.x) != task.length or bag.x.shape[1:] != (self.source.features,):
            raise DataError(f"Slide {task.id!r} has features of shape {bag.x.shape} by now; its file has changed.")
        if self.keep and bag.x.dtype != value_dtype(self.dtype):
            raise DataError(
                f"Slide {task.id!r} is {bag.x.dtype}, others are {self.dtype}; to keep the dtype all must have one. "
                "Give one: --dtype float16, float32 or bfloat16."
            )
        if not isinstance(self.source, SlideFiles):  # whose reader has looked already
            check_features(task.id, bag.x)
        for name in ("coords_um", "coords_px"):
            if getattr(bag, name) is not None:
                check_coords(task.id, getattr(bag, name), task.length, name)

    def _features(self, bag: Bag, task: Task) -> tuple[str, Rounding]:
        """Write the features in blocks, so that a slide is held once; gives digest and errors."""
        digest, lost = hashlib.sha256(), Rounding()
        row_bytes = bag.x.shape[1] * value_dtype(self.dtype).itemsize
        rows = max(1, BLOCK // row_bytes)
        with task.shard.open("r+b", 0) as file:
            for first in range(0, task.length, rows):
                x = bag.x[first : first + rows]
                stored = as_stored(task.id, x, self.dtype, first)
                lost += rounding(x, stored.view(value_dtype(self.dtype)), self.dtype)
                digest.update(stored.data)
                _write_at(file.fileno(), stored, task.start + (task.row + first) * row_bytes)
        return digest.hexdigest(), lost


def _place(path: Path, row: int, values: np.ndarray | None, dtype: str) -> str:
    """Write positions at their row of a flat file; gives their digest, "" where there are none."""
    if values is None:
        return ""
    packed = np.ascontiguousarray(values, dtype)
    handle = os.open(path, os.O_RDWR)
    try:
        _write_at(handle, packed, row * 2 * packed.dtype.itemsize)
    finally:
        os.close(handle)
    return hashlib.sha256(packed.data).hexdigest()


def _write_at(handle: int, values: np.ndarray, place: int) -> None:
    """Write all bytes of an array at a place; one call may take only a part."""
    left = values.reshape(-1).view(np.uint8).data
    while left:
        done = os.pwrite(handle, left, place)
        left, place = left[done:], place + done


def _digest_of(name: str, size: int, changed: int) -> dict[str, Any]:
    """Size and sha256 of a source file; of a folder, which a layout reads as a whole, the name only."""
    path = Path(name)
    state = path.stat()
    if state.st_mtime_ns != changed or (path.is_file() and state.st_size != size):
        raise DataError(f"{path} has changed while it was packed; begin anew with --overwrite.")
    if not path.is_file():
        return {"file": name}
    with path.open("rb") as file:
        return {"file": name, "bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


_converter: Callable[[Task], Written] | None = None


def begin_worker(source: Mapping[str, Any], dtype: str, keep: bool) -> None:
    """Make a process ready to convert; it ends when the one that started it does, and leaves Ctrl-C to that."""
    global _converter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _converter = Converter(from_portable(source), dtype, keep)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def convert(task: Task) -> Written | str:
    """Convert in a process made ready; what is wrong with a slide is returned in words."""
    assert _converter is not None
    try:
        return _converter(task)
    except DataError as error:
        return str(error)
