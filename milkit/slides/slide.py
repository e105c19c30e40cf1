"""What every reader of slides offers: pixels asked for in micrometres, or of a level as they are."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, SupportsFloat, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import UInt8

Um = tuple[SupportsFloat, SupportsFloat]
"""x and y in micrometres."""
Px = tuple[SupportsIndex, SupportsIndex]
"""x and y, or width and height, in pixels: whole numbers, NumPy's too."""


@dataclass(frozen=True)
class Level:
    """One resolution of a pyramid.

    Attributes:
        width: pixels from left to right.
        height: pixels from top to bottom.
        mpp: micrometres a pixel.
    """

    width: int
    height: int
    mpp: float


@runtime_checkable
class Slide(Protocol):
    """An opened slide. All micrometres count from the top-left corner of level 0, x to the right, y downwards.

    A slide may be read from several threads at once. As a context manager it is closed at the end, and a file that
    was changed in between is an error then.
    """

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def mpp(self) -> float:
        """Micrometres a pixel of level 0."""
        ...

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, finest first; one level at least."""
        ...

    @property
    def properties(self) -> dict[str, str]:
        """What the file says of itself, and where the mpp came from (`milkit.mpp-source`)."""
        ...

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of level 0."""
        ...

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height in micrometres."""
        ...

    def read(self, corner_um: Um, size_px: Px, mpp: SupportsFloat) -> UInt8[np.ndarray, "height width 3"]:
        """The region whose top-left corner is at `corner_um`, `size_px` (width, height) pixels of `mpp`.

        Outside the slide it is white. Pixels come from the coarsest level that is not coarser than asked (2 % of
        tolerance), resampled; where that level has the asked mpp they are its pixels, not resampled, from the pixel
        nearest to the corner.
        """
        ...

    def read_level(self, level: SupportsIndex, corner_px: Px, size_px: Px) -> UInt8[np.ndarray, "height width 3"]:
        """Pixels of a level as they are; the corner counts in that level's own pixels. Outside it is white."""
        ...

    def thumbnail(self, longest: int) -> UInt8[np.ndarray, "height width 3"]:
        """The whole slide, its longer side `longest` pixels (or what level 0 has, where that is less)."""
        ...

    def unchanged(self) -> bool:
        """Whether the file still has the size and time of change that it had when opened."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...

    def __enter__(self) -> "Slide": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
