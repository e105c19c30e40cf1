"""NumPy's `.npy` and `.npz` of others: no pickle, and no more room than the file's own bytes vouch for."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.formats.guard_bytes import regular
from milkit.data.formats.npy_file import head
from milkit.errors import DataError, MilkitError

EXPANSION = 4
ROOM = 64 << 20
"""Bytes that a compressed `.npz` may take beyond `EXPANSION` x its size; as for compressed HDF5."""
MOST_MEMBERS = 1000
"""Arrays in one `.npz`."""


def open_npy(path: Path) -> np.ndarray:
    """The array of a `.npy` file, as a read-only memory map: its numbers are read when they are touched.

    Raises:
        DataError: no NumPy file, one that holds pickled objects, or one that claims more than it holds.
    """
    try:
        with open(regular(path), "rb") as file:
            shape, dtype, columns_first = _head(path, file)
            start = file.tell()
            size = file.seek(0, io.SEEK_END)
        count = math.prod(shape)
        if count * dtype.itemsize > size - start:
            raise DataError(_claims(path, shape, dtype, size - start))
        if not count:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape, "F" if columns_first else "C").view(np.ndarray)
    except MilkitError:
        raise
    except Exception as error:  # NumPy raises what its parser of headers happens to meet
        raise _damaged(path, error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file, by name.

    Raises:
        DataError: no such file, pickled objects, members that claim more than they hold, a decompression bomb.
    """
    try:
        with open(regular(path), "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = file.seek(0, io.SEEK_END)
            room = EXPANSION * size + ROOM
            if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > room:
                raise DataError(
                    f"{path} claims {len(members)} arrays of {sum(m.file_size for m in members):,} bytes, but the file "
                    f"has {size:,}; it is damaged or hostile. Remove it."
                )
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise DataError(f"{path} is compressed in a way that NumPy does not; save it with numpy.savez.")
            return {member.filename.removesuffix(".npy"): _member(path, archive, member) for member in members}
    except MilkitError:
        raise
    except Exception as error:  # so does zipfile
        raise _damaged(path, error) from error


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array; zipfile itself stops at the size that the member claims, and compares its checksum."""
    with archive.open(member) as file:
        shape, dtype, columns_first = _head(path, file)
        claimed = math.prod(shape) * dtype.itemsize
        if claimed > member.file_size:
            raise DataError(_claims(path, shape, dtype, member.file_size))
        values = np.frombuffer(file.read(claimed), dtype)
    return values.reshape(shape, order="F" if columns_first else "C")


def _head(path: Path, file: Any) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, dtype, and whether the first index runs fastest; the file then stands at the first number."""
    shape, columns_first, dtype = head(file, path)
    if dtype.kind not in "fiubSUV" or not dtype.itemsize:
        raise DataError(f"{path} holds {dtype}; expected numbers.")
    return shape, dtype, columns_first


def _claims(path: Path, shape: tuple[int, ...], dtype: np.dtype, held: int) -> str:
    return (
        f"{path} claims {math.prod(shape) * dtype.itemsize:,} bytes (shape {shape}), but holds {held:,}; it is "
        "half-written or damaged. Make it anew, or remove it."
    )


def _damaged(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} is gone; it was there when the folder was opened.")
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{path} cannot be read, it is damaged or half-written ({text}); make or copy it anew.")
