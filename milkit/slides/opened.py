"""What all readers share: micrometres to pixels of a level, white borders, resampling, looking after the file."""

import math
import operator
import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import SupportsFloat, SupportsIndex

import numpy as np
from jaxtyping import UInt8

from milkit.errors import DataError
from milkit.slides.resample import block_means, lanczos
from milkit.slides.slide import Level, Px, Um

WHITE = 255
"""Glass."""
TOLERANCE = 0.02
"""How much coarser than asked a level may be and still be used: mpp of scanners are known to about this."""
SAME = 1e-4
"""Relative difference of two mpp below which they are one: a quarter pixel over a tile of 2,500."""
LARGEST_READ = 1 << 28
"""Most pixels of one region; a region of 16,384 x 16,384 (800 MB)."""
LARGEST_SLIDE = 1 << 38
"""Most pixels of level 0; 524,288 x 524,288. A slide of 50 x 75 mm at 0.125 um a pixel has 240,000 megapixels."""
BLOCK = 1 << 22
"""Pixels that are read at once while averaging blocks of pixels."""
MARGIN = 4
"""Pixels around a region that Lanczos of a factor up to 3 may look at, divided by that factor."""


def signature(path: Path) -> tuple[int, int, int]:
    """Size, time of change and inode of a file that can be read.

    Raises:
        DataError: it is not there, no file, or empty.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"Slide {path} cannot be read: {error.strerror or error}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"Slide {path} is a folder or a device; expected a file.")
    if not found.st_size:
        raise DataError(f"Slide {path} is empty (0 bytes); copy it again.")
    return found.st_size, found.st_mtime_ns, found.st_ino


def levels_of(sizes: list[tuple[int, int]], mpp: float) -> tuple[Level, ...]:
    """Levels with their mpp, from (width, height) of each, finest first.

    Software that halves an image drops or adds an odd last pixel: a level whose size is level 0's divided by a whole
    number, rounded either way, is taken to be coarser by exactly that number.
    """
    (width, height), made = sizes[0], []
    for w, h in sizes:
        ratio = (width / w + height / h) / 2
        whole = round(ratio)
        if abs(w * whole - width) < whole and abs(h * whole - height) < whole:
            ratio = whole
        made.append(Level(w, h, mpp * ratio))
    return tuple(made)


class OpenedSlide(ABC):
    """A `Slide` but for `_pixels`, which gives pixels that lie within a level."""

    def __init__(self, path: Path, mpp: float, sizes: list[tuple[int, int]], properties: dict[str, str]) -> None:
        if sizes[0][0] * sizes[0][1] > LARGEST_SLIDE:
            raise DataError(
                f"{path} claims {sizes[0][0]:,} x {sizes[0][1]:,} pixels, more than any slide has. It is damaged; copy "
                "or convert it again."
            )
        self.path = path
        self.mpp = float(mpp)
        self.levels = levels_of(sizes, mpp)
        self.properties = properties
        self._signature = signature(path)
        self._closed = False

    @abstractmethod
    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        """Pixels of a region that lies within the level and is not empty."""

    def _release(self) -> None:  # noqa: B027  # an image in memory holds nothing open
        """Let go of what is held open."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.levels[0].width, self.levels[0].height

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height in micrometres."""
        return self.levels[0].width * self.mpp, self.levels[0].height * self.mpp

    def read_level(self, level: SupportsIndex, corner_px: Px, size_px: Px) -> UInt8[np.ndarray, "height width 3"]:
        """Pixels of a level as they are; the corner counts in that level's own pixels. Outside it is white.

        Raises:
            DataError: the slide is closed, has no such level, the size is not positive or too large, or what the file
                holds there is damaged.
        """
        level, x, y, width, height = (operator.index(v) for v in (level, *corner_px, *size_px))
        self._check(width, height)
        if not 0 <= level < len(self.levels):
            raise DataError(f"{self.path} has levels 0 to {len(self.levels) - 1}; level {level} was asked for.")
        held = self.levels[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, held.width), min(y + height, held.height)
        if (left, top, right, bottom) == (x, y, x + width, y + height):
            return self._pixels(level, x, y, width, height)
        out = np.full((height, width, 3), WHITE, np.uint8)
        if left < right and top < bottom:
            inside = self._pixels(level, left, top, right - left, bottom - top)
            out[top - y : bottom - y, left - x : right - x] = inside
        return out

    def read(self, corner_um: Um, size_px: Px, mpp: SupportsFloat) -> UInt8[np.ndarray, "height width 3"]:
        """The region whose top-left corner is at `corner_um`, `size_px` (width, height) pixels of `mpp`.

        Outside the slide it is white. Pixels come from the coarsest level that is not coarser than asked (2 % of
        tolerance). Where that level has the asked mpp they are its own, from the pixel nearest to the corner; where it
        is finer by a whole number and the corner lies on a pixel, means of blocks; else resampled by an antialiased
        Lanczos filter, from factor 4 on over means of blocks that lie on the level's own grid. Neighbouring regions
        fit together without a seam.

        Raises:
            DataError: as `read_level`; or an mpp that is not positive.
        """
        width, height = (operator.index(v) for v in size_px)
        self._check(width, height)
        left, top, mpp = (float(v) for v in (*corner_um, mpp))
        if not (math.isfinite(mpp) and mpp > 0 and math.isfinite(left) and math.isfinite(top)):
            raise DataError(f"{self.path}: a region at {corner_um} um of {mpp} um a pixel was asked for; mpp is > 0.")
        level = self._level_for(mpp)
        held = self.levels[level].mpp
        factor, x, y = mpp / held, left / held, top / held
        whole = round(factor)
        if whole >= 1 and abs(factor / whole - 1) < SAME and (whole == 1 or (_is_whole(x) and _is_whole(y))):
            return self._means(level, round(x), round(y), width, height, whole)
        blocks = max(1, math.floor(factor / 2)) if factor >= 4 else 1
        return self._resampled(level, (x / blocks, y / blocks), (width, height), factor / blocks, blocks)

    def thumbnail(self, longest: int) -> UInt8[np.ndarray, "height width 3"]:
        """The whole slide, its longer side `longest` pixels (or what level 0 has, where that is less).

        Raises:
            DataError: as `read`.
        """
        width, height = self.size_px
        factor = max(1.0, max(width, height) / max(1, int(longest)))
        size = max(1, round(width / factor)), max(1, round(height / factor))
        return self.read((0.0, 0.0), size, self.mpp * factor)

    def unchanged(self) -> bool:
        """Whether the file still has the size and time of change that it had when opened."""
        try:
            return signature(self.path) == self._signature
        except DataError:
            return False

    def close(self) -> None:
        """Let go of the file; more than once does no harm."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> "OpenedSlide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        changed = not self.unchanged()
        self.close()
        if changed and error is None:
            raise DataError(
                f"{self.path} was changed or moved while it was read, so what was read may be of two files. "
                "Wait until it is copied, then read it again."
            )

    def _check(self, width: int, height: int) -> None:
        if self._closed:
            raise DataError(f"{self.path} was closed; open it again to read it.")
        if width < 1 or height < 1 or width * height > LARGEST_READ:
            raise DataError(
                f"{self.path}: a region of {width} x {height} pixels was asked for; expected at least 1 x 1 and at "
                f"most {LARGEST_READ:,} pixels. Ask for smaller regions or a larger mpp."
            )

    def _level_for(self, mpp: float) -> int:
        """The coarsest level that is not coarser than asked; level 0 where all are."""
        return max((i for i, level in enumerate(self.levels) if level.mpp <= mpp * (1 + TOLERANCE)), default=0)

    def _means(self, level: int, x: int, y: int, width: int, height: int, factor: int) -> np.ndarray:
        """Means of `factor` x `factor` pixels from (x, y) on, read in bands so that memory stays small."""
        if factor == 1:
            return self.read_level(level, (x, y), (width, height))
        columns = max(1, min(width, BLOCK // factor**2))
        rows = max(1, min(height, BLOCK // (columns * factor**2)))
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                h, w = min(rows, height - top), min(columns, width - left)
                corner = x + left * factor, y + top * factor
                out[top : top + h, left : left + w] = block_means(
                    self.read_level(level, corner, (w * factor, h * factor)), factor
                )
        return out

    def _resampled(
        self, level: int, corner: tuple[float, float], size: tuple[int, int], factor: float, blocks: int
    ) -> np.ndarray:
        """Lanczos over means of blocks; corner and factor count in blocks, whose grid starts at the level's corner."""
        margin = math.ceil(MARGIN * max(1.0, factor))
        left, top = (math.floor(v) - margin for v in corner)
        right, bottom = (math.ceil(v + n * factor) + margin for v, n in zip(corner, size, strict=True))
        self._check(right - left, bottom - top)
        source = self._means(level, left * blocks, top * blocks, right - left, bottom - top, blocks)
        return lanczos(source, (corner[0] - left, corner[1] - top), size, factor)


def _is_whole(value: float) -> bool:
    """Whether a place is that of a pixel's corner, to a hundredth of a pixel."""
    return abs(value - round(value)) < 0.01
