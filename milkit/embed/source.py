"""What tiles are read from: slides, and whatever else gives pictures in an order (frames, slices of a volume)."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8


@runtime_checkable
class Source(Protocol):
    """One opened bag: its tiles by number, from 0 in a fixed order, and what a store keeps of it.

    Tiles are read by several threads at once.
    """

    @property
    def side(self) -> int:
        """Pixels a side of a tile as it is read."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a store says of where the bag is from, as JSON-able values; another file or tiling has other facts."""
        ...

    @property
    def coords_px(self) -> Int[np.ndarray, "n 2"] | None:
        """Top-left corners (x, y) in pixels of level 0, or None."""
        ...

    @property
    def coords_um(self) -> Float[np.ndarray, "n 2"] | None:
        """The same in micrometres, or None."""
        ...

    @property
    def mpp(self) -> float | None:
        """Micrometres a pixel of level 0, or None."""
        ...

    @property
    def tile_um(self) -> float | None:
        """Width of a tile in micrometres, or None."""
        ...

    @property
    def width_px(self) -> int | None:
        """Width of a tile in pixels of level 0, or None."""
        ...

    def __len__(self) -> int:
        """Number of tiles."""
        ...

    def read_tiles(self, start: int, stop: int) -> UInt8[np.ndarray, "n side side 3"]:
        """Tiles `start` to `stop` (not included); raises a DataError for what cannot be read."""
        ...

    def unchanged(self) -> bool:
        """Whether the files are what they were when opened."""
        ...

    def close(self) -> None:
        """Let go of the files; more than once does no harm."""
        ...


@runtime_checkable
class Opener(Protocol):
    """A bag that is not opened yet: light, and it can be sent to another process."""

    @property
    def id(self) -> str:
        """Of the bag."""
        ...

    def open(self) -> Source:
        """The bag; raises a DataError where it cannot be read."""
        ...


@runtime_checkable
class Listed(Opener, Protocol):
    """A bag of a cohort, and what is known of it without opening it."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of its source, all or those that tell it from another one."""
        ...

    @property
    def count(self) -> int:
        """How many tiles it has; 0 where that is not known yet."""
        ...

    def check(self) -> None:
        """See that its files are there and are those that are meant; raises a DataError."""
        ...
