"""NIfTI-1 volumes in one uncompressed file (`.nii`): the 348 bytes of header that slices need, and the voxels.

References:
    R. W. Cox et al. A (sort of) new image data format standard: NIfTI-1. NeuroImage 22 (2004); nifti1.h.
"""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import DataError

SIZE = 348
DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Unit of length in `xyzt_units`: metres, millimetres, micrometres; 0 is unknown."""
MOST_MM = 1000.0
"""Between two voxels; more is a damaged header, which then says nothing."""


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI, by its content; a compressed one by its name, so that its reader can say what to do."""
    if path.name.lower().endswith(".nii.gz"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(SIZE)[344:348] == b"n+1\0"
    except OSError:
        return False


def read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """Voxels [x, y, z], and the millimetres between them along each axis (None where the unit is not said).

    Scaled by `scl_slope` and `scl_inter` (float32) where the file asks for it, else as stored.

    Raises:
        DataError: compressed, not three-dimensional, of a type that is not read, or cut short.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        raise DataError(f"{path} is compressed; milkit reads .nii: unpack it (gunzip {path.name}).")
    order = "<" if int.from_bytes(content[:4], "little") == SIZE else ">"
    if len(content) < SIZE or int.from_bytes(content[:4], "little" if order == "<" else "big") != SIZE:
        raise DataError(f"{path} is no NIfTI-1 file: its header does not begin with {SIZE}.")

    def numbers(kind: str, at: int, count: int) -> Any:
        return np.frombuffer(content, f"{order}{kind}", count, at).tolist()

    dims = [int(n) for n in numbers("i2", 40, 8)]
    shape = dims[1 : dims[0] + 1] if 1 <= dims[0] <= 7 else []
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"{path} has the dimensions {dims}; expected one volume of three axes.")
    code, start = int(numbers("i2", 70, 1)[0]), numbers("f4", 108, 1)[0]
    if code not in DTYPES:
        raise DataError(f"{path} holds voxels of type {code}, which is not read (numbers are).")
    dtype = np.dtype(order + DTYPES[code])
    if not (np.isfinite(start) and start >= SIZE) or int(start) + prod(shape) * dtype.itemsize > len(content):
        raise DataError(f"{path} claims {shape} voxels from byte {start:g}, but has {len(content)} bytes; cut short?")
    voxels = np.frombuffer(content, dtype, prod(shape), int(start)).reshape(shape, order="F")
    voxels = voxels.astype(dtype.newbyteorder("="))
    slope, inter = numbers("f4", 112, 2)
    if np.isfinite([slope, inter]).all() and slope != 0 and (slope, inter) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused where slices are made
            voxels = (voxels * slope + inter).astype(np.float32)
    scale = TO_MM.get(content[123] & 7)
    steps = [abs(step) for step in numbers("f4", 80, 3)]
    known = scale is not None and all(0 < step * scale <= MOST_MM for step in steps)
    return voxels, tuple(step * scale for step in steps) if known and scale is not None else None
