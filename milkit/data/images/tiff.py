"""A TIFF whose pixels Pillow does not know (16-bit colour, many compressions), by tifffile."""

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

SAFE = (1, 8, 32946)
"""Compressions of TIFF that are read here: none, deflate. The others' decoders (LZW's) may crash over damaged files."""


@dataclass(frozen=True, eq=False)
class TiffPixels:
    """The only image of a TIFF file, its header read.

    Attributes:
        shape: height, width, channels.
        dtype: of its pixels.
        pages: images in the file; the levels of a pyramid are one.
        orientation: 1 to 8, as in EXIF.
        photometric: what its channels mean, in TIFF's word.
        compression: TIFF's number of it.
        file: the open file.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    pages: int
    orientation: int
    photometric: str
    compression: int
    file: Any

    @property
    def colours(self) -> bool:
        """Whether channels are grey or RGB, 0 being black."""
        return self.photometric in ("MINISBLACK", "RGB", "YCBCR")

    @classmethod
    def open(cls, stream: BinaryIO) -> "TiffPixels | None":
        """Read the header; None where it is no TIFF."""
        import tifffile  # comes with tiffslide

        try:
            file = tifffile.TiffFile(stream)
        except Exception:  # a damaged header may lead tifffile anywhere
            return None
        try:
            series = file.series
            first = series[0]
            page: Any = first.keyframe
            compression = int(page.compression)
            axes, shape = first.axes, first.shape
            orientation = int(page.tags.valueof("Orientation", 1))
            photometric = getattr(page.photometric, "name", str(page.photometric))
            pages = len(series)
            if axes == "SYX":
                shape = (shape[1], shape[2], shape[0])
            elif axes not in ("YX", "YXS"):  # a stack of slices, channels or times
                pages, shape = max(len(file.pages), 2), tuple(page.shape)
            height, width, bands = (*shape, 1)[:3]
            upright = orientation if 1 <= orientation <= 8 else 1
            return cls((height, width, bands), np.dtype(first.dtype), pages, upright, photometric, compression, file)
        except Exception:  # a damaged header may lead tifffile anywhere
            file.close()
            return None

    def read(self) -> np.ndarray:
        """All pixels, channels last."""
        first = self.file.series[0]
        pixels = first.asarray()
        return np.moveaxis(pixels, 0, -1) if first.axes == "SYX" else pixels

    def close(self) -> None:
        """Close the file."""
        self.file.close()
