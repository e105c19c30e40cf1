"""Frames of a video and slices of a volume as bags: images in order, each with its place in time or depth."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from milkit.bag import Bag
from milkit.data.datasets.colon import image_of
from milkit.data.datasets.nifti import MOST_MM, is_nifti, read_nifti
from milkit.data.formats.guard_numpy import open_npy, read_npz
from milkit.data.formats.kind import kind_of
from milkit.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Stack:
    """Images in order: one bag, whose instances are frames or slices.

    Attributes:
        id: the bag's name.
        images: [n, h, w] or [n, h, w, 3], of any number type, in their own order.
        position: place of each image, [n], in `unit`; None where it is not known.
        unit: "s" of a video, "um" of a volume, "" where the position is not known.
    """

    id: str
    images: np.ndarray
    position: np.ndarray | None = None
    unit: Literal["s", "um", ""] = ""

    def bag(self, shrink: int = 1) -> Bag:
        """The images as features: flattened pixels, float32 [n, d], in order; uint8 scaled to 0 ... 1, others as is.

        Positions in micrometres become `coords_um` (x = 0, y = depth). Seconds are no micrometres: a model that needs
        the order of frames has it in the order of the instances, and `position` keeps the times.

        Args:
            shrink: squares of so many pixels are averaged into one, to keep features few.

        Raises:
            DataError: images whose sides are no multiples of `shrink`.
        """
        n, height, width = self.images.shape[:3]
        if shrink < 1 or height % shrink or width % shrink:
            raise DataError(
                f"Bag {self.id!r}: images of {height} x {width} pixels cannot be shrunk by {shrink}; give a "
                "number that divides both sides."
            )
        x = self.images.astype(np.float32) / np.float32(255 if self.images.dtype == np.uint8 else 1)
        x = x.reshape(n, height // shrink, shrink, width // shrink, shrink, -1).mean(axis=(2, 4)).reshape(n, -1)
        coords = None
        if self.unit == "um" and self.position is not None:
            coords = np.stack([np.zeros(n), self.position], axis=1).astype(np.float32)
        return Bag(self.id, x, coords)


def frames(path: str | Path, *, fps: float | None = None, every: int = 1, id: str = "") -> Stack:
    """The frames of a video, in order.

    Args:
        path: a folder of images, ordered by the numbers in their names (frame_2 before frame_10), or an array
            [n, h, w] or [n, h, w, 3] in `.npy` or (alone) in `.npz`. Videos themselves are not decoded.
        fps: frames a second, for positions in seconds; without it they have none.
        every: take one frame of so many.
        id: of the bag; "" takes the name of the folder or file.

    Raises:
        DataError: no images, images of several sizes, or an array of another shape.
    """
    path = _there(Path(path).expanduser(), every)
    images = _folder(path, every) if path.is_dir() else np.atleast_1d(_array(path))[::every]
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise DataError(f"{path}: fps is {fps}; expected frames a second, above 0.")
    seconds = None if fps is None else np.arange(len(images)) * every / fps
    return Stack(id or path.stem, _checked(path, images), seconds, "" if fps is None else "s")


def slices(path: str | Path, *, axis: int, spacing_mm: float | None = None, every: int = 1, id: str = "") -> Stack:
    """The slices of a volume along one axis, in the order of the file.

    Args:
        path: `.npy`, `.npz` (one array), or uncompressed NIfTI-1 (`.nii`), whose voxels stand as [x, y, z]. NIfTI's
            orientation (left, right, head, feet) is not applied.
        axis: along which slices follow one another: 0, 1 or 2 of the array.
        spacing_mm: millimetres from slice to slice; a NIfTI file says it itself. Without it slices have no position.
        every: take one slice of so many.
        id: of the bag; "" takes the file's name.

    Raises:
        DataError: no volume, an axis it does not have, or a spacing that the file contradicts.
    """
    path = _there(Path(path).expanduser(), every)
    said: tuple[float, ...] | None = None
    if is_nifti(path):
        volume, said = read_nifti(path)
    else:
        volume = _array(path)
    if volume.ndim != 3 or axis not in (0, 1, 2):
        raise DataError(f"{path} has shape {volume.shape}, axis is {axis}; expected three axes, and one of 0, 1, 2.")
    own = None if said is None else said[axis]
    if spacing_mm is not None and not 0 < spacing_mm <= MOST_MM:
        raise DataError(f"{path}: spacing_mm is {spacing_mm}; expected millimetres, in (0, {MOST_MM:g}].")
    if own is not None and spacing_mm is not None and not np.isclose(own, spacing_mm, rtol=1e-3):
        raise DataError(f"{path} says {own:g} mm from slice to slice, but spacing_mm={spacing_mm:g}; leave it out.")
    step = own if spacing_mm is None else spacing_mm
    images = _checked(path, np.moveaxis(volume, axis, 0)[::every])
    depth = None if step is None else np.arange(len(images)) * every * step * 1000.0
    return Stack(id or path.stem, images, depth, "" if step is None else "um")


def _there(path: Path, every: int) -> Path:
    """The path, if it is a folder or a file on a disk; a pipe would be waited for."""
    if every < 1:
        raise DataError(f"every is {every}; expected a whole number, at least 1: one image of so many is taken.")
    if not (path.is_dir() or path.is_file()):
        raise DataError(f"No file or folder at {path}; the folder is {Path.cwd()}.")
    return path


def _folder(path: Path, every: int) -> np.ndarray:
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGES), key=_by_number)
    if not files:
        raise DataError(f"{path} holds no image ({', '.join(IMAGES)}).")
    images: list[np.ndarray] = []
    for file in files[::every]:
        images.append(image_of(file))
        if images[-1].shape != images[0].shape:
            raise DataError(f"{file} has {images[-1].shape[:2]} pixels, {files[0].name} {images[0].shape[:2]}.")
    return np.stack(images)


def _by_number(path: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Text and numbers in turn, so that 10 comes after 2."""
    parts = re.split(r"(\d+)", path.stem)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts], path.name


def _array(path: Path) -> np.ndarray:
    """The one array of a `.npy` or `.npz` file."""
    kind = kind_of(path)
    if kind == "npy":
        return np.array(open_npy(path))
    if kind != "npz":
        raise DataError(f"{path} is no array (.npy, .npz), folder of images, or uncompressed NIfTI-1 (.nii).")
    arrays = read_npz(path)
    if len(arrays) != 1:
        raise DataError(f"{path} holds the arrays {sorted(arrays)[:5]}; expected one.")
    return next(iter(arrays.values()))


def _checked(path: Path, images: np.ndarray) -> np.ndarray:
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if not fits or 0 in images.shape or images.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {images.dtype} {images.shape}; expected images [n, h, w] or [n, h, w, 3].")
    most = np.finfo(np.float32).max
    if images.dtype.kind == "f" and not (np.abs(images) <= most).all():
        raise DataError(f"{path} holds NaN, infinity or more than float32 holds; fill them (air, background) first.")
    return images


def stacked(stacks: Sequence[Stack], shrink: int = 1) -> tuple[Bag, ...]:
    """Bags of several stacks, whose images must be of one size; for `milkit.in_memory`."""
    sizes = {stack.images.shape[1:]: stack.id for stack in stacks}
    if len(sizes) > 1:
        raise DataError(f"Images differ in size: {', '.join(f'{name!r} {size}' for size, name in sizes.items())}.")
    return tuple(stack.bag(shrink) for stack in stacks)
