"""Masks of images: what a model is scored by, opened only when somebody asks for one."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from milkit.data.images.decode import SUFFIXES, Reading, raw_pixels, stem_of
from milkit.errors import DataError

BINARY = 255
"""What foreground is in a mask of two values."""


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a study's images, as files; nothing is opened before `truth` or `objects` is called.

    Only scoring may call them: training sees images and image labels. (A crop study calls them for the images whose
    crops it labels, and says so.)

    Attributes:
        ids: of the images, in the order of the study's bags.
        paths: each image's mask, None where there is none.
        sizes: height and width of each image as it was read, int [B, 2].
        reading: how the images were read; masks are downsampled with them, each block by the pixel at its centre.
        foreground: values that count; () for every one but 0.
    """

    ids: tuple[str, ...]
    paths: tuple[Path | None, ...]
    sizes: np.ndarray
    reading: Reading = Reading()
    foreground: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def has(self, i: int) -> bool:
        """Whether there is a mask of image i."""
        return self.paths[i] is not None

    def truth(self, i: int) -> Int[np.ndarray, "h w"]:
        """The mask of image i: 1 on foreground, 0 elsewhere, as large as the image.

        Raises:
            DataError: there is none; it has another size or values that no mask has; it cannot be read.
        """
        labels = self.objects(i)
        return (np.isin(labels, self.foreground) if self.foreground else labels > 0).astype(np.int32)

    def objects(self, i: int) -> Int[np.ndarray, "h w"]:
        """The labels of image i as stored: 0 for background; objects have numbers, a mask of two values has one.

        Raises:
            DataError: as `truth`.
        """
        path = self.paths[i]
        if path is None:
            raise DataError(f"There is no mask of image {self.ids[i]!r}; score images that have one.")
        return read_mask(path, self.ids[i], (int(self.sizes[i, 0]), int(self.sizes[i, 1])), self.reading)


def read_mask(path: Path, image: str, size: tuple[int, int], reading: Reading) -> Int[np.ndarray, "h w"]:
    """A mask's labels.

    Args:
        path: its file.
        image: id of its image, for messages.
        size: height and width of the image as it was read.
        reading: how the image was read.

    Raises:
        DataError: it has another size or values that no mask has, or cannot be read.
    """
    pixels, mode, lossy = raw_pixels(path, reading)
    labels = _one_channel(path, pixels, mode)
    step = reading.downsample
    height, width = labels.shape
    if (-(-height // step), -(-width // step)) != size:
        raise DataError(
            f"{path}, the mask of image {image!r}, has {height} x {width} pixels (height x width), but the image has "
            f"{size[0]} x {size[1]}{f' after downsample={step}' if step > 1 else ''}. Give the mask of the whole image."
        )
    _check_values(path, labels, lossy)
    if step > 1:
        rows, columns = (
            np.minimum(np.arange(n) * step + step // 2, whole - 1) for n, whole in zip(size, labels.shape, strict=True)
        )
        labels = labels[rows[:, None], columns]
    return labels.astype(np.int32)


def _one_channel(path: Path, pixels: np.ndarray, mode: str) -> np.ndarray:
    """[h, w] of whole numbers; colours only where all three are alike."""
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):  # transparency
        if (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
            raise DataError(f"{path} is a mask with transparent pixels ({mode}); expected one channel of labels.")
        pixels = pixels[..., :-1]
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise DataError(
                f"{path} is a mask in colour ({mode}); expected one channel: 0 for background, and 255 or the numbers "
                "of the objects. Save it as such a PNG."
            )
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "iu" or pixels.ndim != 2:
        raise DataError(f"{path} is a mask of {pixels.dtype} ({mode}); expected whole numbers in one channel.")
    return pixels


def _check_values(path: Path, labels: np.ndarray, lossy: bool) -> None:
    """Refuse greys between background and foreground, which compression with loss and smoothing make."""
    small = labels.dtype in (np.uint8, np.uint16)
    found = np.flatnonzero(np.bincount(labels.ravel())) if small else np.unique(labels)
    if found[0] < 0:
        raise DataError(f"{path} is a mask with the value {found[0]}; expected 0 for background and numbers above it.")
    others = found[found > 0]
    two = len(others) <= 1
    numbered = not lossy and (BINARY not in others or len(others) == others[-1])
    if not two and not numbered:
        raise DataError(
            f"{path} is a mask with {len(found)} grey values ({', '.join(map(str, found[:4].tolist()))} ...); expected "
            "0 and 255, or 0 and the numbers of the objects. Greys in between come from JPEG or from smoothing: save "
            "it as PNG, cut at 128."
        )


@dataclass(frozen=True, eq=False)
class MaskFolder:
    """Masks that lie in a folder, one an image, by their names; listed once, none opened.

    Attributes:
        folder: where.
        by_stem: path of each file, by its name without extension.
    """

    folder: Path
    by_stem: dict[str, Path] = field(repr=False)

    @classmethod
    def of(cls, folder: Path) -> "MaskFolder":
        """List a folder.

        Raises:
            DataError: there is none, or two files have one name.
        """
        if not folder.is_dir():
            raise DataError(f"masks={str(folder)!r} is neither a folder nor a column of the table.")
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in SUFFIXES:
                continue
            if path.stem in found:
                raise DataError(f"{folder} holds two masks of one name, {found[path.stem].name} and {path.name}.")
            found[path.stem] = path
        return cls(folder, found)

    def of_image(self, file: str) -> Path | None:
        """The mask of an image's file: of the same name, or with `_mask` or `_anno` after it."""
        stem = stem_of(file)
        return next((self.by_stem[n] for n in (stem, f"{stem}_mask", f"{stem}_anno") if n in self.by_stem), None)
