"""NIfTI-1 and NIfTI-2 volumes in one file: header and orientation by nibabel, numbers held against the file's size."""

import gzip
import io
import logging
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from milkit.data.formats.guard_bytes import regular
from milkit.errors import ConfigError, DataError, MilkitError

GZIP = b"\x1f\x8b"
SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
"""Bytes of a header, which are its first number, and nibabel's class."""
RATIO = 1100
"""Most bytes a compressed byte can become; a little more than deflate can reach."""
MOST_UNPACKED = 8 << 30
"""Bytes of a compressed volume, which is held in memory; others are read where they lie."""
_SILENT = logging.Logger("nibabel", logging.CRITICAL + 1)
MILLIMETRES = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
"""Of a unit, by nibabel's names."""


@dataclass(frozen=True, eq=False)
class Nifti:
    """A volume as it is stored.

    Attributes:
        values: [i, j, k] of the stored kind; a memory map where the file is not compressed.
        slope, inter: intensity = slope * value + inter.
        affine: from indices to patient space (right, anterior, superior), in the file's unit; None where neither sform
            nor qform is set.
        spacing: between neighbours along i, j, k, in the file's unit.
        unit: of these, a key of `MILLIMETRES`; "" where the file does not name it.
    """

    values: np.ndarray
    slope: float
    inter: float
    affine: Float[np.ndarray, "4 4"] | None
    spacing: tuple[float, float, float]
    unit: str


def read_nifti(path: Path) -> Nifti:
    """Read a `.nii` or `.nii.gz` file.

    Raises:
        DataError: no NIfTI, one of two files (`.hdr`, `.img`), truncated or damaged, not of three dimensions, or of
            numbers that are no intensities.
        ConfigError: nibabel is not installed.
    """
    try:
        with open(regular(path), "rb") as file:
            held = file.seek(0, io.SEEK_END)
            file.seek(0)
            packed = file.read(2) == GZIP
            file.seek(0)
            header, stated = _header(path, gzip.GzipFile(fileobj=file) if packed else file)
            shape, dtype, start = _layout(path, header)
            wanted = start + math.prod(shape) * dtype.itemsize
            if packed:
                file.seek(0)
                values = _unpacked(path, file, held, wanted)[start:].view(dtype).reshape(shape, order="F")
            elif wanted > held:
                raise DataError(_cut(path, wanted, held))
            else:
                values = np.memmap(file, dtype, "r", start, shape, "F").view(np.ndarray)
        slope, inter = header.get_slope_inter()
        affine, spacing = _space(header, stated)
        unit = header.get_xyzt_units()[0]
    except MilkitError:
        raise
    except Exception as error:  # what gzip and nibabel raise over damaged files
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is no NIfTI volume, or damaged ({text}); copy it again.") from error
    return Nifti(
        values, 1.0 if slope is None else slope, inter or 0.0, affine, spacing, unit if unit in MILLIMETRES else ""
    )


def _header(path: Path, file: Any) -> tuple[Any, list[float]]:
    """The header as nibabel reads it, and the widths that it states, of which nibabel makes 1 of a 0."""
    try:
        import nibabel
    except ImportError:
        raise ConfigError(f"{path} takes nibabel to read: pip install 'milkit[volumes]'.") from None
    start = file.read(4)
    size = next((n for n in SIZES if start in (n.to_bytes(4, "little"), n.to_bytes(4, "big"))), 0)
    rest = file.read(size - 4) if size else b""
    if not size or len(rest) < size - 4:
        raise DataError(f"{path} is no NIfTI volume by its first bytes; it is truncated, or of another format.")
    block = start + rest
    magic = block[344:348] if size == 348 else block[4:8]
    if magic[:2] != b"n+":
        kind = (
            "its numbers lie in an .img file beside it" if magic[:2] == b"ni" else "it is of the older ANALYZE format"
        )
        raise DataError(f"{path} is no NIfTI volume in one file: {kind}. Convert it to .nii.")
    header = getattr(nibabel, SIZES[size])(block, check=False)
    stated = [abs(float(width)) for width in header["pixdim"][1:4]]
    header.check_fix(logger=_SILENT)  # mends what is harmless, raises over the rest; files are named by us
    return header, stated


def _layout(path: Path, header: Any) -> tuple[tuple[int, int, int], np.dtype[Any], int]:
    """Shape [i, j, k], kind of number and first byte."""
    stated = tuple(int(n) for n in header.get_data_shape())
    shape = stated
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise DataError(
            f"{path} has the shape {list(stated)}; a volume has three dimensions. Of a series over time or of several "
            "channels, save the volume that is meant (img.slicer[..., 0] of nibabel)."
        )
    if min(shape) < 1:
        raise DataError(f"{path} states the shape {list(stated)}; it holds no slice.")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" and dtype.names not in (("R", "G", "B"), ("R", "G", "B", "A")):
        raise DataError(f"{path} holds {dtype}; expected real numbers or RGB.")
    start = int(header.get_data_offset())
    if start < header.sizeof_hdr:
        raise DataError(f"{path} says that its numbers begin at byte {start}, within its header; it is damaged.")
    return (shape[0], shape[1], shape[2]), dtype, start


def _space(header: Any, stated: list[float]) -> tuple[np.ndarray | None, tuple[float, float, float]]:
    """Affine, where the file has one that can be used, and spacing: of the affine, or as stated."""
    zooms = stated
    known = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    affine = np.asarray(header.get_best_affine(), np.float64) if known else None
    if affine is not None:
        from nibabel.orientations import io_orientation

        with np.errstate(all="ignore"):
            lengths = np.linalg.norm(affine[:3, :3], axis=0)
            sound = bool(np.isfinite(affine).all() and np.isfinite(lengths).all() and lengths.all())
            # an axis that runs along none of the body's, as it lies in the plane of the others
            sound = sound and not np.isnan(io_orientation(affine)).any()
        if sound and (int(header["sform_code"]) > 0 or all(stated)):  # a qform takes its widths from those stated
            zooms = lengths.tolist()
        affine = affine if sound else None
    return affine, (zooms[0], zooms[1], zooms[2])


def _unpacked(path: Path, file: BinaryIO, held: int, wanted: int) -> np.ndarray:
    """The first `wanted` bytes that a gzip file unpacks to, checked by its checksum where it ends there."""
    if wanted > RATIO * held:
        raise DataError(f"{path} claims {wanted:,} bytes, which its {held:,} cannot unpack to. It is damaged.")
    if wanted > MOST_UNPACKED:
        raise DataError(
            f"{path} unpacks to {wanted:,} bytes, more than the {MOST_UNPACKED:,} that are held in memory; unpack it "
            "(gunzip), so that slices are read where they lie."
        )
    out = np.empty(wanted, np.uint8)
    view, got = out.data, 0
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while got < wanted and (part := unpacked.readinto(view[got : got + (1 << 24)])):
                got += part
            unpacked.read(1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); it is truncated or damaged. Copy it again.") from None
    if got < wanted:
        raise DataError(_cut(path, wanted, got))
    return out


def _cut(path: Path, wanted: int, held: int) -> str:
    return f"{path} should hold {wanted:,} bytes by its header, but has {held:,}; it is truncated. Copy it again."
