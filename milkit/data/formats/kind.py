"""What kind of file something is, by its first bytes; names are only asked where bytes cannot tell."""

import os
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from milkit.data.formats.guard_bytes import regular
from milkit.errors import DataError

HDF5 = b"\x89HDF\r\n\x1a\n"
NPY = b"\x93NUMPY"
ZIP = b"PK\x03\x04"
# torch.save of before 2019: a pickled number; weights_only reads these too
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
TEXT_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".data": "csv", ".svm": "svm"}
_SVM = re.compile(rb"(#[^\n]*\n|\s)*[^\s:,#]+:[^\s:,#]+:[^\s:,#]+ +\d+:[^\s:]")
HDF5_SUFFIXES = (".h5", ".hdf5", ".jld")
FOREIGN = ("pt", "npz", "npy", "mat", "csv", "svm", "pickle")
"""Kinds that only other tools write; a store is HDF5."""


def kind_of(path: Path) -> str:
    """Say what a file is: "hdf5", "pt", "npz", "npy", "mat", "csv", "svm", "pickle", "zip", "text" or "".

    An empty or damaged file whose name says HDF5 counts as such, so that its reader can say what is wrong with it.
    HDF5 may begin with a block of the user's (MATLAB, old Julia), at bytes 512, 1024, 2048 ...

    Raises:
        DataError: a file that cannot be read.
    """
    try:
        with open(regular(path), "rb") as file:
            start = file.read(512)
            if start[:8] != HDF5 and any(_at(file, place) for place in (512, 1024, 2048, 4096)):
                return "hdf5"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if start.startswith(HDF5) or path.suffix.lower() in HDF5_SUFFIXES:
        return "hdf5"
    if start.startswith(NPY):
        return "npy"
    if start.startswith(ZIP):
        return _zip(path)
    if start.startswith(OLD_TORCH):
        return "pt"
    if start.startswith(b"MATLAB 5.0"):
        return "mat"
    if _is_pickle(start):
        return "pickle"
    if path.suffix.lower() in (".pt", ".pth"):
        return "pt"  # damaged, or a pickle of another kind: its reader says so
    if b"\0" in start:
        return ""
    if _SVM.match(start):
        return "svm"
    return TEXT_SUFFIXES.get(path.suffix.lower(), "text")


def holds(folder: Path, ending: str) -> bool:
    """Whether a folder holds a file of this ending, by names up to the first that fits.

    Asked once a slide, of folders with as many files: `glob` would list them all each time.
    """
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(ending) for entry in entries)
    except OSError:
        return False


def _at(file: BinaryIO, place: int) -> bool:
    file.seek(place)
    return bool(file.read(8) == HDF5)


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "pt" if path.suffix.lower() in (".pt", ".pth") else "npz" if path.suffix.lower() == ".npz" else "zip"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "pt"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"


def _is_pickle(start: bytes) -> bool:
    """Protocol 2 to 5 say so; older ones are text."""
    return len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5
