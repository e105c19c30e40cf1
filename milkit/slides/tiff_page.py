"""One image of a TIFF, tiled or in strips: where its pieces lie, what they hold, and how one becomes RGB."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from milkit.errors import DataError

JPEG, APERIO_YCBCR = 7, 33003
JPEG2000 = (APERIO_YCBCR, 33005, 34712)
COMPRESSIONS = {1: 1, 5: 3000, 7: 0, 8: 1100, 32946: 1100, 32773: 130, **dict.fromkeys(JPEG2000, 0)}
"""None, LZW, JPEG, deflate (two numbers), PackBits, JPEG 2000: most bytes of pixels that a byte of each can become.

0: the piece itself states its size, which is looked at."""
LARGEST_PIECE = 1 << 28
"""Most bytes of one decoded tile or strip."""
SMALL_PIECE = 1 << 24
"""Bytes that any piece may become, whatever its length."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6


class NotPlainError(DataError):
    """A TIFF in order, but of a kind that is left to other readers."""


@dataclass(frozen=True)
class TiffPage:
    """What is needed to decode the pieces of one image.

    Attributes:
        page: tifffile's.
        width, height: pixels of the image.
        tile_width, tile_height: pixels of a piece; a strip is as wide as the image.
        columns: pieces from left to right.
        offsets, counts: where each piece starts in the file, and its bytes; 0 bytes are a piece that was left out.
    """

    page: Any
    width: int
    height: int
    tile_width: int
    tile_height: int
    columns: int
    offsets: Int64[np.ndarray, "pieces"]
    counts: Int64[np.ndarray, "pieces"]

    @classmethod
    def of(cls, path: Path, page: Any, size: int) -> "TiffPage":
        """From a page of tifffile, in a file of `size` bytes.

        Raises:
            NotPlainError: not 8-bit RGB or grey in one plane, or another compression.
            DataError: what it claims does not fit the file.
        """
        _check_pixels(path, page)
        width, height = int(page.imagewidth), int(page.imagelength)
        tile_width = int(page.tilewidth if page.is_tiled else width)
        tile_height = int(page.tilelength if page.is_tiled else min(page.rowsperstrip, height))
        if min(width, height, tile_width, tile_height) < 1:
            raise DataError(f"{path} claims {width} x {height} pixels in tiles of {tile_width} x {tile_height}.")
        columns, rows = -(-width // tile_width), -(-height // tile_height)
        offsets = np.atleast_1d(np.asarray(page.dataoffsets, np.int64))
        counts = np.atleast_1d(np.asarray(page.databytecounts, np.int64))
        if not len(offsets) == len(counts) == columns * rows:
            raise DataError(
                f"{path} claims {width} x {height} pixels, which are {columns * rows:,} tiles of {tile_width} x "
                f"{tile_height}, but lists {len(offsets):,} places and {len(counts):,} lengths. It is damaged; copy or "
                "convert it again."
            )
        short = (offsets < 0) | (counts < 0) | (offsets > size) | (counts > size - offsets)
        if short.any():
            raise DataError(
                f"{path} ends at byte {size:,}, but {int(short.sum()):,} of its {len(counts):,} tiles of "
                f"{width} x {height} pixels lie behind it: it is truncated or damaged. Copy it again."
            )
        found = cls(page, width, height, tile_width, tile_height, columns, offsets, counts)
        found._check_claims(path)
        return found

    def _check_claims(self, path: Path) -> None:
        """See that pieces are of a size that can be held, and that their bytes can become."""
        piece = self.tile_width * self.tile_height * int(self.page.samplesperpixel)
        most = COMPRESSIONS[int(self.page.compression)]
        held = self.counts[self.counts > 0]
        if piece > LARGEST_PIECE or (most and len(held) and piece > max(SMALL_PIECE, most * int(held.max()))):
            raise DataError(
                f"{path} claims {self.width} x {self.height} pixels in pieces of {self.tile_width} x "
                f"{self.tile_height}, more than can be held at once ({LARGEST_PIECE >> 20} MiB) or than its bytes can "
                "become. Convert it to a TIFF of tiles of 256 to 1024 pixels."
            )

    def decode(self, data: bytes, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB of one piece from its bytes; at the border it may be smaller than a tile, or stick out.

        Raises:
            ValueError: it states another size than a piece's; decoders raise errors of their own.
        """
        page = self.page
        if int(page.compression) == JPEG:
            self._check_stated(_jpeg_size(data))
            pixels = page.decode(data, index, jpegtables=page.jpegtables)[0]
        else:
            if int(page.compression) in JPEG2000:
                self._check_stated(_jpeg2000_size(data))
            pixels = page.decode(data, index)[0]
        return self._rgb(pixels.reshape(pixels.shape[-3:]))

    def _check_stated(self, stated: tuple[int, int]) -> None:
        # encoders may round up to whole blocks
        if not (0 < stated[0] <= self.tile_width + 64 and 0 < stated[1] <= self.tile_height + 64):
            raise ValueError(f"it states {stated[0]} x {stated[1]} pixels")

    def _rgb(self, pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
        channels = pixels.shape[-1]
        if int(self.page.compression) == APERIO_YCBCR:
            from PIL import Image

            return np.asarray(Image.frombytes("YCbCr", pixels.shape[1::-1], pixels.tobytes()).convert("RGB"))
        if channels == 1:
            grey = 255 - pixels if int(self.page.photometric) == WHITE_IS_ZERO else pixels
            return np.repeat(grey, 3, axis=-1)
        return pixels if channels == 3 else np.ascontiguousarray(pixels[..., :3])


def _check_pixels(path: Path, page: Any) -> None:
    """See that pixels are such as are decoded here."""
    compression, photometric = int(page.compression), int(page.photometric)
    samples, bits = int(page.samplesperpixel), page.bitspersample
    if compression not in COMPRESSIONS:
        raise NotPlainError(f"{path} has pixels of compression {compression}, which is not decoded directly")
    of_colours = photometric in (RGB, YCBCR) and samples == 3
    of_grey = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and samples == 1
    plain = page.dtype == np.uint8 and bits == 8 and (samples == 1 or int(page.planarconfig) == 1)
    converted = photometric != YCBCR or compression in (JPEG, APERIO_YCBCR)
    if not (plain and (of_colours or of_grey) and converted and int(page.imagedepth) == 1):
        raise NotPlainError(
            f"{path} has {samples} channels of {bits} bits ({getattr(page.photometric, 'name', photometric)}); slides "
            "are 8-bit RGB"
        )


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG states."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker == 0xFF:  # filling
            at += 1
            continue
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ValueError("it is no JPEG")


def _jpeg2000_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG 2000 codestream states."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 24 > len(data):
        raise ValueError("it is no JPEG 2000")
    width, height, left, top = struct.unpack_from(">LLLL", data, at + 8)
    return width - left, height - top
