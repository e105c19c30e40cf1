"""MATLAB's MAT files of level 5 (saved with -v6 or -v7), as far as data sets need them.

Written anew because the file is someone else's: nothing is allocated by what a header claims before it was held against
the bytes that are there, nothing of it is code, and what is not understood is passed over. Numbers, text, logical and
sparse matrices, cells, structs, and objects of old-style classes (which are structs with a name) are read; objects of
newer classes (MCOS), function handles and Java objects are not.

References:
    MATLAB documentation, "MAT-File Format" (R2018a): data elements, sections "Data element format" and "miMATRIX".
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.datasets.assemble import room_for
from milkit.errors import DataError

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXT = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, OBJECT, CHAR, SPARSE = 1, 2, 3, 4, 5
NUMERIC = range(6, 16)
DEEPEST = 12
"""Cells and structs inside one another."""


@dataclass(frozen=True)
class Unread:
    """A value that is not read."""

    what: str


@dataclass(frozen=True)
class Fields:
    """One struct or old-style object: values by field name."""

    values: Mapping[str, Any]
    of_class: str = ""


class _Broken(Exception):
    """The bytes are not what they should be."""


def is_mat5(start: bytes) -> bool:
    """Whether a file that begins so is a MAT file of level 5."""
    return len(start) >= HEADER and start[126:128] in (b"IM", b"MI") and start[:4] != b"\0\0\0\0"


def read_mat5(path: Path) -> dict[str, Any]:
    """The variables of a file by name: arrays [rows, columns ...], lists (cells), `Fields` (structs), text, `Unread`.

    A cell array is a flat list in MATLAB's (column-major) order; a struct array a list of `Fields`, a single struct
    one `Fields`; a sparse matrix is made dense where there is room for it (`assemble.room_for`).

    Raises:
        DataError: it is no such file, is cut short, or claims more than it holds.
    """
    content = path.read_bytes()
    if not is_mat5(content):
        raise DataError(f"{path} is not a MATLAB file of level 5 (saved with -v6 or -v7).")
    order = "<" if content[126:128] == b"IM" else ">"
    reader = _Reader(order, room_for(len(content)))
    found: dict[str, Any] = {}
    try:
        for kind, data in reader.elements(memoryview(content)[HEADER:]):
            if kind == MATRIX:
                name, value = reader.matrix(data)
                found[name or "(unnamed)"] = value
    except (_Broken, zlib.error, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); get it anew, or save it again in MATLAB.") from None
    return found


class _Reader:
    """Reads elements of one byte order."""

    def __init__(self, order: str, room: int) -> None:
        self.order, self.room = order, room

    def elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Kind and bytes of each element; compressed ones are inflated."""
        at = 0
        while len(data) - at >= 8:
            kind, part, at = self._element(data, at, padded=True)
            if kind == COMPRESSED:
                inflated = self._inflate(part)
                kind, part, _ = self._element(inflated, 0, padded=False)
            yield kind, part

    def _int(self, data: memoryview, at: int) -> int:
        return int(np.frombuffer(data, f"{self.order}u4", 1, at)[0])

    def _element(self, data: memoryview, at: int, padded: bool) -> tuple[int, memoryview, int]:
        """Kind, bytes, and where the next one begins."""
        if len(data) - at < 8:
            raise _Broken(f"an element begins {len(data) - at} bytes before the end")
        first = self._int(data, at)
        if first >> 16:  # a small element: size, kind and up to four bytes in eight
            kind, size = first & 0xFFFF, first >> 16
            if size > 4:
                raise _Broken(f"a small element of {size} bytes")
            return kind, data[at + 4 : at + 4 + size], at + 8
        size = self._int(data, at + 4)
        if size > len(data) - at - 8:
            raise _Broken(f"an element claims {size} bytes, {len(data) - at - 8} are left")
        end = at + 8 + size
        # compressed elements are not padded, all others are to eight bytes
        return first, data[at + 8 : end], end if first == COMPRESSED or not padded else end + -size % 8

    def _inflate(self, part: memoryview) -> memoryview:
        inflater = zlib.decompressobj()
        out = inflater.decompress(part, self.room)
        if not inflater.eof:
            raise _Broken(f"a compressed element does not end, or grows beyond {self.room} bytes")
        self.room -= len(out)
        return memoryview(out)

    def matrix(self, data: memoryview, depth: int = 0) -> tuple[str, Any]:
        """Name and value of an array."""
        if len(data) == 0:
            return "", np.zeros((0, 0))
        if depth > DEEPEST:
            raise _Broken("cells and structs too deep inside one another")
        parts = list(self._parts(data))
        if len(parts) < 2 or len(parts[0][1]) < 8:
            raise _Broken("an array without flags")
        flags = self._int(parts[0][1], 0)
        kind, logical, imaginary = flags & 0xFF, bool(flags & 0x200), bool(flags & 0x800)
        if kind not in (CELL, STRUCT, OBJECT, CHAR, SPARSE, *NUMERIC):
            name = bytes(parts[1][1]).decode("latin-1") if parts[1][0] == 1 else ""
            return name, Unread(f"an object of MATLAB (array class {kind})")
        if len(parts) < 3:
            raise _Broken("an array without name")
        shape = tuple(int(n) for n in self._numbers(*parts[1]))
        name = bytes(parts[2][1]).decode("latin-1")
        if any(n < 0 for n in shape) or len(shape) < 2:
            raise _Broken(f"an array of shape {shape}")
        rest = parts[3:]
        if imaginary:
            return name, Unread("complex numbers")
        if kind == CELL:
            return name, self._cells(rest, shape, depth)
        if kind in (STRUCT, OBJECT):
            return name, self._structs(rest, shape, depth, kind == OBJECT)
        if kind == CHAR:
            return name, self._text(rest, shape)
        if kind == SPARSE:
            return name, self._sparse(rest, shape)
        return name, self._full(rest, shape, logical)

    def _parts(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        at = 0
        while at < len(data):
            kind, part, at = self._element(data, at, padded=True)
            yield kind, part

    def _numbers(self, kind: int, part: memoryview) -> np.ndarray:
        if kind not in NUMBERS:
            raise _Broken(f"numbers of kind {kind}")
        dtype = np.dtype(self.order + NUMBERS[kind])
        return np.frombuffer(part, dtype, len(part) // dtype.itemsize)

    def _full(self, rest: list[tuple[int, memoryview]], shape: tuple[int, ...], logical: bool) -> np.ndarray:
        values = self._numbers(*rest[0]) if rest else np.zeros(0)
        if len(values) != _size(shape):
            raise _Broken(f"an array of shape {shape} with {len(values)} values")
        array = values.reshape(shape, order="F")
        array = array.astype(array.dtype.newbyteorder("="))
        return array.astype(bool) if logical else array

    def _text(self, rest: list[tuple[int, memoryview]], shape: tuple[int, ...]) -> list[str]:
        """Rows of a character matrix."""
        kind, part = rest[0] if rest else (1, memoryview(b""))
        if kind in TEXT:
            encoding = TEXT[kind] + ("" if kind == 16 else "-le" if self.order == "<" else "-be")
            letters = list(bytes(part).decode(encoding))
        else:
            letters = [chr(int(code)) for code in self._numbers(kind, part)]
        if len(letters) != _size(shape):
            raise _Broken(f"text of shape {shape} with {len(letters)} letters")
        rows = shape[0]
        return ["".join(letters[row::rows]).rstrip() for row in range(rows)] if letters else [""]

    def _sparse(self, rest: list[tuple[int, memoryview]], shape: tuple[int, ...]) -> Any:
        if len(rest) < 3 or len(shape) != 2:
            raise _Broken("a sparse matrix with parts missing")
        row, starts, values = (self._numbers(*part) for part in rest[:3])
        if 8 * _size(shape) > self.room:
            return Unread(f"a sparse matrix of shape {shape}, too large to be made dense")
        counts = np.diff(starts)
        used = int(starts[-1]) if len(starts) else 0
        fits = len(starts) == shape[1] + 1 and (counts >= 0).all() and starts[0] == 0
        fits = fits and 0 <= used <= min(len(row), len(values)) and bool((row[:used] < shape[0]).all())
        if not fits or bool((row[:used] < 0).any()):
            raise _Broken("a sparse matrix whose indices do not fit")
        dense = np.zeros(shape)
        dense[row[:used], np.repeat(np.arange(shape[1]), counts)] = values[:used]
        return dense

    def _cells(self, rest: list[tuple[int, memoryview]], shape: tuple[int, ...], depth: int) -> list[Any]:
        if len(rest) != _size(shape):
            raise _Broken(f"a cell array of shape {shape} with {len(rest)} cells")
        return [self.matrix(part, depth + 1)[1] for _, part in rest]

    def _structs(self, rest: list[tuple[int, memoryview]], shape: tuple[int, ...], depth: int, named: bool) -> Any:
        of_class = ""
        if named:
            of_class, rest = bytes(rest[0][1]).decode("latin-1") if rest else "", rest[1:]
        if len(rest) < 2:
            raise _Broken("a struct without field names")
        width = int(self._numbers(*rest[0])[0])
        text = bytes(rest[1][1])
        if width <= 0 or len(text) % width:
            raise _Broken(f"field names of {width} letters in {len(text)} bytes")
        names = [text[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(text), width)]
        values = rest[2:]
        count = _size(shape)
        if len(values) != count * len(names):
            raise _Broken(f"{count} structs of {len(names)} fields with {len(values)} values")
        read = [self.matrix(part, depth + 1)[1] for _, part in values]
        structs = [
            Fields(dict(zip(names, read[i * len(names) :][: len(names)], strict=True)), of_class) for i in range(count)
        ]
        return structs[0] if count == 1 else structs


def _size(shape: tuple[int, ...]) -> int:
    """Number of values; Python's whole numbers do not overflow."""
    size = 1
    for n in shape:
        size *= n
    return size
