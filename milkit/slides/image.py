"""A PNG or JPEG as a slide of one level, wholly in memory."""

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from milkit.errors import DataError
from milkit.slides.mpp import given_or_found
from milkit.slides.opened import OpenedSlide, signature

MOST_PIXELS = 1 << 28
"""Of an image that is held in memory: 16,384 x 16,384 (800 MB)."""
RATIO = 1100
"""Most bytes of pixels a byte of file: a little more than deflate can reach."""
SLACK = 1 << 24
"""Bytes of pixels that any file may hold, so that small blank images are no matter of ratios."""


class ImageSlide(OpenedSlide):
    """An image as it is stored: an EXIF orientation is not applied; transparent pixels lie over white."""

    def __init__(self, path: Path, mpp: float | None) -> None:
        held, *_ = signature(path)
        value, source = given_or_found(path, mpp, None, "")
        self._image, properties = decode(path, held)
        height, width = self._image.shape[:2]
        super().__init__(path, value, [(width, height)], {**properties, "milkit.mpp-source": source})

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        return self._image[y : y + height, x : x + width].copy()


def decode(path: Path, held: int) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, str]]:
    """RGB of an image file of `held` bytes, and what it says of itself.

    Raises:
        DataError: not a PNG or JPEG, truncated or damaged, more than 8 bits a channel, or more pixels than allowed or
            than its bytes can hold.
    """
    from PIL import Image  # light work does without it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are judged here in words of ours
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                check_claim(path, image.width, image.height, held)
                deep = image.mode.startswith(("I", "F")) or any("16" in str(tile[3]) for tile in image.tile[:1])
                if deep and image.format == "PNG":
                    raise DataError(f"{path} has more than 8 bits a channel; slides are 8-bit RGB. Convert it.")
                return _rgb(image), {"milkit.format": str(image.format)}
        except DataError:
            raise
        except Exception as error:  # Pillow raises nearly anything over damaged files
            raise DataError(
                f"{path} cannot be decoded as an image: {error or type(error).__name__}. It is truncated or damaged; "
                "copy it again."
            ) from None


def check_claim(path: Path, width: int, height: int, held: int) -> None:
    """Refuse a size that a file of `held` bytes cannot have, or that does not fit in memory, before it is decoded.

    Raises:
        DataError: as said.
    """
    size = f"{path} claims {width} x {height} pixels"
    if width < 1 or height < 1 or width * height * 3 > max(SLACK, RATIO * held):
        raise DataError(f"{size}, which its {held:,} bytes cannot hold. It is damaged; copy it again.")
    if width * height > MOST_PIXELS:
        raise DataError(f"{size}, more than the {MOST_PIXELS:,} of an untiled image. Convert it to a tiled TIFF.")


def _rgb(image) -> UInt8[np.ndarray, "h w 3"]:  # a Pillow image, whose type is not imported here
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        ground = Image.new("RGBA", over.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, over)
    return np.array(image.convert("RGB"))
