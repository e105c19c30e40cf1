"""The bytes of an HDF5 file on their way to the HDF5 library, which loops for ever on a damaged heap.

Text of variable length lies in *global heaps*, names of members in *local heaps*. HDF5 2.0 walks the objects of the one
and the free blocks of the other without asking whether it moves on, in C, where nothing of Python's ends it. So files
of others are opened through a reader of our own, and each heap that passes is walked here first. Other damage the
library notices itself (`docs/foreign_files_safety.md`: how that was tried).

References: HDF5 File Format Specification 3.0, III.D (local heaps) and III.E (global heaps).
"""

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any

from milkit.errors import DataError

HDF5 = b"\x89HDF\r\n\x1a\n"
_GLOBAL, _LOCAL = b"GCOL\x01\0\0\0", b"HEAP\0\0\0\0"
"""Signature and version; the library refuses all others."""
_SIGNATURE = 8
_OBJECT = 16
"""Bytes of the head of a global heap and of each of its objects, and of a free block of a local heap."""
_NO_MORE = 1
"""The place of the free block after the last."""
MOST_HEAP = 64 << 20
"""Bytes of one heap; tools keep names and JSON in it."""


def regular(path: Path) -> int:
    """Open a file for reading and return its descriptor.

    Raises:
        DataError: it is a pipe or a device: reading could wait for ever, or never end.
        OSError: it is missing, a folder, or may not be read.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return handle
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise DataError(f"{path} is no file on a disk but a pipe or a device; give a file, or remove it.")


class Bytes(io.RawIOBase):
    """A file as the HDF5 library may see it: read-only, and no damaged heap passes.

    Attributes:
        size: bytes of the file.
        watched: whether heaps are looked for; there are none in what numbers are read from, and looking takes longer
            than reading.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at, self.watched = path, 0, True
        self._handle = regular(path)
        self.size = os.fstat(self._handle).st_size
        self._base = self._first_byte()
        self._check_widths()

    def readable(self) -> bool:
        """Yes; it cannot be written."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte; returns it."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """The byte that is read next."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from where we are; beyond the end of the file there are zeros, as in HDF5's own drivers."""
        view = memoryview(buffer).cast("B")
        got = 0
        while got < len(view):
            part = os.preadv(self._handle, [view[got:]], self._at + got)
            if not part:
                view[got:] = bytes(len(view) - got)
                break
            got += part
        if self.watched:
            self._check(self._at, view)
        self._at += len(view)
        return len(view)

    def at(self, offset: int, count: int) -> bytes:
        """Some bytes, without going there; fewer at the end of the file."""
        return os.pread(self._handle, count, offset)

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._handle)
        super().close()

    def _check(self, start: int, view: memoryview) -> None:
        """Raise if a damaged heap begins in these bytes; some around them may hold a part of its signature."""
        first = max(0, start - _SIGNATURE + 1)
        before = self.at(first, start - first)
        data = b"".join((before, view, self.at(start + len(view), _SIGNATURE - 1)))
        for signature, check in ((_GLOBAL, self._check_global), (_LOCAL, self._check_local)):
            found = data.find(signature)
            while found >= 0:
                check(first + found)
                found = data.find(signature, found + 1)

    def _check_global(self, start: int) -> None:
        """Walk the objects of a global heap as the library does; each must move on and end within it.

        An object is its number (2 bytes), how often it is used (2), 4 unused, its size (8), and its bytes, padded to a
        multiple of 8. Number 0 is free room, whose size counts the head too.
        """
        size = self._number(start + 8)
        if not _OBJECT < size <= min(MOST_HEAP, self.size - start):
            raise self._damaged(start)
        heap = self.at(start, size)
        place = _OBJECT
        while place + _OBJECT <= len(heap):
            number = int.from_bytes(heap[place : place + 2], "little")
            length = int.from_bytes(heap[place + 8 : place + 16], "little")
            step = length if number == 0 else _OBJECT + -(-length // 8) * 8
            if step < _OBJECT or place + step > len(heap):
                raise self._damaged(start)
            place += step

    def _check_local(self, start: int) -> None:
        """Walk the free blocks of a local heap: each says where the next one begins (8 bytes) and its own size (8)."""
        size, free, segment = (self._number(start + place) for place in (8, 16, 24))
        segment += self._base
        if not size <= self.size - segment:
            raise self._damaged(start)
        most = size // _OBJECT
        while free != _NO_MORE:
            most -= 1
            if most < 0 or free + _OBJECT > size:
                raise self._damaged(start)
            free = self._number(segment + free)

    def _number(self, place: int) -> int:
        return int.from_bytes(self.at(place, 8), "little")

    def _first_byte(self) -> int:
        """Where HDF5 begins: at 0, or behind a block of the user's of 512, 1024, 2048 ... bytes; 0 if nowhere."""
        place = 0
        while place + _SIGNATURE <= self.size:
            if self.at(place, _SIGNATURE) == HDF5:
                return place
            place = max(512, 2 * place)
        return 0

    def _check_widths(self) -> None:
        """Raise unless addresses and sizes have 8 bytes, as in every file in use; heaps are walked by that."""
        head = self.at(self._base, 16)
        if head.startswith(HDF5) and len(head) == 16:
            widths = head[13:15] if head[8] < 2 else head[9:11]
            if widths != b"\x08\x08":
                raise DataError(
                    f"{self._path} is damaged: its addresses have {widths[0]} bytes and its sizes {widths[1]}, not 8; "
                    "make or copy it anew, or remove it."
                )

    def _damaged(self, start: int) -> DataError:
        return DataError(
            f"{self._path} is damaged: its text (the heap at byte {start}) does not hold together; make or copy it "
            "anew, or remove it."
        )
