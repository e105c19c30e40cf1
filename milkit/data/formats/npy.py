"""Plain `<slide>.npy`, features [n, d] as `numpy.save` writes them: no positions, no attributes."""

from pathlib import Path

import numpy as np

from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout, no_positions
from milkit.data.formats.npy_file import check_matrix, digest, npy, sampled_rows
from milkit.errors import DataError


def is_npy(path: Path, content: None = None) -> bool:
    """Any array: what is wrong with it is said by `headers`."""
    return True


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """Shape only.

    Raises:
        DataError: no matrix of floats.
    """
    found = npy(path)
    check_matrix(path, found.shape, found.dtype)
    n, d = found.shape
    return (Header(path.stem, path, n, d, "npy", unit="", positioned=False),)


def features(slide: Header) -> np.ndarray:
    """The matrix [n, d] of one slide, as stored."""
    found = npy(slide.path)
    if found.shape != (slide.length, slide.width):
        raise DataError(
            f"{slide.path} changed since it was opened: {found.shape} instead of {(slide.length, slide.width)}."
        )
    return found.values()


def sample(slide: Header) -> str:
    """Digest of some rows."""
    found = npy(slide.path)
    return digest(found.shape, found.rows(sampled_rows(found.shape[0])))


LAYOUT = Layout(
    name="npy",
    tool="numpy",
    container="npy",
    claims=is_npy,
    headers=headers,
    features=features,
    positions=no_positions,
    sample=sample,
    lacks={"tile": "a bare array says nothing of tiles; tile_um= gives the size"},
)
