"""Slides by tiffslide: kinds of TIFF whose pages are not simply the levels (Leica SCN, Philips, Hamamatsu, stacks)."""

import math
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from milkit.errors import DataError
from milkit.slides.mpp import given_or_found, number
from milkit.slides.opened import OpenedSlide, signature
from milkit.slides.tiff_chain import check_chain
from milkit.slides.tiff_facts import ome_mpp, silent


class TiffslideSlide(OpenedSlide):
    """Through tiffslide's `read_region`; 8-bit RGB only. One thread reads at a time."""

    def __init__(self, path: Path, mpp: float | None) -> None:
        import tiffslide

        size, *_ = signature(path)
        with open(path, "rb") as file:
            check_chain(path, file, size)
        self._lock = threading.Lock()
        try:
            with silent(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._slide = tiffslide.TiffSlide(path, tifffile_options={"_multifile": False})
        except Exception as error:  # damaged files may lead it anywhere
            raise DataError(f"{path} cannot be opened by tiffslide: {_said(error)}.") from None
        try:
            with silent():
                self._check_pixels(path)
            properties = {k: str(v) for k, v in self._slide.properties.items() if v is not None}
            x, y = (number(properties.get(f"tiffslide.mpp-{axis}", "")) for axis in "xy")
            found = None if x is None or y is None else (x, y)
            source = "tiffslide's properties (tiffslide.mpp-x)"
            if found is None:  # of colours in three images tiffslide does not look it up
                found = ome_mpp(str(self._slide.ts_tifffile.ome_metadata or ""))
                source = "OME-XML (PhysicalSizeX, PhysicalSizeY)"
            value, source = given_or_found(path, mpp, found, source)
            sizes = [(int(w), int(h)) for w, h in self._slide.level_dimensions]
            super().__init__(path, value, sizes, {**properties, "milkit.mpp-source": source})
            self._pixels(0, 0, 0, 1, 1)  # whether its compression can be decoded is said only then
        except DataError:
            self._slide.close()
            raise
        except Exception as error:
            self._slide.close()
            raise DataError(f"{path} cannot be understood by tiffslide: {_said(error)}.") from None

    def _check_pixels(self, path: Path) -> None:
        """See that its pixels are 8-bit RGB."""
        axes = self._slide.properties["tiffslide.series-axes"]
        series = self._slide.ts_tifffile.series[self._slide.properties["tiffslide.series-index"]]
        page = series.keyframe
        channels = dict(zip(axes, series.levels[0].shape, strict=False)).get("C" if axes == "CYX" else "S", 1)
        colours = int(page.photometric) == 2 or (int(page.photometric) == 6 and int(page.compression) == 7)
        colours = colours or (axes == "CYX" and int(page.photometric) == 1)
        if axes not in ("YXS", "CYX") or channels != 3 or series.dtype != np.uint8 or not colours:
            raise DataError(
                f"{path} has pixels of {series.dtype} with axes {axes} and {channels} channel(s) "
                f"({getattr(page.photometric, 'name', page.photometric)}); slides are 8-bit RGB. Convert it."
            )

    def _release(self) -> None:
        self._slide.close()

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        try:
            with self._lock, silent(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = _of_level(self._slide, level, x, y, width, height)
        except Exception as error:
            raise DataError(
                f"{self.path}: {width} x {height} pixels at ({x}, {y}) of level {level} cannot be decoded: "
                f"{_said(error)}. Copy the slide again, or leave it out."
            ) from None
        if pixels.shape != (height, width, 3):
            raise DataError(f"{self.path}: level {level} has fewer pixels than it says. Copy the slide again.")
        return pixels


def _of_level(slide: Any, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Exact pixels of a level, by the corner in pixels of level 0 that `read_region` rounds down to (x, y)."""
    coarser = slide.level_downsamples[level]
    corner = tuple(_place(v, coarser) for v in (x, y))
    return np.ascontiguousarray(slide.read_region(corner, level, (width, height), as_array=True))


def _place(pixel: int, coarser: float) -> int:
    """The least pixel of level 0 that tiffslide takes to lie in `pixel` of a level."""
    at = math.ceil(pixel * coarser)
    return at if int(at / coarser) == pixel else at + 1


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
