"""Which reader a slide gets: by what the file holds, not by its name."""

import os
from pathlib import Path
from typing import Literal

from milkit.errors import ConfigError, DataError
from milkit.slides.image import ImageSlide
from milkit.slides.opened import signature
from milkit.slides.slide import Slide
from milkit.slides.tiff import TiffSlide

Reader = Literal["auto", "tiff", "tiffslide", "openslide"]
"""auto: by content. tiff: tiles decoded straight through tifffile. tiffslide, openslide: these packages."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def open_slide(path: str | os.PathLike[str], *, mpp: float | None = None, reader: Reader = "auto") -> Slide:
    """Open a slide for reading.

    Args:
        path: SVS and other TIFF, OME-TIFF, PNG or JPEG; with the extra `openslide` also MRXS, DICOM and what else
            OpenSlide reads. What a file is, is seen from its content.
        mpp: micrometres a pixel of level 0, where the file does not state it or states it wrongly.
        reader: which reader; `auto` takes the fastest that can read the file.

    Returns:
        The slide; close it, or use it as a context manager.

    Raises:
        DataError: no such file; not a slide; truncated or damaged; no mpp, or an mpp outside [0.05, 20].
        ConfigError: no such reader.
    """
    path = Path(path)
    signature(path)
    kind = _kind(path)
    if reader == "auto" and kind == "image":
        return ImageSlide(path, mpp)
    if reader in ("auto", "tiff"):
        return TiffSlide(path, mpp)
    raise ConfigError(f"There is no reader {reader!r} of slides; expected auto, tiff, tiffslide or openslide.")


def _kind(path: Path) -> str:
    """tiff, image, or other."""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"Slide {path} cannot be read: {error.strerror or error}.") from None
    if start.startswith(TIFF):
        return "tiff"
    return "image" if start.startswith((PNG, JPEG)) else "other"
