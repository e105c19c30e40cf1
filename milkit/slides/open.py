"""Which reader a slide gets: by what the file holds, not by its name."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, SupportsFloat

from milkit.errors import ConfigError, DataError
from milkit.slides.image import ImageSlide
from milkit.slides.mpp import MppError
from milkit.slides.opened import OpenedSlide, signature
from milkit.slides.openslide_reader import INSTALL, OpenSlideSlide
from milkit.slides.slide import Slide
from milkit.slides.tiff import TiffSlide
from milkit.slides.tiff_page import NotPlainError
from milkit.slides.tiffslide_reader import TiffslideSlide

Reader = Literal["auto", "tiff", "tiffslide", "openslide"]
"""auto: by content. tiff: tiles decoded straight through tifffile. tiffslide, openslide: these packages."""
READERS: dict[str, Callable[[Path, float | None], OpenedSlide]] = {
    "tiff": TiffSlide,
    "tiffslide": TiffslideSlide,
    "openslide": OpenSlideSlide,
}
"""In the order in which they are tried."""
KNOWN = (".mrxs", ".dcm", ".vms", ".vmu", ".czi", ".zvi")
"""Endings of formats that are not TIFF and that OpenSlide reads."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def open_slide(path: str | os.PathLike[str], *, mpp: SupportsFloat | None = None, reader: Reader = "auto") -> Slide:
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
    path, mpp = Path(path), None if mpp is None else float(mpp)
    signature(path)
    if reader == "auto":
        return _by_content(path, mpp)
    if reader not in READERS:
        raise ConfigError(f"There is no reader {reader!r} of slides; expected one of auto, {', '.join(READERS)}.")
    if reader != "openslide" and _kind(path) != "tiff":
        raise DataError(f"{path} is no TIFF, which the reader {reader!r} needs; leave the reader to be chosen (auto).")
    try:
        return READERS[reader](path, mpp)
    except NotPlainError as error:
        raise DataError(f"{error}. Leave the reader to be chosen (auto), or convert it to 8-bit RGB.") from None


def _by_content(path: Path, mpp: float | None) -> Slide:
    """The fastest reader that can read the file."""
    kind = _kind(path)
    if kind == "image" and path.suffix.lower() != ".mrxs":  # which looks like a JPEG, its pixels are in a folder
        return ImageSlide(path, mpp)
    if kind != "tiff":
        return _by_openslide(path, mpp)
    said = []
    for named, by in READERS.items():  # the same one wherever the file is opened, unless only OpenSlide can
        if named == "openslide" and importlib.util.find_spec("openslide") is None:
            continue
        try:
            return by(path, mpp)
        except NotPlainError as error:
            said.append(str(error))
        except MppError:
            raise
        except DataError as error:
            if named == "tiff":  # damaged: others would only say it in other words
                raise
            said.append(str(error))
    raise DataError("; ".join(said).rstrip(".") + ".")


def _by_openslide(path: Path, mpp: float | None) -> Slide:
    """A file that is neither TIFF nor image, if OpenSlide knows it."""
    named = path.suffix.lower()
    if importlib.util.find_spec("openslide") is None:
        also = f" If it is a {named[1:]} slide, install the extra `openslide`: {INSTALL}." if named in KNOWN else ""
        raise DataError(
            f"{path} is neither TIFF (SVS, OME-TIFF), PNG nor JPEG by its content: it is damaged, encrypted, or of "
            f"another format.{also or ' Copy it again, or convert it to a tiled TIFF.'}"
        )
    return OpenSlideSlide(path, mpp)


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
