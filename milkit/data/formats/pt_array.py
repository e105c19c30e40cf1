"""`.pt` files that hold a NumPy array: TRIDENT (0.3) gives `torch.save` an array, which it writes as a pickle.

`weights_only=True` refuses such a file, rightly: an array in a pickle is a call of NumPy's. But that call is always
written in the same words, so the words are compared here one by one with those that `torch.save` writes for a matrix
of floats, and the numbers, which stand there as text (each byte a character, in UTF-8), are read as data. Nothing in
the file is run, and a file with one other word in it is not read.
"""

import codecs
import hashlib
import math
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from milkit.data.formats.npy_file import native, opened
from milkit.errors import DataError

BLOCK = 1 << 18
"""Bytes that are decoded at a time."""
HEAD = 4096
"""Bytes within which the numbers begin."""
_BEGINS = (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n", b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n")
_ENCODE = [("GLOBAL", "_codecs encode"), ("TEXT", "b"), ("TEXT", "latin1"), ("TUPLE2", None), ("REDUCE", None)]
_BEFORE = [
    ("GLOBAL", "numpy ndarray"), ("INT", 0), ("TUPLE1", None), *_ENCODE, ("TUPLE3", None), ("REDUCE", None),
    ("MARK", None), ("INT", 1),
]  # fmt: skip
_DTYPE = [("NEWFALSE", None), ("NEWTRUE", None), ("TUPLE3", None), ("REDUCE", None), ("MARK", None), ("INT", 3)]
_STATE = [("NONE", None)] * 3 + [("INT", -1)] * 2 + [("INT", 0), ("TUPLE", None), ("BUILD", None)]
_NOTHING = [("GLOBAL", "__builtin__ bytes"), ("EMPTY_TUPLE", None), ("REDUCE", None), ("TUPLE", None), ("BUILD", None),
            ("STOP", None)]  # fmt: skip
_AFTER = [("GET", "latin1"), ("TUPLE2", None), ("REDUCE", None), ("TUPLE", None), ("BUILD", None), ("STOP", None)]


@dataclass(frozen=True)
class Pickled:
    """Where in a file the numbers of an array stand.

    Attributes:
        path: of the file.
        shape: of the array.
        dtype: of its values.
        fortran: whether columns lie together.
        start, length: first byte of the numbers within the file, and how many bytes they take there.
        checksum: of the part of the zip that they are in.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int
    length: int
    checksum: int

    @property
    def digest(self) -> str:
        """sha256 of shape, dtype and checksum: rows cannot be reached without reading all before them."""
        return hashlib.sha256(f"{self.shape} {self.dtype} {self.length} {self.checksum}".encode()).hexdigest()

    def values(self) -> np.ndarray:
        """The array.

        Raises:
            DataError: more or fewer numbers than the shape says, or no bytes; the file changed.
        """
        raw = np.empty(math.prod(self.shape) * self.dtype.itemsize, np.uint8)
        at = 0
        for block in self._decoded():
            if at + len(block) > len(raw):
                raise _damaged(self.path, f"more numbers than {self.shape}")
            raw[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
        if at < len(raw):
            raise _damaged(self.path, f"fewer numbers than {self.shape}")
        return native(raw.view(self.dtype).reshape(self.shape, order="F" if self.fortran else "C"))

    def _decoded(self) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        left = self.length
        try:
            with opened(self.path) as file:
                file.seek(self.start)
                while left:
                    block = file.read(min(BLOCK, left))
                    left -= len(block)
                    if not block:
                        return
                    yield decoder.decode(block, final=not left).encode("latin1")
        except (OSError, ValueError) as error:
            raise _damaged(self.path, str(error)) from None


def pickled_array(path: Path) -> Pickled | None:
    """The array that a file of `torch.save` holds in place of a tensor, None where it holds something else.

    Raises:
        DataError: it begins as one, but goes on otherwise or is damaged.
    """
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            found = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(found) != 1 or found[0].compress_type != zipfile.ZIP_STORED:
                return None
            with archive.open(found[0]):  # compares the directory's name with the part's own
                pass
            file.seek(found[0].header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
            place = found[0].header_offset + 30 + name + extra
            size = found[0].file_size
            file.seek(place)
            head = file.read(min(HEAD, size))
            begin = next((len(words) for words in _BEGINS if head.startswith(words)), 0)
            return _read(path, file, place, size, head, begin, found[0].CRC) if begin else None
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, ValueError, struct.error):
        return None  # what is wrong with it is said by whoever reads it as a tensor


def _read(path: Path, file: BinaryIO, place: int, size: int, head: bytes, begin: int, checksum: int) -> Pickled:
    words = _Words(path, head, begin)
    words.expect(_BEFORE)
    shape = words.shape()
    words.expect([("GLOBAL", "numpy dtype")])
    kind = words.one_of("TEXT", ("f2", "f4", "f8"))
    words.expect(_DTYPE)
    order = words.one_of("TEXT", ("<", ">"))
    words.expect(_STATE)
    fortran = words.one_of_names(("NEWFALSE", "NEWTRUE")) == "NEWTRUE"
    if 0 in shape:
        words.expect(_NOTHING)
        return Pickled(path, shape, np.dtype(order + kind), fortran, place, 0, checksum)
    words.expect([("GET", "_codecs encode")])
    start = words.at
    if head[start : start + 1] != b"X" or len(head) < start + 5:
        raise _strange(path)
    (length,) = struct.unpack("<I", head[start + 1 : start + 5])
    start += 5
    file.seek(place + start + length)
    tail = file.read(min(HEAD, max(0, size - start - length)))
    rest = _Words(path, tail, 0, words.memo)
    rest.expect(_AFTER)
    if rest.at != len(tail):
        raise _strange(path)
    dtype = np.dtype(order + kind)
    if length < math.prod(shape) * dtype.itemsize:  # a character takes a byte at least
        raise _damaged(path, f"fewer numbers than {shape}")
    return Pickled(path, shape, dtype, fortran, place + start, length, checksum)


class _Words:
    """The words of a pickle, one after another, with what they name; what is only put aside is passed over."""

    def __init__(self, path: Path, data: bytes, start: int, memo: dict[Any, Any] | None = None) -> None:
        self.path, self.data, self.at = path, data, start
        self.memo: dict[Any, Any] = {} if memo is None else memo
        self._last: Any = None

    def _next(self) -> tuple[str, Any]:
        """Kind and value of the next word; puts are noted."""
        while True:
            try:
                code, value, _ = next(pickletools.genops(self.data[self.at :]))
            except (ValueError, StopIteration, IndexError, struct.error) as error:
                raise _strange(self.path) from error
            self.at += _width(code.name, self.data[self.at :])
            if code.name in ("BINPUT", "LONG_BINPUT"):
                self.memo[value] = self._last
                continue
            kind = _KINDS.get(code.name, code.name)
            value = self.memo.get(value) if kind == "GET" else value
            self._last = value
            return kind, value

    def expect(self, wanted: "list[tuple[str, Any]]") -> None:
        """Pass over these words.

        Raises:
            DataError: another one comes.
        """
        for name, value in wanted:
            if self._next() != (name, value):
                raise _strange(self.path)

    def one_of(self, kind: str, values: tuple[str, ...]) -> str:
        """A word of this kind with one of these values."""
        found, value = self._next()
        if found != kind or value not in values:
            raise _strange(self.path)
        return str(value)

    def one_of_names(self, kinds: tuple[str, ...]) -> str:
        """A word of one of these kinds."""
        found, _ = self._next()
        if found not in kinds:
            raise _strange(self.path)
        return found

    def shape(self) -> tuple[int, ...]:
        """One or two numbers and the word that makes a tuple of them."""
        numbers: list[int] = []
        while True:
            kind, value = self._next()
            if kind == "INT" and len(numbers) < 2 and value >= 0:
                numbers.append(value)
            elif numbers and kind == f"TUPLE{len(numbers)}":
                return tuple(numbers)
            else:
                raise _strange(self.path)


_KINDS = {"BININT": "INT", "BININT1": "INT", "BININT2": "INT", "LONG1": "INT", "BINUNICODE": "TEXT", "BINGET": "GET",
          "LONG_BINGET": "GET"}  # fmt: skip
_FIXED = {"BININT": 5, "BININT1": 2, "BININT2": 3, "BINPUT": 2, "BINGET": 2, "LONG_BINPUT": 5, "LONG_BINGET": 5}


def _width(name: str, data: bytes) -> int:
    """Bytes of a word."""
    if name == "GLOBAL":
        return data.index(b"\n", data.index(b"\n") + 1) + 1
    if name == "BINUNICODE":
        return 5 + int.from_bytes(data[1:5], "little")
    return 2 + data[1] if name == "LONG1" else _FIXED.get(name, 1)


def _strange(path: Path) -> DataError:
    return DataError(
        f"{path} holds a NumPy array in a pickle that is not written as torch.save writes one, so milkit does not read "
        "it. Save it as a tensor (torch.save(torch.from_numpy(x), path)) or with numpy.save."
    )


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged or half-written ({why}); make or copy it anew, or remove it.")
