"""`.npy` files of others: what they claim is held against their size before anything is read; no pickle."""

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from milkit.data.formats.guard_bytes import regular
from milkit.data.formats.header import SAMPLED
from milkit.errors import DataError

MAGIC = b"\x93NUMPY"
MOST_HEAD = 65_536
"""Bytes; NumPy itself takes no more than 10,000."""
BFLOAT16 = "V2"
"""How NumPy saves bfloat16, a type that it does not know: two bytes of something."""


@dataclass(frozen=True)
class Npy:
    """Where and of what kind the values of an array are.

    Attributes:
        path: of the file.
        shape: of the array.
        dtype: of its values.
        fortran: whether columns lie together.
        start: byte at which the values begin.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    def values(self) -> np.ndarray:
        """The whole array.

        Raises:
            DataError: the file was cut since it was looked at.
        """
        with opened(self.path) as file:
            file.seek(self.start)
            count = math.prod(self.shape)
            flat = np.fromfile(file, self.dtype, count)
        if len(flat) != count:
            raise DataError(f"{self.path} changed since it was opened: {len(flat):,} values instead of {count:,}.")
        return native(flat.reshape(self.shape, order="F" if self.fortran else "C"))

    def rows(self, numbers: "list[int]") -> np.ndarray:
        """Some rows of a matrix, without reading the others."""
        if not numbers:
            return native(np.empty((0, *self.shape[1:]), self.dtype))
        return native(np.array(self._mapped()[numbers]))

    def columns(self, start: int, stop: int) -> np.ndarray:
        """Some columns of a matrix, without holding the others."""
        if not math.prod(self.shape):
            return native(np.empty((self.shape[0], stop - start), self.dtype))
        return native(np.array(self._mapped()[:, start:stop], order="C"))

    def _mapped(self) -> np.ndarray:
        with opened(self.path) as file:
            try:
                return np.memmap(file, self.dtype, "r", self.start, self.shape, "F" if self.fortran else "C")
            except (ValueError, OSError) as error:
                raise DataError(f"{self.path} changed since it was opened ({error}).") from None


def opened(path: Path) -> BinaryIO:
    """A file of bytes on a disk, for reading.

    Raises:
        DataError: it is missing, may not be read, or is no such file.
    """
    try:
        return open(regular(path), "rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def native(values: np.ndarray) -> np.ndarray:
    """The same values in this machine's order of bytes, and bfloat16 as such."""
    if values.dtype == np.dtype(BFLOAT16):
        import ml_dtypes  # comes with jax; light, but seldom needed

        return values.view(np.dtype(ml_dtypes.bfloat16))
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def npy(path: Path) -> Npy:
    """Look at the head of a file, and whether it holds all that it claims.

    Raises:
        DataError: another kind of file, a damaged or half-written one, or one of Python objects (a pickle).
    """
    with opened(path) as file:
        shape, fortran, dtype = head(file, path)
        start = file.tell()
        there = file.seek(0, 2) - start
    claimed = math.prod(shape) * dtype.itemsize
    if there < claimed:
        raise DataError(
            f"{path} claims {'x'.join(map(str, shape))} {dtype}, {claimed:,} bytes, but holds {there:,}: it is "
            "half-written or damaged. Make or copy it anew, or remove it."
        )
    return Npy(path, shape, dtype, fortran, start)


def head(file: Any, where: object) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype at the beginning of an open `.npy`.

    Raises:
        DataError: it is damaged, or holds Python objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        start = file.tell()
        if int.from_bytes(file.read(2 if version == (1, 0) else 4), "little") > MOST_HEAD:
            raise ValueError("its head is too long")  # NumPy would make room for it first
        file.seek(start)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} is for records with names, which are no features")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of damaged text as if it were a programmer's
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except Exception as error:  # NumPy parses the head as Python, and raises what its parser happens to meet
        text = " ".join(str(error).split())[:160]
        raise DataError(
            f"{where} is no .npy file, or a damaged one ({text}); make or copy it anew, or remove it."
        ) from None
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects, which is a pickle: it could run any code when read, so milkit does not. "
            "Save the numbers alone (numpy.save of a float array, one file a slide)."
        )
    if dtype.names is not None or dtype.subdtype is not None or any(type(n) is not int or n < 0 for n in shape):
        raise DataError(f"{where} holds {dtype} of shape {shape}; expected a plain array.")
    return shape, fortran, dtype


def check_matrix(where: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless an array can be the features [n, d] of a slide."""
    if len(shape) == 1:
        raise DataError(
            f"{where}: features have shape {shape}, one vector for the whole slide. A model of bags needs one a tile: "
            "give the folder of the tiles' features."
        )
    if len(shape) != 2 or shape[1] == 0:
        raise DataError(f"{where}: features have shape {shape}; expected [tiles, features].")
    if (dtype.kind != "f" or dtype.itemsize > 8) and dtype != np.dtype(BFLOAT16):
        raise DataError(f"{where}: features are {dtype}; expected float16, bfloat16, float32 or float64.")


def check_positions(where: object, shape: tuple[int, ...], dtype: np.dtype[Any], length: int) -> None:
    """Raise unless an array can be the positions [n, 2] of as many tiles as there are features."""
    if shape != (length, 2):
        raise DataError(
            f"{where}: positions have shape {shape}, but there are {length} rows of features; they do not belong "
            "together, or one is of an older run. Make them anew."
        )
    if dtype.kind not in "iuf":
        raise DataError(f"{where}: positions are {dtype}; expected numbers.")


def sampled_rows(n: int) -> list[int]:
    """The rows that go into a digest: the first, the middle and the last."""
    return sorted({0, n // 2, n - 1})[:SAMPLED] if n else []


def digest(shape: tuple[int, ...], rows: np.ndarray) -> str:
    """sha256 of shape, dtype and some rows."""
    made = hashlib.sha256(f"{shape} {rows.dtype}".encode())
    made.update(np.ascontiguousarray(rows).tobytes())
    return made.hexdigest()
