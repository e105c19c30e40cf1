"""One slide to be written in another tool's layout, and the facts that the layout asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from milkit.data.bags import file_name_of
from milkit.errors import DataError

SUPPLY = {
    "coords_px": "positions in pixels of level 0, which --mpp supplies where the features have micrometres",
    "coords_um": "positions in micrometres, which --mpp (of level 0) supplies where the features have pixels",
    "tile_level0_px": "the tile width in pixels of level 0; --tile-um with the mpp supplies it",
    "tile_um": "the tile width in micrometres; --tile-um supplies it",
    "tile_px": "the tile width in pixels as the encoder saw it; --tile-px supplies it",
    "encoder": "the name of the encoder; --encoder supplies it",
    "magnification": "the magnification of the tiles; --magnification supplies it",
    "overlap": "the overlap of the tiles in pixels; --overlap supplies it (0 for none)",
}
"""What is missing and which option gives it, by fact."""


@dataclass(frozen=True)
class Slide:
    """A slide with all that is known of it; None where unknown.

    Attributes:
        id: a name that is safe as a file's, see `check_name`.
        x: features, [n, d], float16 or float32.
        coords_px: top-left corners in pixels of level 0, int64 [n, 2].
        coords_um: in micrometres, float32 [n, 2].
        tile_um, tile_level0_px, tile_px: width of a tile in micrometres, in pixels of level 0, as the encoder saw it.
        encoder: its name.
        magnification: of the tiles.
        overlap: of neighbouring tiles, in pixels as the encoder saw them.
        label: what the features' files say of the slide's label.
        said: other facts, under the names of the tool the features are from.
    """

    id: str
    x: np.ndarray
    coords_px: np.ndarray | None
    coords_um: np.ndarray | None
    tile_um: float | None
    tile_level0_px: float | None
    tile_px: int | None
    encoder: str | None
    magnification: float | None
    overlap: int | None
    label: str | None = None
    said: Mapping[str, Any] = field(default_factory=dict)

    def need(self, name: str, tool: str) -> Any:
        """A fact that a layout cannot do without.

        Raises:
            DataError: it is not known; says what supplies it.
        """
        value = getattr(self, name)
        if value is None:
            raise DataError(f"{tool}'s layout holds {SUPPLY[name]}; slide {self.id!r} has none.")
        return value


def check_name(name: str) -> str:
    """A slide's id as the name of a file inside the folder that is written, and of one that is read again.

    Raises:
        DataError: a name that would lie elsewhere, that no file can have, or that readers pass over.
    """
    file_name_of(name, "_patches.h5")
    if name.startswith("."):
        raise DataError(f"Slide {name!r}: files whose names begin with a dot are hidden and not read; rename it first.")
    return name


def set_attributes(data: Any, values: Mapping[str, Any]) -> None:
    """Write attributes as TRIDENT and CLAM do: what is not known as the text 'None'."""
    for name, value in values.items():
        data.attrs[name] = "None" if value is None else value


def growing(file: h5py.File, name: str, values: np.ndarray, rows: int) -> h5py.Dataset:
    """A resizable dataset, `rows` rows a chunk."""
    return file.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), maxshape=(None, *values.shape[1:]))
