"""Where the known sets lie, and whether a file is the one that was published: digests of files and of arrays."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import milkit
from milkit.data.formats.guard_numpy import read_npz
from milkit.errors import DataError

PACKAGED = Path(__file__).parents[1] / "packaged"
"""What comes with milkit."""
SUMS = Path(__file__).with_name("SHA256SUMS")
"""Digests of the files of sets that are no `.npz`."""


def roots() -> list[Path]:
    """Folders that may hold the sets: the one that $MILKIT_DATA names, else `../shared/data` beside the project."""
    set_by_user = os.environ.get("MILKIT_DATA")
    if set_by_user:
        return [Path(set_by_user).expanduser()]
    checkout = Path(milkit.__file__).resolve().parents[1]
    return [base.parent / "shared" / "data" for base in (checkout, Path.cwd())]


def find(file: str) -> Path | None:
    """A file or folder of a set, such as "mil_classic/fox.npz"; None where it is not on this machine."""
    places = [PACKAGED / Path(file).name, *(root / file for root in roots())]
    return next((place for place in places if place.exists()), None)


def missing(files: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Those of some files that are not here, and the folders that were looked into."""
    return [file for file in files if find(file) is None], roots()


def arrays_of(path: Path, names: Sequence[str] = (), *, again: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, read without pickle.

    Args:
        path: the file.
        names: arrays that must be there; () reads all.
        again: where to get the file anew, for messages.

    Raises:
        DataError: it cannot be read, or lacks an array.
    """
    try:
        arrays = read_npz(path)
    except DataError as error:
        raise DataError(f"{error} Or get it from {again}.") from None
    lacking = [name for name in names if name not in arrays]
    if lacking:
        raise DataError(
            f"{path} cannot be read: it lacks {lacking} (it holds {sorted(arrays)[:8]}). Get it from {again}."
        )
    return {name: arrays[name] for name in (names or arrays)}


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of names, dtypes, shapes and values: equal for files that hold the same, however they were packed."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.newbyteorder('<').str} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def check_digest(path: Path, found: str, expected: str, instead: str) -> None:
    """Raise unless a digest is the known one.

    Args:
        path: the file, for the message.
        found: sha256 of what it holds.
        expected: the known one.
        instead: what to do where the file is meant as it is.

    Raises:
        DataError: they differ.
    """
    if found != expected:
        raise DataError(
            f"{path} is not the file that milkit knows by this name: the sha256 of what it holds is {found}, expected "
            f"{expected}. A copy may be damaged or of another version: get it anew ({instead})."
        )


@cache
def known_sums() -> dict[str, str]:
    """Digests by file name, of the sets' files that are no `.npz`."""
    lines = SUMS.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines if line)}


def bytes_of(file: str, verify: bool, instead: str) -> tuple[Path, bytes]:
    """A file of a set that is here, read whole and held against its known digest.

    Args:
        file: such as "glas/Grade.csv".
        verify: compare.
        instead: what to do where the file is meant as it is.

    Raises:
        DataError: it cannot be read, or is another file.
    """
    path = find(file)
    try:
        content = path.read_bytes() if path is not None else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if path is None:
        raise DataError(f"No {file} in {', '.join(map(str, roots()))}.")
    if verify:
        check_digest(path, hashlib.sha256(content).hexdigest(), known_sums().get(file, "unknown"), instead)
    return path, content
