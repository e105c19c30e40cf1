"""The fast reader: pieces of a TIFF decoded straight from their bytes, only those that a region touches."""

import contextlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from milkit.errors import DataError
from milkit.slides.mpp import given_or_found
from milkit.slides.opened import WHITE, OpenedSlide, signature
from milkit.slides.tiff_chain import check_chain
from milkit.slides.tiff_facts import facts_of, mpp_of, silent
from milkit.slides.tiff_page import NotPlainError, TiffPage

KEPT = 1 << 26
"""Bytes of decoded pieces that an open slide keeps (64 MiB): two rows of tiles of a slide of 85,000 pixels."""
SHAPE = 0.02
"""How much the proportions of a level may differ from those of level 0."""
OTHERS = ("is_ndpi", "is_scn", "is_bif", "is_philips", "is_ventana", "is_mdgel", "is_lsm", "is_stk", "is_imagej")
"""Kinds (of tifffile) whose pages are not simply the levels of a slide."""


class TiffSlide(OpenedSlide):
    """Tiled TIFF and TIFF in strips: JPEG, JPEG 2000, deflate, LZW, PackBits or raw; 8-bit RGB or grey.

    A tile that the file left out is white. Decoded tiles are kept up to 64 MiB, the last used ones.
    """

    def __init__(self, path: Path, mpp: float | None) -> None:
        size, *_ = signature(path)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(open(path, "rb"))
            check_chain(path, self._file, size)
            self._file.seek(0)
            self._pages, properties, stated = _opened(path, self._file, size)
            value, source = given_or_found(path, mpp, *stated)
            sizes = [(page.width, page.height) for page in self._pages]
            super().__init__(path, value, sizes, {**properties, "milkit.mpp-source": source})
            stack.pop_all()

    def _release(self) -> None:
        self._file.close()
        self._kept.clear()

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        page = self._pages[level]
        tw, th = page.tile_width, page.tile_height
        if (width, height) == (tw, th) and not x % tw and not y % th:
            tile = self._tile(level, y // th * page.columns + x // tw)
            if tile.shape[:2] == (height, width):
                return tile.copy()
        out = np.empty((height, width, 3), np.uint8)
        for row in range(y // th, (y + height - 1) // th + 1):
            for column in range(x // tw, (x + width - 1) // tw + 1):
                top, left = max(y, row * th), max(x, column * tw)
                bottom, right = min(y + height, (row + 1) * th), min(x + width, (column + 1) * tw)
                tile = self._tile(level, row * page.columns + column)
                inside = tile[top - row * th : bottom - row * th, left - column * tw : right - column * tw]
                if inside.shape[:2] != (bottom - top, right - left):
                    raise self._damaged(level, row * page.columns + column, f"it has {tile.shape[1::-1]} pixels")
                out[top - y : bottom - y, left - x : right - x] = inside
        return out

    def _tile(self, level: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """A decoded piece, kept for a while; two threads may decode the same one, which does no harm."""
        with self._lock:
            if (level, index) in self._kept:
                self._kept.move_to_end((level, index))
                return self._kept[level, index]
        tile = self._decoded(level, index)
        with self._lock:
            if (level, index) not in self._kept and not self._closed:
                self._kept[level, index] = tile
                self._bytes += tile.nbytes
            while self._bytes > KEPT and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return tile

    def _decoded(self, level: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
        page = self._pages[level]
        offset, count = int(page.offsets[index]), int(page.counts[index])
        if not count:
            return np.full((page.tile_height, page.tile_width, 3), WHITE, np.uint8)
        try:
            data = self._bytes_at(offset, count)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read: {error}.") from None
        if len(data) < count:
            raise self._damaged(level, index, "the file has become shorter")
        try:
            return page.decode(data, index)
        except Exception as error:  # decoders raise nearly anything over damaged bytes
            raise self._damaged(level, index, str(error) or type(error).__name__) from None

    def _bytes_at(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):  # needs no lock
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def _damaged(self, level: int, index: int, why: str) -> DataError:
        page = self._pages[level]
        changed = "" if self.unchanged() else " The file was changed since it was opened."
        return DataError(
            f"{self.path}: tile {index} of level {level} (from pixel {index % page.columns * page.tile_width}, "
            f"{index // page.columns * page.tile_height} on) cannot be decoded: {why}.{changed} Copy the slide again, "
            "or leave it out."
        )


def _opened(path: Path, file: Any, size: int) -> tuple[list[TiffPage], dict[str, str], tuple[Any, str, str]]:
    """Levels, properties, and what is stated of the mpp."""
    import tifffile

    try:
        with silent():
            tiff = tifffile.TiffFile(file, _multifile=False)
            other = [name for name in OTHERS if getattr(tiff, name, False)]
            if other:
                raise NotPlainError(f"{path} is a TIFF of a kind that is not decoded directly ({other[0][3:]})")
            pages = _levels(path, tiff)
            made = [TiffPage.of(path, page, size) for page in pages]
            facts = facts_of(pages[0])
            return made, facts, mpp_of(pages[0], facts)
    except DataError:
        raise
    except Exception as error:  # a damaged header may lead tifffile anywhere
        raise DataError(
            f"{path} is a TIFF that cannot be understood: {str(error) or type(error).__name__}. It is truncated or "
            "damaged; copy it again."
        ) from None


def _levels(path: Path, tiff: Any) -> list[Any]:
    """Pages of tifffile that are the pyramid: sub-images of the first, else tiled pages of its proportions."""
    first, *rest = [tiff.pages[i].aspage() for i in range(len(tiff.pages))]
    width, height = first.imagewidth, first.imagelength
    if min(width, height) < 1:
        raise DataError(f"{path} claims {width} x {height} pixels. It is damaged; copy it again.")
    larger = next((p for p in rest if p.is_tiled and p.imagewidth > width and p.imagelength > height), None)
    if larger is not None:
        raise DataError(
            f"{path} begins with an image of {width} x {height} pixels, and one of {larger.imagewidth} x "
            f"{larger.imagelength} follows: which of them is the slide is not known. Convert it to a TIFF that begins "
            "with its finest level."
        )
    twins = sum((page.imagewidth, page.imagelength) == (width, height) for page in rest)
    if twins:
        raise NotPlainError(f"{path} is a stack of {twins + 1} images or channels of {width} x {height} pixels")
    inner = [page.aspage() for page in first.pages] if first.pages else []
    levels = [first]
    for page in inner or [page for page in rest if page.is_tiled and first.is_tiled]:
        w, h = page.imagewidth, page.imagelength
        smaller = 0 < w < levels[-1].imagewidth and 0 < h < levels[-1].imagelength
        # a level of few pixels is rounded
        in_shape = smaller and abs(w * height / (h * width) - 1) < SHAPE + 1 / min(w, h)
        alike = (page.samplesperpixel, page.dtype) == (first.samplesperpixel, first.dtype)
        if in_shape and alike:
            levels.append(page)
    return levels
