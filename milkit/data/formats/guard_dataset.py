"""Datasets of an HDF5 file that others wrote: their values lie in it, and they claim no more than it holds.

Bounds. Uncompressed data never claim more than is stored. Compressed data may grow by `EXPANSION` x the file's size
+ `ROOM`: features are noise to gzip (half floats shrink by less than 2, floats that were halves by about 3), while
positions, which shrink well, are small.
"""

import math
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t

from milkit.data.formats.guard_attributes import NUMBERS, Inside
from milkit.data.formats.guard_chunks import KNOWN_FILTERS, filters, read_rows

EXPANSION = 4
ROOM = 64 << 20
"""Bytes that compressed data may take beyond `EXPANSION` x the size of the file."""
_TEXT_POINTER = 16
"""Bytes of a text of variable length in its dataset: its length, and where in a heap it lies."""
_FEW = 1 << 20
"""Bytes of some rows that may be read before it is known whether all rows are stored."""
_MANY = 256
"""Chunks."""


class Dataset(Inside, h5py.Dataset):
    """A dataset whose values lie in this file, and which claims no more than it holds."""

    def __init__(self, root: Any, identifier: Any) -> None:
        super().__init__(identifier)
        self._root = root
        self._checked = False
        settings = self._dcpl
        self._filters = filters(self)
        if settings.get_layout() == h5d.VIRTUAL:
            raise self._bad(f"{self.name!r} is a virtual dataset, a view of other files; copy the data into one file.")
        if settings.get_external_count():
            raise self._bad(f"{self.name!r} keeps its values in another file; copy them into this one (h5repack).")
        self._check_claim()

    def __getitem__(self, args: Any, new_dtype: Any = None) -> Any:
        """Values, as h5py gives them."""
        self._check_stored(args)
        if self._filters and self.shape:
            rows, rest = _rows(args, self.shape[0])
            values = read_rows(self, rows.start, rows.stop, self._room)[rest]
            return values if new_dtype is None else np.asarray(values, new_dtype)
        if self._is_many():
            with h5py.File(self._root.path, "r", locking=False) as file:
                return file[self.name].__getitem__(args, new_dtype=new_dtype)
        with self._root.unwatched(self.dtype.kind != "O"):
            return super().__getitem__(args, new_dtype=new_dtype)

    def read_direct(self, dest: np.ndarray, source_sel: Any = None, dest_sel: Any = None) -> None:
        """Read into an array."""
        self._check_stored()
        if self._filters and self.shape:
            dest[() if dest_sel is None else dest_sel] = self[() if source_sel is None else source_sel]
        else:
            with self._root.unwatched(self.dtype.kind != "O"):
                super().read_direct(dest, source_sel, dest_sel)

    @property
    def _room(self) -> int:
        """Bytes that compressed data of the file may take."""
        return int(EXPANSION * self._root.size + ROOM)

    def _is_many(self) -> bool:
        """Whether numbers lie in so many chunks that the library's own way of reading is much faster than ours.

        It is safe for them: the links to them were looked at, and they have no heap.
        """
        if not self.chunks or self.dtype.kind == "O" or not self.name:
            return False
        return math.prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True)) > _MANY

    def _claim(self) -> int:
        """Bytes that must be stored if all is there; of texts of variable length, their pointers."""
        shape, kind = self.shape, self.id.get_type()
        text = isinstance(kind, h5t.TypeStringID) and kind.is_variable_str()
        return 0 if shape is None else math.prod(shape) * (_TEXT_POINTER if text else max(1, kind.get_size()))

    def _check_claim(self) -> None:
        """What can be told without walking the chunks: a claim against the size of the whole file."""
        room = self._room if self._filters else self._root.size
        claim, chunks = self._claim(), self.chunks
        chunk = math.prod(chunks) * self.id.get_type().get_size() if chunks else 0
        # an empty dataset has no chunk yet; the last one of uncompressed data may be larger than what is in it
        if claim > room or (claim and chunk > room + (1 << 20)):
            raise self._bad(
                f"{self.name!r} claims {claim:,} bytes (shape {self.shape}), but the file has "
                f"{self._root.size:,}; it is half-written or damaged. Make it anew, or remove it."
            )

    def _check_stored(self, args: Any = ()) -> None:
        """Raise unless what is selected is stored, of a type and in a way that can be read safely."""
        if self._checked:
            return
        kind = self.id.get_type()
        text = isinstance(kind, h5t.TypeStringID) and kind.is_variable_str()
        self._check_kind(kind)
        if self.shape and self.chunks and not text:
            rows, _ = _rows(args, self.shape[0])
            if self._claim() // max(1, self.shape[0]) * (rows.stop - rows.start) <= _FEW:
                return  # to know whether all is there, all chunks must be walked
        if self._claim() and not self._filters:
            self._check_all_there()
        if text:
            self._check_texts()
        self._checked = True

    def _check_kind(self, kind: Any) -> None:
        strange = [name for code, name in self._filters if code not in KNOWN_FILTERS]
        if strange:
            raise self._bad(
                f"{self.name!r} is compressed by {', '.join(strange)}, which milkit does not read; write it with gzip "
                "or without (h5repack -f NONE)."
            )
        if not _plain(kind):
            raise self._bad(f"{self.name!r} holds {self.dtype}, neither numbers nor text; the file is of another kind.")

    def _check_all_there(self) -> None:
        stored, offset = self.id.get_storage_size(), self.id.get_offset()
        if stored < self._claim() or (offset is not None and offset + stored > self._root.size):
            raise self._bad(
                f"{self.name!r} claims {self._claim():,} bytes (shape {self.shape}), but {stored:,} are stored; it "
                "is half-written or damaged. Make it anew, or remove it."
            )

    def _check_texts(self) -> None:
        """Texts may all point at the same long one, so the sum of their lengths is bounded before any is read."""
        offset = self.id.get_offset()
        if offset is None and self._claim():
            raise self._bad(
                f"{self.name!r} holds text in pieces, which milkit does not read; write it in one (contiguous)."
            )
        total = 0
        for start in range(0, self._claim(), _TEXT_POINTER << 16):
            block = self._root.bytes_at(offset + start, min(_TEXT_POINTER << 16, self._claim() - start))
            total += int(np.frombuffer(block, "<u4")[::4].sum(dtype=np.int64))
        if total > self._room:
            raise self._bad(f"{self.name!r} claims {total:,} bytes of text in a file of {self._root.size:,}; damaged.")


def _plain(kind: Any) -> bool:
    """Whether the library reads a type safely: numbers, text, references, and records of numbers and references."""
    if isinstance(kind, h5t.TypeCompoundID):
        members = [kind.get_member_type(i) for i in range(kind.get_nmembers())]
        return all(isinstance(member, (*NUMBERS, h5t.TypeReferenceID)) for member in members)
    if isinstance(kind, h5t.TypeOpaqueID):
        return bool(kind.get_size() == 2)  # how h5py writes bfloat16
    return isinstance(kind, (*NUMBERS, h5t.TypeStringID, h5t.TypeReferenceID))


def _rows(args: Any, n: int) -> tuple[slice, Any]:
    """The rows that a selection needs, and the selection among them."""
    args = args if isinstance(args, tuple) else (args,)
    first = args[0] if args else slice(None)
    if isinstance(first, int | np.integer) and -n <= first < n:
        row = int(first) % n
        return slice(row, row + 1), (0, *args[1:])
    if isinstance(first, slice) and first.step in (None, 1):
        start, stop, _ = first.indices(n)
        return slice(start, max(start, stop)), (slice(None), *args[1:])
    return slice(0, n), args
