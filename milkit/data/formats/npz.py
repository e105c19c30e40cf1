"""`<slide>.npz`, one file a slide: `features` [n, d] (or `feats`, `embeddings`), and `coords` [n, 2] where known.

No one tool's: slide2vec and many scripts write it. The unit of the positions is not said.
"""

from pathlib import Path

import numpy as np

from milkit.data.formats import npz_file
from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout
from milkit.data.formats.npy_file import check_matrix, check_positions, digest, sampled_rows
from milkit.errors import DataError

NAMES = ("features", "feats", "embeddings", "feat")
COORDS = "coords"


def _name(path: Path, inside: tuple[str, ...]) -> str:
    """Which array the features are.

    Raises:
        DataError: it cannot be told.
    """
    named = [name for name in NAMES if name in inside]
    others = [name for name in inside if name != COORDS]
    if len(named) == 1:
        return named[0]
    if not named and len(others) == 1:
        return others[0]
    raise DataError(
        f"{path}: it holds {list(inside)[:6]}, in which the features cannot be told; expected 'features' [tiles, "
        "features], and 'coords' [tiles, 2] where known."
    )


def is_npz(path: Path, content: None = None) -> bool:
    """Any archive of arrays: what is wrong with it is said by `headers`."""
    return True


def headers(path: Path, content: None = None) -> tuple[Header, ...]:
    """Shapes only.

    Raises:
        DataError: no matrix of floats, positions that do not fit.
    """
    inside = npz_file.names(path)
    found = npz_file.member(path, _name(path, inside))
    check_matrix(path, found.shape, found.dtype)
    n, d = found.shape
    positioned = COORDS in inside and n > 0
    if positioned:
        coords = npz_file.member(path, COORDS)
        check_positions(path, coords.shape, coords.dtype, n)
    return (Header(path.stem, path, n, d, "npz", unit="", positioned=positioned),)


def features(slide: Header) -> np.ndarray:
    """The matrix [n, d] of one slide, as stored."""
    return npz_file.values(slide.path, _name(slide.path, npz_file.names(slide.path)))


def positions(slide: Header) -> np.ndarray | None:
    """`coords` [n, 2]."""
    values = npz_file.values(slide.path, COORDS)
    check_positions(slide.path, values.shape, values.dtype, slide.length)
    return values


def sample(slide: Header) -> str:
    """Digest of some rows; the whole array is read, for a zip has no rows."""
    values = features(slide)
    return digest(values.shape, values[sampled_rows(len(values))])


LAYOUT = Layout(
    name="npz",
    tool="numpy",
    container="npz",
    claims=is_npz,
    headers=headers,
    features=features,
    positions=positions,
    sample=sample,
    lacks={"tile": "an archive of arrays says nothing of tiles; tile_um= gives the size"},
)
