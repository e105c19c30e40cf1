"""Slides by OpenSlide, an extra: MRXS, DICOM, and what else it reads."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from milkit.errors import DataError
from milkit.slides.mpp import given_or_found, number
from milkit.slides.opened import OpenedSlide

INSTALL = 'pip install "milkit[openslide]"'


class OpenSlideSlide(OpenedSlide):
    """Through OpenSlide's `read_region`, which is safe in threads; what it leaves transparent is white.

    At levels above 0 it takes a corner in pixels of level 0, so that a corner there may be half of such a pixel off.
    """

    def __init__(self, path: Path, mpp: float | None) -> None:
        try:
            import openslide
        except ImportError:
            raise DataError(
                f"{path} needs OpenSlide, which is not installed. Install the extra `openslide`: {INSTALL}."
            ) from None
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise DataError(f"{path} cannot be opened by OpenSlide: {_said(error)}.") from None
        try:
            properties = {str(k): str(v) for k, v in self._slide.properties.items()}
            x, y = (number(properties.get(f"openslide.mpp-{axis}", "")) for axis in "xy")
            found = None if x is None or y is None else (x, y)
            power = properties.get("openslide.objective-power")
            hint = f" (it states a magnification of {power})" if power else ""
            value, source = given_or_found(path, mpp, found, "OpenSlide's properties (openslide.mpp-x)", hint)
            sizes = [(int(w), int(h)) for w, h in self._slide.level_dimensions]
            super().__init__(path, value, sizes, {**properties, "milkit.mpp-source": source})
        except BaseException:
            self._slide.close()
            raise

    def _release(self) -> None:
        self._slide.close()

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        from PIL import Image

        coarser = self._slide.level_downsamples[level]
        try:
            region = self._slide.read_region((round(x * coarser), round(y * coarser)), level, (width, height))
        except Exception as error:
            raise DataError(
                f"{self.path}: {width} x {height} pixels at ({x}, {y}) of level {level} cannot be decoded: "
                f"{_said(error)}. Copy the slide again, or leave it out."
            ) from None
        if region.getextrema()[3][0] == 255:  # nothing is transparent
            return np.asarray(region.convert("RGB"))
        ground = Image.new("RGBA", region.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(ground, region).convert("RGB"))


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
