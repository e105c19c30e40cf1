"""An image file as 8-bit RGB: which files are read, how each kind of pixel is converted, and what is refused."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Integer, UInt8

from milkit.data.formats.guard_bytes import regular
from milkit.data.images.tiff import SAFE, TiffPixels
from milkit.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""What Pillow may take a file for; it knows others that run programs of their own."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Endings of image files, tried in this order where a table names an image without one."""
RATIO = 1100
"""Most bytes of pixels a byte of file: a little more than deflate can reach (1032), the most of all these formats."""
SLACK = 1 << 24
"""Bytes of pixels that every file may hold, so that small and blank images are no matter of ratios."""
WHITE = 65535
"""Of 16-bit pixels."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations in which height and width change places."""
BROKEN = Exception
"""What Pillow and tifffile raise over broken files: nearly anything."""


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        downsample: side of the blocks whose mean becomes a pixel; blocks at the border may be smaller.
        white: the value of 16-bit pixels that becomes 255.
        max_megapixels: the most that an image may have, before `downsample`.
    """

    downsample: int = 1
    white: int = WHITE
    max_megapixels: float = 80.0


def stem_of(file: str) -> str:
    """A file's name without its folder, and without its ending if that is an image's."""
    name = Path(file).name
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name


def size_of(path: Path, reading: Reading) -> tuple[int, int]:
    """Height and width of an image as it will be read (orientation and downsampling applied), from its header.

    Raises:
        DataError: no such file, no image, several pages, or more pixels than allowed or than its bytes can hold.
    """
    with _opened(path, reading) as image:
        if isinstance(image, TiffPixels):
            height, width = image.shape[:2]
        elif image.format == "TIFF":  # some versions of Pillow have turned `size` already, others not
            width, height = image.tag_v2[256], image.tag_v2[257]
        else:
            width, height = image.size
        if _orientation(image) in TURNED:
            height, width = width, height
    return -(-height // reading.downsample), -(-width // reading.downsample)


def read_image(path: Path, reading: Reading = Reading()) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
    """An image as RGB, and what was converted.

    Grey becomes RGB of equal parts; a palette its colours; transparent pixels stand on white; CMYK is converted without
    a colour profile, as (1 - C)(1 - K); 16 bits become 8 by `value * 255 / white`, rounded (of a 16-bit colour PNG the
    upper byte is taken); the EXIF orientation is applied.

    Raises:
        DataError: as `size_of`; a file that breaks off; pixels that are no colours (floats, 32 bits, Lab).
    """
    with _opened(path, reading) as image:
        try:
            rgb = _rgb_of_tiff if isinstance(image, TiffPixels) else _rgb
            pixels, said = rgb(path, image, reading)
        except DataError:
            raise
        except BROKEN as error:
            raise _unreadable(path, error) from None
    if reading.downsample > 1:
        pixels = block_means(pixels, reading.downsample)
    return np.ascontiguousarray(pixels), said


def block_means(pixels: UInt8[np.ndarray, "h w c"], side: int) -> UInt8[np.ndarray, "H W c"]:
    """The mean of each block of side x side pixels, rounded (half up); those at right and bottom may be smaller."""
    height, width = pixels.shape[:2]
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    total = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32), columns, axis=1)
    count = np.diff(np.append(rows, height))[:, None] * np.diff(np.append(columns, width))
    count = count[..., None].astype(np.uint32)
    return ((2 * total + count) // (2 * count)).astype(np.uint8)


def raw_pixels(path: Path, reading: Reading = Reading()) -> tuple[np.ndarray, str, bool]:
    """The numbers of an image file as stored (of a palette, the indices), for masks; turned as EXIF says.

    Returns:
        The pixels, [h, w] or [h, w, c]; the file's mode in words; whether it was compressed with loss.

    Raises:
        DataError: as `size_of`; a file that breaks off.
    """
    with _opened(path, reading) as image:
        try:
            if isinstance(image, TiffPixels):
                return turned(image.read(), _orientation(image)), str(image.dtype), False
            lossy = image.format in ("JPEG", "MPO")
            turn = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns TIFF itself when it loads
            image.load()
            return turned(np.asarray(image), turn), str(image.mode), lossy
        except BROKEN as error:
            raise _unreadable(path, error) from None


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [h, w, ...] upright, given their EXIF orientation (1 to 8)."""
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    down = {3, 4, 7, 8}  # rows run upwards
    left = {2, 3, 6, 7}  # columns run leftwards
    pixels = pixels[::-1] if orientation in down else pixels
    return pixels[:, ::-1] if orientation in left else pixels


@contextlib.contextmanager
def _opened(path: Path, reading: Reading) -> Iterator[Any]:
    """The file by Pillow, or by tifffile where Pillow does not know its pixels; only the header is read."""
    try:
        stream = open(path, "rb", opener=lambda p, _: regular(Path(p)))  # noqa: SIM115  # closed by the stack
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(stream)
        held = os.fstat(stream.fileno()).st_size
        if not held:
            raise DataError(f"{path} is empty; put the image there again, or take its row out of the table.")
        image, size, layers, bits = _header(path, stream)
        stack.callback(image.close)
        _check_size(path, size, bits, held, reading)
        if layers > 1:
            raise DataError(f"{path} holds {layers} images or pages; expected one a file. Save each by itself.")
        yield image


def _header(path: Path, stream: BinaryIO) -> tuple[Any, tuple[int, int, int], int, int]:
    """The image, its height, width and channels, the images in the file, and bits a channel."""
    from PIL import Image, UnidentifiedImageError  # comes with tiffslide; light work does without it

    # what it warns of is more than `max_megapixels` may be, and refused in words of ours
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        image: Any = Image.open(stream, formats=FORMATS)
        bands, mode = len(image.getbands()), image.mode
        # other images of a JPEG are previews
        layers = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
        if image.format == "TIFF" and _is_deep(image) and image.tag_v2.get(259, 1) in SAFE:
            return _header_of_tiff(path, stream)  # of 16-bit colours Pillow gives the upper byte
        bits = 1 if mode == "1" else 16 if mode.startswith("I") else 8
        return image, (image.height, image.width, bands), layers, bits
    except UnidentifiedImageError:
        return _header_of_tiff(path, stream)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} claims too many pixels ({error}). Cut it into tiles, or scale it down.") from None
    except BROKEN as error:
        raise _unreadable(path, error) from None


def _is_deep(image: Any) -> bool:
    """Whether colours have 16 bits, of which Pillow gives the upper 8."""
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,))) > 8
    return image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile)


def _header_of_tiff(path: Path, stream: BinaryIO) -> tuple[Any, tuple[int, int, int], int, int]:
    """`_header` by tifffile."""
    stream.seek(0)
    tiff = TiffPixels.open(stream)
    if tiff is None:
        raise DataError(
            f"{path} is no image that can be read; expected PNG, JPEG, TIFF or BMP. Convert it, or take its row "
            "out of the table."
        )
    if tiff.compression not in SAFE:
        tiff.close()
        raise DataError(
            f"{path} is a TIFF of {tiff.dtype} pixels, compressed by method {tiff.compression}; expected none or "
            "deflate. Save it so, or as 8-bit RGB."
        )
    return tiff, tiff.shape, tiff.pages, 8 * tiff.dtype.itemsize


def _check_size(path: Path, size: tuple[int, int, int], bits: int, held: int, reading: Reading) -> None:
    height, width, bands = size
    if height * width > reading.max_megapixels * 1e6:
        raise DataError(
            f"{path} has {height} x {width} pixels (height x width), more than max_megapixels="
            f"{reading.max_megapixels:g}. Cut it into tiles, or scale it down before."
        )
    if height * width * bands * bits / 8 > SLACK + RATIO * held:
        raise DataError(
            f"{path} claims {height} x {width} pixels (height x width), more than its {held} bytes can hold. Its "
            "header is damaged; put the image there again."
        )


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path} cannot be read as an image ({str(error) or type(error).__name__}). It is damaged or breaks off; "
        "put it there again, or take its row out of the table."
    )


def _orientation(image: Any) -> int:
    """1 to 8; Pillow would decode a whole PNG to look for it behind the pixels, so there it counts before them only."""
    if isinstance(image, TiffPixels):
        return image.orientation
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(0x0112, 1)
    except BROKEN:  # a damaged EXIF part says nothing
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _rgb(path: Path, image: Any, reading: Reading) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels that Pillow knows, as RGB."""
    turn = _orientation(image)
    tiff, deep = image.format == "TIFF", _is_deep(image)
    if deep and reading.white != WHITE:
        raise DataError(
            f"{path} has 16-bit colours of which only the upper byte can be read, so white={reading.white} cannot be "
            "heeded. Save it as TIFF without compression or with deflate, or as 8-bit RGB."
        )
    image.load()
    said = ["turned as EXIF says"] if turn > 1 else []
    said += ["upper byte of 16 bits"] if deep else []
    mode = image.mode
    if mode in ("1", "L"):
        grey = np.asarray(image.convert("L"))
        return turned(np.stack([grey] * 3, -1), 1 if tiff else turn), (*said, "grey to RGB")
    if mode.startswith("I"):
        pixels, more = _of_16_bits(path, np.asarray(image), reading)
        return turned(np.stack([pixels] * 3, -1), 1 if tiff else turn), (*said, more, "grey to RGB")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        pixels = on_white(np.asarray(image.convert("RGBA")))
        said.append("transparent pixels on white")
    elif mode in ("RGB", "P", "CMYK", "YCbCr"):
        pixels = np.asarray(image.convert("RGB"))
        said += {"P": ["palette to RGB"], "CMYK": ["CMYK to RGB without a colour profile"]}.get(mode, [])
    else:
        raise DataError(
            f"{path} has pixels of the kind {mode!r}; expected grey, colour, a palette or CMYK of 8 bits, or grey or "
            "colour of 16 bits. Save it as 8-bit RGB."
        )
    return turned(pixels, 1 if tiff else turn), tuple(said)


def _rgb_of_tiff(path: Path, image: TiffPixels, reading: Reading) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels that only tifffile knows (16-bit colour, mostly), as RGB."""
    pixels = image.read()
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype not in (np.uint8, np.uint16) or bands not in (1, 2, 3, 4) or not image.colours:
        raise DataError(
            f"{path} has {bands} channel(s) of {pixels.dtype} ({image.photometric}); expected 1 to 4 of 8 or 16 bits: "
            "grey or RGB, with or without transparency. Save it as 8-bit RGB."
        )
    said = ["turned as EXIF says"] if image.orientation > 1 else []
    if pixels.dtype == np.uint16:
        pixels, more = _of_16_bits(path, pixels, reading)
        said.append(more)
    pixels = pixels.reshape(*pixels.shape[:2], bands)
    if bands < 3:
        pixels = np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], -1)
        said.append("grey to RGB")
    if pixels.shape[2] == 4:
        pixels = on_white(pixels)
        said.append("transparent pixels on white")
    return turned(pixels, image.orientation), tuple(said)


def _of_16_bits(path: Path, pixels: np.ndarray, reading: Reading) -> tuple[np.ndarray, str]:
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > reading.white:
        raise DataError(
            f"{path} holds values from {low} to {high}, but white is {reading.white}. Set white to the largest value "
            "that the camera gives (4095 of 12 bits, 65535 of 16), or save it as 8-bit RGB."
        )
    return to_8_bits(pixels.astype(np.int64), reading.white), f"16 to 8 bits, {reading.white} is white"


def to_8_bits(pixels: Integer[np.ndarray, "..."], white: int) -> UInt8[np.ndarray, "..."]:
    """`value * 255 / white`, rounded (half up)."""
    return ((pixels.astype(np.int64) * 510 + white) // (2 * white)).astype(np.uint8)


def on_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """RGBA laid on white, rounded to the nearest."""
    colour, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
