"""A file as memory: arrays that are views of it, and the way to read what they hold past the map."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from milkit.errors import DataError

STRAIGHT = 1 << 18
"""Bytes from which reading past the map is faster: a call to the system costs as much as copying some thousand."""


class MappedFile(mmap.mmap):
    """A read-only map of a whole file, which also keeps the file open.

    Large pieces are read by a call rather than through the map: the system then copies them as they lie in its cache,
    without a page fault for every few of them and without pages to be taken out of this process afterwards. The file
    is the one that was mapped, even if another has taken its name since.
    """

    handle: int

    @classmethod
    def of(cls, path: Path) -> "MappedFile":
        """Map a file that is not empty."""
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            made = cls(handle, 0, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(handle)
            raise
        made.handle = handle
        return made

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """Close the file; the map itself goes with the object. At the interpreter's end `os` may be gone before."""
        if hasattr(self, "handle"):
            close(self.handle)

    def array(self, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
        """A view of a part of the file."""
        return np.ndarray(shape, dtype, self, offset)


def map_of(values: np.ndarray) -> mmap.mmap | None:
    """The map that an array is a view of, None where it is none."""
    base: object = values
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) and not values.flags.writeable else None


def place_in(mapped: mmap.mmap, values: np.ndarray) -> int:
    """The byte of a map at which an array begins."""
    start: int = np.frombuffer(mapped, np.uint8).ctypes.data
    return values.ctypes.data - start


def copy_to(values: np.ndarray, out: np.ndarray) -> None:
    """Copy an array into another of its shape and dtype, past the map where it is a large piece of a file.

    Raises:
        DataError: the file has become shorter than when it was opened.
    """
    mapped = map_of(values) if values.nbytes >= STRAIGHT else None
    plain = values.flags.c_contiguous and out.flags.c_contiguous and values.dtype == out.dtype
    if not isinstance(mapped, MappedFile) or not plain:
        out[...] = values
        return
    place = place_in(mapped, values)
    left = out.reshape(-1).view(np.uint8).data
    while left:
        got = os.preadv(mapped.handle, [left], place)
        if not got:
            raise DataError("A file of features has become shorter while it was read; write it anew.")
        left, place = left[got:], place + got
