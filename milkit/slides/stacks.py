"""Frames of a video and slices of a volume as bags: a stack of pictures in an order, each of them an instance."""

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, SupportsIndex

import numpy as np
from jaxtyping import Float, UInt8

from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields

LARGEST = 1 << 14
"""Pixels a side of a square, which is held in memory."""
Axis = Literal["axial", "coronal", "sagittal", "i", "j", "k"]
"""Which way a volume is cut: planes of the body, or an index of the array as it is stored."""


@dataclass(frozen=True)
class Stacking:
    """How frames and slices become square pictures of 8 bits.

    Nothing is assumed of intensities: what is not stored in 8 bits needs `window` or `percentiles`.
    """

    window: tuple[float, float] | None = None
    """Intensities of a volume that become 0 and 255; what lies between is linear. CT: Hounsfield units."""
    percentiles: tuple[float, float] | None = None
    """The window by percentiles of each volume by itself, in 0..100: where units are arbitrary, as in MRI."""
    axis: Axis = "axial"
    """Of NIfTI volumes: `axial` (from the feet up), `coronal` (from the front), `sagittal` (from the right); `i`, `j`,
    `k` cut across the first, second or third index as it is stored."""
    unit: Literal["", "mm", "micron", "meter"] = ""
    """Of the spacing of NIfTI volumes that do not name it; "" leaves them without positions."""
    square: Literal["pad", "crop"] = "pad"
    """Encoders take squares: black borders about the picture, or its middle."""
    side_px: int = 0
    """Pixels a side that squares are resized to (Lanczos); 0 leaves them as they are, for the encoder to resize."""

    def __post_init__(self) -> None:
        check_fields(self, "stacks", window="(-inf, inf)", percentiles="[0, 100]", side_px="[0, 4096]")
        if self.window and self.percentiles:
            raise ConfigError("--window and --percentiles both say what becomes black and white; give one of them.")
        for name, pair in (("window", self.window), ("percentiles", self.percentiles)):
            if pair and not pair[0] < pair[1]:
                raise ConfigError(f"--{name} is {pair[0]:g} {pair[1]:g}; expected LOW HIGH, LOW below HIGH.")

    @property
    def settings(self) -> dict[str, Any]:
        """As JSON-able values, for a store's provenance."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class Stack(ABC):
    """An opened folder of frames or volume.

    Attributes:
        path: the folder or the file.
        positions: of each picture along the stack: the frame's number, or the slice's place.
        side: pixels a side of the squares.
        facts: what a store keeps of it, as JSON-able values: `kind`, `slide` (path), `digest`, `size_px` (width and
            height of a picture), `settings`, `positions`, `position` (what they are: frame, slice, mm), `spacing_mm`
            (from slice to slice, row to row, column to column; None where it is not known) and `notes` (what a reader
            should know).
    """

    coords_px: None = None
    mpp: None = None
    tile_um: None = None
    width_px: None = None

    def __init__(
        self, path: Path, stacking: Stacking, positions: Float[np.ndarray, "n"], size_px: tuple[int, int],
        facts: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.path, self.stacking, self.positions = path, stacking, positions
        self._square = (max if stacking.square == "pad" else min)(size_px)
        if self._square > LARGEST:
            raise DataError(
                f"{path} has pictures of {size_px[0]} x {size_px[1]} pixels; squares of {self._square} are more than "
                f"can be held ({LARGEST}). Take the middle (--square crop), or make them smaller."
            )
        self.side = stacking.side_px or self._square
        self._digest = digest_of(path)
        self.facts: dict[str, Any] = {
            "slide": str(path), "digest": self._digest, "size_px": list(size_px), "settings": stacking.settings,
            "positions": [int(p) if p.is_integer() else p for p in positions.tolist()], **facts,
        }  # fmt: skip

    @abstractmethod
    def _picture(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """One picture as it is stored."""

    @property
    def coords_um(self) -> Float[np.ndarray, "n 2"] | None:
        """Places along the stack as x in micrometres, y is 0; None where the spacing is not known."""
        if self.facts["spacing_mm"] is None:
            return None
        return np.stack([self.positions * 1000, np.zeros(len(self))], axis=1).astype(np.float32)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.positions)

    def read_tiles(self, start: SupportsIndex, stop: SupportsIndex) -> UInt8[np.ndarray, "n side side 3"]:
        """Pictures `start` to `stop` (not included), as squares.

        Raises:
            DataError: one of them is damaged, of another size, or holds numbers that are not finite.
        """
        first, last = operator.index(start), operator.index(stop)
        if not 0 <= first <= last <= len(self):
            raise DataError(f"{self.path} has pictures 0 to {len(self) - 1}; {first} to {last} were asked for.")
        out = np.zeros((last - first, self.side, self.side, 3), np.uint8)
        for place, index in enumerate(range(first, last)):
            if self.side == self._square:
                put_square(out[place], self._picture(index))
            else:
                square = np.zeros((self._square, self._square, 3), np.uint8)
                put_square(square, self._picture(index))
                out[place] = resized(square, self.side)
        return out

    def unchanged(self) -> bool:
        """Whether names, sizes and times of change are what they were when it was opened."""
        try:
            return digest_of(self.path) == self._digest
        except DataError:
            return False

    def close(self) -> None:  # noqa: B027  # frames are opened one by one
        """Let go of the files; more than once does no harm."""

    def __enter__(self) -> "Stack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        changed = not self.unchanged()
        self.close()
        if changed and error is None:
            raise DataError(f"{self.path} was changed while it was read; wait until it is copied, then read it again.")


def put_square(into: UInt8[np.ndarray, "side side 3"], picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Lay a picture into the middle of a black square, or the middle of the picture into a smaller one.

    Where a border cannot be split evenly, the odd pixel is at the bottom or on the right.
    """
    side = len(into)
    height, width = picture.shape[:2]
    y, x = max(0, side - height) // 2, max(0, side - width) // 2
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    h, w = min(side, height), min(side, width)
    into[y : y + h, x : x + w] = picture[top : top + h, left : left + w]


def resized(square: UInt8[np.ndarray, "s s 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A square at another size, by Pillow's antialiased Lanczos filter."""
    from PIL import Image

    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))


def digest_of(path: Path) -> str:
    """Sha256 of names, sizes and times of change: of the file, or of the folder's files that are not hidden.

    Raises:
        DataError: it cannot be read.
    """
    try:
        files = [path]
        if path.is_dir():  # hidden files come and go with desktops
            files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
        stats = [(f.name, f.stat()) for f in files]
    except OSError as fault:
        raise DataError(f"{path} cannot be read: {fault.strerror or fault}.") from None
    return hashlib.sha256("\0".join(f"{n}\0{s.st_size}\0{s.st_mtime_ns}" for n, s in stats).encode()).hexdigest()


def open_stack(path: Path, stacking: Stacking | None = None) -> Stack:
    """Open a folder of frames (PNG, JPEG) or a volume (`.nii`, `.nii.gz`, `.npy`).

    Raises:
        DataError: nothing there, no frames in the folder, or a volume that is damaged or cannot be cut as asked.
        ConfigError: a NIfTI volume where nibabel is not installed.
    """
    from milkit.slides.frames import FrameFolder
    from milkit.slides.volumes import ENDINGS, open_volume

    stacking = stacking or Stacking()
    if path.is_dir():
        return FrameFolder(path, stacking)
    if not path.exists():
        raise DataError(f"There is no {path}; expected a folder of frames, or a volume ({', '.join(ENDINGS)}).")
    return open_volume(path, stacking)


def find_stack(folder: Path, name: str) -> Path:
    """The frame folder or volume of a bag: `folder/name` itself, or with one of the endings of volumes.

    Raises:
        DataError: there is none, or there are several.
    """
    from milkit.slides.volumes import ENDINGS

    found = [p for p in (folder / f"{name}{ending}" for ending in ("", *ENDINGS)) if p.exists()]
    if not found:
        raise DataError(
            f"{folder} holds neither a folder {name!r} of frames nor a volume {name} with an ending of "
            f"{', '.join(ENDINGS)}."
        )
    if len(found) > 1:
        raise DataError(f"{folder} holds {_listed(found)}, which could all be {name!r}; keep one of them.")
    return found[0]


def stack_id(name: str) -> str:
    """A name without the ending of a volume."""
    from milkit.slides.volumes import ENDINGS

    ending = next((e for e in ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)] or name


def _listed(paths: Sequence[Path]) -> str:
    return " and ".join(p.name for p in paths)
