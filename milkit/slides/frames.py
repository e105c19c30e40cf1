"""A folder of frames of a video: PNG or JPEG images in the order of the numbers in their names."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from milkit.errors import DataError
from milkit.slides.image import decode
from milkit.slides.opened import signature
from milkit.slides.stacks import Stack, Stacking

FRAMES = (".png", ".jpg", ".jpeg")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".m4v")
LARGEST = 1 << 53
"""Of a frame's number, so that it is exact as a float64."""
_SHOWN = 5
"""Gaps or files that a note lists."""


class FrameFolder(Stack):
    """Frames in the order of their numbers (frame_2 before frame_10); all of one size.

    Where exactly one number in the names differs from frame to frame, it is the frame's position, so a missing frame
    leaves a gap and a note; otherwise frames stand in the natural order of their names and are counted from 0.
    """

    def __init__(self, path: Path, stacking: Stacking) -> None:
        files, notes = frame_files(path)
        self._files, numbers = in_order(path, files)
        if numbers is not None:
            notes += gaps(numbers)
            positions = np.array(numbers, np.float64)
        else:
            notes.append("names do not differ by one number: frames are counted from 0 in the order of their names")
            positions = np.arange(len(files), dtype=np.float64)
        first = self._decoded(0)
        self._shape = first.shape
        facts: dict[str, Any] = {"kind": "frames", "position": "frame", "spacing_mm": None, "notes": notes}
        super().__init__(path, stacking, positions, (first.shape[1], first.shape[0]), facts)

    def _picture(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        picture = self._decoded(index)
        if picture.shape != self._shape:
            (h, w, _), (height, width, _) = picture.shape, self._shape
            raise DataError(
                f"{self._files[index]} has {w} x {h} pixels, but {self._files[0].name} has {width} x {height}; frames "
                "of a video have one size. Remove what does not belong to it, or make the frames anew."
            )
        return picture

    def _decoded(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        path = self._files[index]
        return decode(path, signature(path)[0])[0]


def frame_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The images of a folder, and a note on what else lies there (hidden files are not mentioned).

    Raises:
        DataError: it cannot be read, or holds no PNG or JPEG.
    """
    try:
        inside = [f for f in folder.iterdir() if not f.name.startswith(".")]
    except OSError as fault:
        raise DataError(f"{folder} cannot be read: {fault.strerror or fault}.") from None
    files = [f for f in inside if f.suffix.lower() in FRAMES and f.is_file()]
    others = sorted(f.name for f in inside if f not in set(files))
    if not files:
        video = next((name for name in others if name.lower().endswith(VIDEOS)), "")
        cut = f" Cut the video into frames: ffmpeg -i {video} frame_%06d.png." if video else ""
        held = f"; it holds {_some(others)}" if others else ", it is empty"
        raise DataError(f"The folder {folder} holds no frame ({', '.join(FRAMES)}){held}.{cut}")
    return files, [f"passed over {len(others)} that are no PNG or JPEG: {_some(others)}"] if others else []


def in_order(folder: Path, files: Sequence[Path]) -> tuple[list[Path], list[int] | None]:
    """Files in natural order; with their numbers, where the names differ by one number and nothing else.

    Raises:
        DataError: two files are the same frame (frame_1 and frame_01, or a PNG and a JPEG of it).
    """
    parts = {f: re.split(r"([0-9]+)", f.stem) for f in files}  # text, number, text, number ... text
    keys = {f: tuple((int(p), "") if i % 2 else (0, p) for i, p in enumerate(said)) for f, said in parts.items()}
    ordered = sorted(files, key=lambda f: (keys[f], f.name))
    for one, other in pairwise(ordered):
        if keys[one] == keys[other]:
            raise DataError(f"{folder} holds {one.name} and {other.name}, which are the same frame; keep one of them.")
    if len({len(key) for key in keys.values()}) != 1:
        return ordered, None
    differ = [i for i, column in enumerate(zip(*keys.values(), strict=True)) if len(set(column)) > 1]
    if len(files) == 1:
        differ = list(range(1, len(keys[ordered[0]]), 2))[-1:]  # its last number
    if len(differ) != 1 or differ[0] % 2 == 0:
        return ordered, None
    numbers = [keys[f][differ[0]][0] for f in ordered]
    return ordered, numbers if numbers[-1] < LARGEST else None


def gaps(numbers: Sequence[int]) -> list[str]:
    """A note on numbers that are missing between the first and the last, given in order; steps of a constant width
    (every tenth frame) are no gaps.
    """
    steps = np.diff(numbers)
    if not len(steps) or steps.min() == steps.max():
        return []
    step = int(np.gcd.reduce(steps))
    missing = [
        f"{a + step}" if b - a == 2 * step else f"{a + step} to {b - step}"
        for a, b in pairwise(numbers)
        if b - a > step
    ]
    count = int((steps // step - 1).sum())
    return [f"{count} frames are missing between {numbers[0]} and {numbers[-1]}: {_some(missing)}"]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
