"""`.npz` files of others: a zip of `.npy`; no member is opened that claims to grow beyond the bound, no pickle."""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from milkit.data.formats.guard_dataset import EXPANSION, ROOM
from milkit.data.formats.npy_file import Npy, head, native, opened
from milkit.errors import DataError

BLOCK = 1 << 18
"""Bytes that are unpacked at a time."""


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except DataError:
        raise
    except Exception as error:  # zipfile and zlib raise many things on damage
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"{path} cannot be read, it is damaged or half-written ({text}); make or copy it anew, or remove it."
        ) from None


def names(path: Path) -> tuple[str, ...]:
    """Names of the arrays, in the order of the file."""
    with _archive(path) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))


def member(path: Path, name: str) -> Npy:
    """Shape and dtype of one array, without its values; `start` counts from its own beginning.

    Raises:
        DataError: it is missing, damaged, a pickle, or claims more than the bound.
    """
    with _archive(path) as archive:
        return _looked_at(archive, path, name)


def values(path: Path, name: str) -> np.ndarray:
    """One array.

    Raises:
        DataError: as `member`.
    """
    with _archive(path) as archive:
        found = _looked_at(archive, path, name)
        with archive.open(f"{name}.npy") as file:
            head(file, path)
            raw = np.empty(math.prod(found.shape) * found.dtype.itemsize, np.uint8)
            at = 0
            while at < len(raw) and (block := file.read(min(BLOCK, len(raw) - at))):
                raw[at : at + len(block)] = np.frombuffer(block, np.uint8)
                at += len(block)
        if at < len(raw):
            raise DataError(f"{path}: array {name!r} holds fewer values than it claims; it is damaged.")
    return native(raw.view(found.dtype).reshape(found.shape, order="F" if found.fortran else "C"))


def _looked_at(archive: zipfile.ZipFile, path: Path, name: str) -> Npy:
    if f"{name}.npy" not in archive.namelist():
        raise DataError(f"{path}: no array {name!r}; it holds {archive.namelist()[:6]}.")
    entry = archive.getinfo(f"{name}.npy")
    size = path.stat().st_size
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path} is compressed in a way that NumPy does not; save it with numpy.savez.")
    if entry.file_size > EXPANSION * size + ROOM:
        raise DataError(
            f"{path}: array {name!r} claims {entry.file_size:,} bytes in a file of {size:,}; features do not shrink "
            "like that, so it is damaged or made to fill the memory. Write it without compression (numpy.savez)."
        )
    with archive.open(entry) as file:
        shape, fortran, dtype = head(file, f"{path}, {name!r}")
        start = file.tell()
    if math.prod(shape) * dtype.itemsize > entry.file_size - start:
        raise DataError(f"{path}: array {name!r} claims {shape} {dtype}, more than it holds; it is damaged.")
    return Npy(path, shape, dtype, fortran, start)
