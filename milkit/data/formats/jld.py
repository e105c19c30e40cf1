"""MIDatasets.jl: one file a set, as JLD 0.1 writes it (Julia's data in HDF5).

`X` is an array of object references, one a bag, to float32 matrices; Julia's [n, d] are column-major, so HDF5 shows
them as [d, n]. `y` is a bit array: a compound of a reference `chunks_` to 64-bit words, the number of bits `len_`, and
a reference `dims_` to a tuple that means nothing for a vector. `folds` is an array of references, one a repetition, to
arrays of references, one a fold, to bit arrays that are True where a bag trains. All that is referred to lies in
`/_refs`; types in `/_types`, the versions of Julia in `/_creator`. Before the HDF5 there is a user block of 512 bytes.
No bag has a name: they are called FILE-001, FILE-002, ... in the order of `X`.

References:
    https://github.com/komartom/MIDatasets.jl, and its files as written by Julia 0.6.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.formats.header import Header, opened, sample
from milkit.data.formats.layout import Layout
from milkit.errors import DataError

TOOL = "MIDatasets.jl"
MOST_FOLDS = 10_000
"""Repetitions x folds: references may all lead to one array, so a small file could claim any number."""
BIT_ARRAY = ("chunks_", "len_", "dims_")


def is_jld(path: Path, file: h5py.File) -> bool:
    """Whether a file is JLD's with an array `X` of matrices."""
    x = _get(file, "X")
    return (
        isinstance(_get(file, "_refs", h5py.Group), h5py.Group)
        and x is not None
        and x.ndim == 1
        and h5py.check_ref_dtype(x.dtype) is h5py.Reference
    )


def headers(path: Path, file: h5py.File) -> tuple[Header, ...]:
    """A header for each bag.

    Raises:
        DataError: a reference that leads nowhere, or matrices that are no features of one width.
    """
    found = []
    labels = None
    if (y := _get(file, "y")) is not None and y.dtype.names == BIT_ARRAY:
        labels = bits(path, file, y[()])
    references = _get(file, "X")[()]
    seen: set[str] = set()
    for i, reference in enumerate(references):
        matrix = target(path, file, reference, f"bag {i + 1} of 'X'")
        if matrix.name in seen:
            raise DataError(f"{path}: bag {i + 1} of 'X' is the matrix of an earlier bag; the file is damaged.")
        seen.add(matrix.name)
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or 0 in matrix.shape:
            raise DataError(f"{path}: bag {i + 1} of 'X' is {matrix.dtype} {matrix.shape}; expected a matrix.")
        d, n = matrix.shape  # column-major in Julia
        label = None if labels is None or len(labels) <= i else str(int(labels[i]))
        key = str(i)
        found.append(
            Header(_name(path, i), path, n, d, LAYOUT.name, key=key, unit="", label=label, sample=sample(matrix))
        )
    if len({header.width for header in found}) != 1:
        raise DataError(f"{path}: the matrices of 'X' have widths {sorted({h.width for h in found})}; expected one.")
    return tuple(found)


def features(slide: Header) -> np.ndarray:
    """Features of one bag, [n, d].

    Raises:
        DataError: the file changed since it was opened.
    """
    with opened(slide.path) as file:
        references = _get(file, "X")[()]
        if int(slide.key) >= len(references):
            raise DataError(f"{slide.path} changed since it was opened: it holds {len(references)} bags.")
        matrix = target(slide.path, file, references[int(slide.key)], f"bag {slide.id}")
        if matrix.shape != (slide.width, slide.length):
            raise DataError(f"{slide.path} changed since it was opened: bag {slide.id} is {matrix.shape[::-1]}.")
        return np.ascontiguousarray(matrix[()].T)


def labels_and_folds(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels bool [B], and training masks bool [repeats, folds, B] (of no repeat where the file has no folds).

    Raises:
        DataError: what is there is not as JLD writes it.
    """
    with opened(path) as file:
        if not is_jld(path, file):
            raise DataError(f"{path} is not a JLD file of {TOOL}: no array 'X' of references to matrices.")
        y = _get(file, "y")
        if y is None or y.dtype.names != BIT_ARRAY:
            what = "there is none" if y is None else f"it is {y.dtype}"
            raise DataError(f"{path}: 'y' holds no labels as {TOOL} writes them (a bit array); {what}.")
        labels = bits(path, file, y[()])
        folds = _get(file, "folds")
        if folds is None:
            return labels, np.zeros((0, 0, len(labels)), bool)
        repeats = []
        for repeat in np.atleast_1d(folds[()]):
            inner = np.atleast_1d(target(path, file, repeat, "a repetition of 'folds'")[()])
            if len(inner) * np.size(folds) > MOST_FOLDS:
                raise DataError(f"{path}: 'folds' are {np.size(folds)} x {len(inner)}; expected {MOST_FOLDS} at most.")
            targets = [target(path, file, fold, "a fold of 'folds'") for fold in inner]
            repeats.append([bits(path, file, fold[()]) for fold in targets])
    sizes = {len(fold) for repeat in repeats for fold in repeat} | {len(labels)}
    if len(sizes) > 1 or len({len(repeat) for repeat in repeats}) > 1:
        raise DataError(f"{path}: folds and labels are of {sorted(sizes)} bags; expected one number.")
    return labels, np.array(repeats, bool)


def bits(path: Path, file: h5py.File, array: Any) -> np.ndarray:
    """A Julia bit array, bool [len_]: bit i is bit i % 64 of word i // 64.

    Raises:
        DataError: it is none, or has too few words.
    """
    if getattr(array, "dtype", None) is None or array.dtype.names != BIT_ARRAY:
        raise DataError(f"{path}: expected a bit array (fields {', '.join(BIT_ARRAY)}), found {array!r:.80}.")
    words = target(path, file, array["chunks_"], "a bit array")[()]
    count = int(array["len_"])
    if words.dtype.kind != "u" or words.dtype.itemsize != 8 or not 0 <= count <= 64 * words.size:
        raise DataError(f"{path}: a bit array claims {count} bits in {words.size} words of {words.dtype}.")
    return np.unpackbits(words.astype("<u8").reshape(-1).view(np.uint8), bitorder="little")[:count].astype(bool)


def _name(path: Path, place: int) -> str:
    return f"{path.stem}-{place + 1:03d}"


def _get(file: h5py.Group, name: str, kind: type = h5py.Dataset) -> Any:
    """What is in the file under a name; None for what is absent or of another kind."""
    found = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    return found if isinstance(found, kind) else None


def target(path: Path, file: h5py.File, reference: Any, what: str) -> h5py.Dataset:
    """The dataset that a reference of the file means.

    Raises:
        DataError: it means none.
    """
    found = file[reference] if isinstance(reference, h5py.Reference) and reference else None
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: {what} refers to nothing; the file is damaged, get it anew.")
    return found


LAYOUT = Layout(
    name="midatasets",
    tool=TOOL,
    container="hdf5",
    claims=is_jld,
    headers=headers,
    features=features,
    positions=lambda slide: None,
    lacks={"tile": "instances of classic sets are no tiles"},
)
