"""The one door to HDF5 files that others wrote: h5py's objects, of which nothing hostile in the file can be had.

What `opened` yields is an `h5py.File` whose groups, datasets and attributes look first and read then. It never leaves
the file (soft and external links, external storage and virtual datasets are refused), never makes room for more than
the file's size vouches for, and hands no type to the HDF5 library on which that is known to crash. So a layout is
written in plain h5py and need not think of any of this.
"""

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from h5py import h5i, h5l, h5o, h5r

from milkit.data.formats.guard_attributes import Inside
from milkit.data.formats.guard_bytes import Bytes
from milkit.data.formats.guard_dataset import Dataset
from milkit.errors import DataError

KEPT_MEMBERS = 8
"""Members of a file that stay open while it is: opening one costs a fifth of a millisecond."""
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


class Group(Inside, h5py.Group):
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
