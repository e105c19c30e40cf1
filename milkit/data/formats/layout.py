"""What it takes to read one tool's files: how to know them, what they say of each slide, and where the numbers are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from milkit.data.formats.header import Header

Container = Literal["hdf5", "pt", "npy", "npz", "csv", "svm", "folder"]


@dataclass(frozen=True)
class Layout:
    """One tool's layout. Modules of this room make one each, called `LAYOUT`; `known.py` lists them.

    Attributes:
        name: a word for provenance, such as "trident".
        tool: the tool's name, for messages.
        container: what kind of file it is; "folder" is a folder that is read as a whole because its files belong
            together (features here, positions there).
        claims: whether a file or folder is of this layout, by what is in it. Called with its path and what is open:
            the `h5py.File` for "hdf5", None for all others. Cheap, and without surprise: never reads features.
        headers: what it says of each of its slides, without reading features. Same arguments as `claims`. Raises a
            DataError that names the file for what is not as the tool writes it.
        told: `headers` where the user names the layout because the files themselves do not tell it; None where they do.
        placed: a header with what lies in other files of the tool (tile size, positions), in the folder that is given,
            or where the tool puts them (""). None where all is in one place.
        features: the features of one slide, [n, d] as stored, opened and closed anew.
        positions: top-left corners of one slide's tiles, [n, 2] in the unit of its header, or None.
        sample: a digest of some rows of one slide's features, to know them again; read when a study is made, not when
            files are opened. None where `Header.sample` has it already.
        lacks: what supplies the facts that the tool's files do not hold, as the end of a sentence; keys "encoder",
            "tile", "mpp" and "unit".
        same: facts, by name in `Header.said`, that all slides of a cohort must share beside those asked of all tools.
    """

    name: str
    tool: str
    container: Container
    claims: Callable[[Path, Any], bool]
    headers: Callable[[Path, Any], tuple[Header, ...]]
    features: Callable[[Header], np.ndarray]
    positions: Callable[[Header], np.ndarray | None]
    sample: Callable[[Header], str] | None = None
    told: Callable[[Path, Any], tuple[Header, ...]] | None = None
    placed: Callable[[Header, str], Header] | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)
    same: tuple[str, ...] = ()


def no_positions(slide: Header) -> None:
    """For `Layout.positions` of files that hold none; their headers say `positioned=False`."""
