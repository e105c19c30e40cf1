"""The one door to HDF5 files that others wrote: h5py's objects, of which nothing hostile in the file can be had.

What `opened` yields is an `h5py.File` whose groups, datasets and attributes look first and read then. It never leaves
the file (soft and external links, external storage and virtual datasets are refused), never makes room for more than
the file's size vouches for, and hands no type to the HDF5 library on which that is known to crash. So a layout is
written in plain h5py and need not think of any of this.

Bounds. Uncompressed data never claim more than is stored. Compressed data may grow by `EXPANSION` x the file's size
+ `ROOM`: features are noise to gzip (half floats shrink by less than 2, floats that were halves by about 3), while
positions, which shrink well, are small.
"""

import contextlib
import math
import os
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5i, h5l, h5o, h5r, h5t

from milkit.data.formats.guard_bytes import Bytes
from milkit.data.formats.guard_chunks import KNOWN_FILTERS, filters, read_rows
from milkit.errors import DataError

EXPANSION = 4
ROOM = 64 << 20
"""Bytes that compressed data may take beyond `EXPANSION` x the size of the file."""
MOST_VALUES = 65_536
"""Numbers in one attribute; HDF5's own limit for ordinary ones is 64 KiB."""
MOST_TEXTS = 16
"""Texts of variable length in one attribute: each may be as long as the file, and all may be the same bytes."""
_TEXT_POINTER = 16
"""Bytes of a text of variable length in its dataset: its length, and where in a heap it lies."""
KEPT_MEMBERS = 8
"""Members of a file that stay open while it is: opening one costs a fifth of a millisecond."""
_FEW = 1 << 20
"""Bytes of some rows that may be read before it is known whether all rows are stored."""
_MANY = 256
"""Chunks."""
BROKEN = (
    *(OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError, MemoryError),
    *(zlib.error, EOFError),
)
"""What h5py raises on damage, and what a layout's reader may when a file is not as its layout says."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading, closed afterwards: no handle lives long enough to be shared by a fork.

    Raises:
        DataError: a file that is missing, cut short, or no HDF5; one whose content cannot be read or is not what its
            layout says; one that claims more than it holds, or that points out of itself.
    """
    try:
        with guarded(path) as file:
            yield file
    except BROKEN as error:
        raise DataError(_why(path, error)) from error


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[h5py.File]:
    """As `opened`, for who has words of their own for damage.

    Raises:
        DataError: a file that claims more than it holds, or that points out of itself.
        Exception: any of `BROKEN`.
    """
    # no lock: the tool that wrote the file is done, and locks fail on much network storage
    with contextlib.closing(Bytes(path)) as held, File(path, held) as file:
        yield file


def _why(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, PermissionError):
        return f"{path} may not be read by this user ({error.strerror or error}); ask its owner."
    if not path.exists():
        return f"{path} is gone; it was there when the folder was opened."
    if path.stat().st_size == 0:
        return f"{path} is an empty file; make it anew, or remove it."
    if "truncated file" in text or "bad object header" in text or "addr overflow" in text:
        return f"{path} is half-written or cut short; make or copy it anew, or remove it."
    if "signature not found" in text:
        return f"{path} is not an HDF5 file, or a half-written one; make or copy it anew, or remove it."
    return f"{path} cannot be read, it is damaged or half-written ({text}); make or copy it anew, or remove it."


class _Inside:
    """What all objects of a file share: its root, through which they are reached."""

    _root: "File"
    _attributes: "Attributes | None" = None

    @property
    def file(self) -> "File":
        """The file; not a new handle without these checks."""
        return self._root

    @cached_property
    def attrs(self) -> "Attributes":
        """Attributes that are checked before they are read."""
        if self._attributes is None:
            self._attributes = Attributes(self)
        return self._attributes

    def _bad(self, what: str) -> DataError:
        return DataError(f"{self._root.path}: {what}")


class Attributes(h5py.AttributeManager):
    """Attributes: numbers and texts, of bounded number; what is something else is as if it were not there."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        self._values: dict[str, Any] = {}

    def _value(self, name: str) -> Any:
        """One of them, read once: readers ask often, each for few; `_NONE` where it is not there or cannot be read."""
        if name not in self._values:
            self._values[name] = self._read(name) if super().__contains__(name) else _NONE
        return self._values[name]

    def _read(self, name: str) -> Any:
        attribute = self.get_id(name)
        if not self._readable(attribute):
            return _NONE
        if not isinstance(attribute.get_type(), (h5t.TypeIntegerID, h5t.TypeFloatID)):
            return super().__getitem__(name)
        # what h5py does with numbers, without opening the attribute again
        value = np.empty(attribute.shape, attribute.dtype)
        attribute.read(value)
        return value[()] if value.ndim == 0 else value

    def __contains__(self, name: object) -> bool:
        """Whether there is such an attribute, of a kind that can be read."""
        return isinstance(name, str) and self._value(name) is not _NONE

    def __iter__(self) -> Iterator[str]:
        """Names of the attributes that can be read."""
        return iter([name for name in super().__iter__() if name in self])

    def __len__(self) -> int:
        """How many can be read."""
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Any:
        """The value; text as `str`, numbers as NumPy's."""
        value = self._value(name)
        if value is _NONE:
            raise KeyError(f"no attribute {name!r}")
        return value

    @staticmethod
    def _readable(attribute: Any) -> bool:
        kind, shape = attribute.get_type(), attribute.shape
        if shape is None:
            return False
        count = math.prod(shape)
        if isinstance(kind, h5t.TypeStringID):
            return bool(count <= MOST_TEXTS if kind.is_variable_str() else count * kind.get_size() <= MOST_VALUES)
        return isinstance(kind, _NUMBERS) and count <= MOST_VALUES


_NONE = object()
_NUMBERS = (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID, h5t.TypeBitfieldID)


class Group(_Inside, h5py.Group):
    """A group whose members lie in this file."""

    def __init__(self, root: "File", identifier: Any) -> None:
        super().__init__(identifier)
        self._root = root

    def __getitem__(self, name: Any) -> Any:
        """A member, by name or by reference."""
        return self._get(name)

    def _get(self, name: Any, lapl: Any = None) -> Any:
        if isinstance(name, h5r.Reference):
            found = h5r.dereference(name, self.id)
            if not found or not h5i.get_name(found):
                raise self._bad("it refers to something that is not, or no longer, in it; it is damaged. Get it anew.")
        elif isinstance(name, str | bytes):
            self._check_links(name)
            found = h5o.open(self.id, self._e(name), lapl=self._lapl)
        else:
            raise TypeError(f"members have names, not {name!r}")
        kind = h5i.get_type(found)
        if kind == h5i.GROUP:
            return Group(self._root, found)
        if kind == h5i.DATASET:
            return Dataset(self._root, found)
        raise self._bad(f"{name!r} is neither a group nor a dataset; the file is damaged or of another tool.")

    def get(self, name: Any, default: Any = None, getclass: bool = False, getlink: bool = False, **_: Any) -> Any:
        """A member, its class or its link; `default` where there is none."""
        link = self._link(name)
        if link is None:
            return default
        if getlink:
            return type(link) if getclass else link
        return type(self[name]) if getclass else self[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is a link of this name; where it points is looked at when it is followed."""
        return isinstance(name, str | bytes) and self._link(name) is not None

    def _link(self, name: str | bytes) -> Any:
        """The link of the last part of a path, once those before it were found to be hard; None if there is none."""
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
        group: Any = self._root if text.startswith("/") else self
        parts = [part for part in text.split("/") if part not in ("", ".")]
        link: Any = h5py.HardLink()
        for i, part in enumerate(parts):
            if not isinstance(group, h5py.Group) or not group.id.links.exists(self._e(part)):
                return None
            link = group._one_link(self._e(part))
            if i + 1 < len(parts):
                group = group[part]
        return link

    def _one_link(self, part: bytes) -> Any:
        kind = self.id.links.get_info(part).type
        if kind == h5l.TYPE_HARD:
            return h5py.HardLink()
        if kind == h5l.TYPE_SOFT:
            return h5py.SoftLink(os.fsdecode(self.id.links.get_val(part)))
        if kind == h5l.TYPE_EXTERNAL:
            return h5py.ExternalLink(*map(os.fsdecode, self.id.links.get_val(part)))
        raise self._bad(f"{part!r} is a link of an unknown kind; the file is damaged or of another tool.")

    def _check_links(self, name: str | bytes) -> None:
        link = self._link(name)
        if link is None:
            raise KeyError(f"no {name!r}; it holds {sorted(self)[:6]}")
        if not isinstance(link, h5py.HardLink):
            where = getattr(link, "filename", None)
            raise self._bad(
                f"{name!r} is a link{f' to the file {where!r}' if where else f' to {link.path!r}'}; milkit follows "
                "none, since a file of features must hold its own. Copy the data into it (h5repack or h5copy)."
            )


class File(Group, h5py.File):
    """An open file; see `opened`.

    Attributes:
        path: of the file.
        size: its bytes.
    """

    def __init__(self, path: Path, held: Bytes) -> None:
        h5py.File.__init__(self, held, "r", locking=False)
        self._root, self._held, self.path, self.size = self, held, path, held.size
        self._kept: dict[str, Any] = {}

    def _get(self, name: Any, lapl: Any = None) -> Any:
        """A member; the first few are kept, since recognising and reading a file asks for the same ones."""
        if not isinstance(name, str):
            return super()._get(name, lapl)
        if name in self._kept:
            return self._kept[name]
        found = super()._get(name, lapl)
        if len(self._kept) < KEPT_MEMBERS:
            self._kept[name] = found
        return found

    def _link(self, name: str | bytes) -> Any:
        """The link of a member, which was looked at if the member is kept."""
        return h5py.HardLink() if name in self._kept else super()._link(name)

    @property
    def filename(self) -> str:
        """The path."""
        return str(self.path)

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Some bytes as they lie in the file."""
        return self._held.at(offset, count)

    @contextlib.contextmanager
    def unwatched(self, so: bool) -> Iterator[None]:
        """While numbers are read, nobody looks for damaged heaps of text among them."""
        self._held.watched = not so
        try:
            yield
        finally:
            self._held.watched = True

    @property
    def room(self) -> int:
        """Bytes that compressed data of this file may take."""
        return EXPANSION * self.size + ROOM


class Dataset(_Inside, h5py.Dataset):
    """A dataset whose values lie in this file, and which claims no more than it holds."""

    def __init__(self, root: File, identifier: Any) -> None:
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
            values = read_rows(self, rows.start, rows.stop, self._root.room)[rest]
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
        room = self._root.room if self._filters else self._root.size
        claim, chunks = self._claim(), self.chunks
        chunk = math.prod(chunks) * self.id.get_type().get_size() if chunks else 0
        # the last chunk of uncompressed data may be larger than what is in it
        if claim > room or chunk > room + (1 << 20):
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
        if total > self._root.room:
            raise self._bad(f"{self.name!r} claims {total:,} bytes of text in a file of {self._root.size:,}; damaged.")


def _is_record(kind: Any) -> bool:
    """Whether a compound is of a few numbers and references, as Julia writes a bit array."""
    if not isinstance(kind, h5t.TypeCompoundID) or kind.get_nmembers() > MOST_TEXTS:
        return False
    members = [kind.get_member_type(i) for i in range(kind.get_nmembers())]
    return all(isinstance(member, (*_NUMBERS, h5t.TypeReferenceID)) for member in members)


def _plain(kind: Any) -> bool:
    """Whether the library reads a type safely: numbers, text, references, and records of numbers and references."""
    if isinstance(kind, h5t.TypeCompoundID):
        members = [kind.get_member_type(i) for i in range(kind.get_nmembers())]
        return all(isinstance(member, (*_NUMBERS, h5t.TypeReferenceID)) for member in members)
    if isinstance(kind, h5t.TypeOpaqueID):
        return bool(kind.get_size() == 2)  # how h5py writes bfloat16
    return isinstance(kind, (*_NUMBERS, h5t.TypeStringID, h5t.TypeReferenceID))


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
