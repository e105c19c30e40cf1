"""What the guarded objects of an HDF5 file share: the way to their file, and attributes that are looked at first."""

import math
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import h5py
import numpy as np
from h5py import h5t

from milkit.errors import DataError

NUMBERS = (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID, h5t.TypeBitfieldID)
"""Types that the HDF5 library reads safely, whatever the file."""
MOST_VALUES = 65_536
"""Numbers in one attribute; HDF5's own limit for ordinary ones is 64 KiB."""
MOST_TEXTS = 16
"""Texts of variable length in one attribute: each may be as long as the file, and all may be the same bytes."""
_NONE = object()


@lru_cache(maxsize=32)
def _in_memory(dtype: np.dtype) -> Any:
    """HDF5's name for numbers as NumPy holds them."""
    return h5t.py_create(dtype)


class Inside:
    """What all objects of a file share: its root, through which they are reached."""

    _root: Any

    @property
    def file(self) -> Any:
        """The file; not a new handle without these checks."""
        return self._root

    @cached_property
    def attrs(self) -> "Attributes":
        """Attributes that are checked before they are read."""
        return Attributes(self)

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
        kind, shape = attribute.get_type(), attribute.shape
        if not self._readable(kind, shape):
            return _NONE
        if not isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID)):
            return super().__getitem__(name)
        # what h5py does with numbers, without opening the attribute or making its type again
        value = np.empty(shape, kind.dtype)
        attribute.read(value, _in_memory(value.dtype))
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
    def _readable(kind: Any, shape: tuple[int, ...] | None) -> bool:
        if shape is None:
            return False
        count = math.prod(shape)
        if isinstance(kind, h5t.TypeStringID):
            return bool(count <= MOST_TEXTS if kind.is_variable_str() else count * kind.get_size() <= MOST_VALUES)
        return isinstance(kind, NUMBERS) and count <= MOST_VALUES
