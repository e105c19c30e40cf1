"""Pixels of slides as PNG: squares of a pyramid, each zoom half of the one before; few slides stay open.

At zoom z a pixel is 2**z pixels of level 0 wide. Square (column, row) begins at (column, row) * SIDE * 2**z of level 0;
those at the right and the bottom end with the slide. PNG because it loses nothing: at zoom 0 the pixels are the file's.
"""

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from milkit.errors import DataError
from milkit.slides import Slide, open_slide
from milkit.slides.tile_slides import READ_ERRORS
from milkit.viewer.files import SlideFile

SIDE = 256
"""Pixels of a square's side."""
OPEN = 4
"""Slides that stay open."""
CACHED_BYTES = 128 << 20
"""PNG that is kept in memory: some thousand squares."""
AT_ONCE = 4
"""Squares that are read side by side, however many a browser asks for."""
Made = TypeVar("Made")


def most_zoom(size_px: tuple[int, int]) -> int:
    """The zoom at which the whole slide is one square."""
    return max(0, math.ceil(math.log2(max(size_px) / SIDE)))


def png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A PNG; written fast rather than small, as it goes no further than this machine."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


@dataclass
class _Opened:
    slide: Slide
    users: int = 0


class Pictures:
    """The slides of a run as PNG; safe in threads."""

    def __init__(self, files: Mapping[str, SlideFile]) -> None:
        self._files, self._most = files, OPEN
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._cache: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self._turn = threading.Semaphore(AT_ONCE)

    @contextmanager
    def slide(self, slide_id: str) -> Iterator[Slide]:
        """A slide that stays open while it is used.

        Raises:
            DataError: there is no file, it cannot be read, was changed, or is not the one whose tiles were cut.
        """
        with self._lock:
            entry = self._open.get(slide_id)
            if entry is None:
                entry = self._open[slide_id] = _Opened(_opened(self._files[slide_id]))
            if not entry.slide.unchanged():
                raise DataError(f"{entry.slide.path} was changed while it was shown; start `milkit view` again.")
            self._open.move_to_end(slide_id)
            entry.users += 1
        try:
            yield entry.slide
        finally:
            with self._lock:
                entry.users -= 1
                self._close_idle()

    def square(self, slide_id: str, zoom: int, column: int, row: int) -> bytes | None:
        """A square of the pyramid; None where the slide has none there."""

        def read(slide: Slide) -> bytes | None:
            width, height = slide.size_px
            if zoom > most_zoom((width, height)):  # before anything is computed from it
                return None
            step = 2**zoom
            x, y = column * SIDE * step, row * SIDE * step
            if x >= width or y >= height:
                return None
            size = min(SIDE, math.ceil((width - x) / step)), min(SIDE, math.ceil((height - y) / step))
            if zoom == 0:
                return png(slide.read_level(0, (x, y), size))
            return png(slide.read((x * slide.mpp, y * slide.mpp), size, slide.mpp * step))

        return self._kept((slide_id, "square", zoom, column, row), slide_id, read)

    def region(self, slide_id: str, x: int, y: int, width_px: int, side: int) -> bytes | None:
        """A square of `width_px` of level 0 as `side` x `side` pixels; None where it is wider than the slide."""

        def read(slide: Slide) -> bytes | None:
            if width_px < 1 or width_px > max(slide.size_px):
                return None
            return png(slide.read((x * slide.mpp, y * slide.mpp), (side, side), slide.mpp * width_px / side))

        return self._kept((slide_id, "region", x, y, width_px, side), slide_id, read)

    def close(self) -> None:
        """Close all slides, those that are being read when they have been."""
        with self._lock:
            self._most = 0
            self._close_idle()

    def _kept(self, key: tuple[object, ...], slide_id: str, make: Callable[[Slide], bytes | None]) -> bytes | None:
        """What is in the cache, else made and put there."""
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        with self._turn, self.slide(slide_id) as slide:
            made = _or_data_error(slide, make)
        if made is not None:
            with self._lock:
                self._cached_bytes += len(made) - len(self._cache.pop(key, b""))
                self._cache[key] = made
                while self._cached_bytes > CACHED_BYTES:
                    self._cached_bytes -= len(self._cache.popitem(last=False)[1])
        return made

    def _close_idle(self) -> None:
        """Close the slides that were used longest ago until few are open; those in use stay."""
        for slide_id in [name for name, entry in self._open.items() if not entry.users]:
            if len(self._open) <= self._most:
                return
            self._open.pop(slide_id).slide.close()


def _or_data_error(slide: Slide, make: Callable[[Slide], Made]) -> Made:
    """What decoders raise on damaged files, in words."""
    try:
        return make(slide)
    except READ_ERRORS as error:
        raise DataError(f"{slide.path} cannot be read there: {error or type(error).__name__}.") from None


def _opened(file: SlideFile) -> Slide:
    """Open a slide and see that the tiles were laid on it."""
    if file.path is None:
        raise DataError(file.reason)
    try:
        slide = open_slide(file.path, mpp=file.mpp)
    except READ_ERRORS as error:
        raise DataError(f"{file.path} cannot be read: {error or type(error).__name__}.") from None
    if file.size_px is not None and slide.size_px != file.size_px:
        slide.close()
        (width, height), (w, h) = slide.size_px, file.size_px
        raise DataError(
            f"{file.path} has {width} x {height} pixels, but its tiles were cut from a slide of {w} x {h}: it is "
            "another file. Give the folder of the slides that the tiles are of: --slides DIR."
        )
    return slide
