"""Which slide goes into which file, and where in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.errors import DataError

GIB = 2**30


@dataclass(frozen=True)
class Shard:
    """One file of a store.

    Attributes:
        number: its place, from 1.
        path: the file.
        first: index of its first slide.
        lengths: instances of each of its slides.
    """

    number: int
    path: Path
    first: int
    lengths: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Instances of all its slides."""
        return sum(self.lengths)

    @property
    def slides(self) -> range:
        """Indices of its slides."""
        return range(self.first, self.first + len(self.lengths))


def shards(out: Path, lengths: Sequence[int], row_bytes: int, gib: float | None) -> tuple[Shard, ...]:
    """Cut slides, in their order, into files of at most `gib` each; a slide larger than that has a file of its own.

    Args:
        out: name of the store; several files are called `<name>-00001-of-00003.h5` and so on.
        lengths: instances of each slide.
        row_bytes: bytes of an instance.
        gib: largest size of a file in GiB; None makes one file of any size.

    Raises:
        DataError: a size that is none.
    """
    if gib is not None and not (np.isfinite(gib) and gib > 0):
        raise DataError(f"shard_gib={gib}; expected a size in GiB above 0, such as 64.")
    most = float("inf") if gib is None else gib * GIB
    parts: list[list[int]] = [[]]
    held = 0
    for length in lengths:
        if parts[-1] and held + length * row_bytes > most:
            parts.append([])
            held = 0
        parts[-1].append(int(length))
        held += length * row_bytes
    names = [out] if len(parts) == 1 else [_named(out, k + 1, len(parts)) for k in range(len(parts))]
    firsts = np.cumsum([0, *map(len, parts)]).tolist()
    return tuple(
        Shard(k + 1, name, first, tuple(part))
        for k, (name, first, part) in enumerate(zip(names, firsts, parts, strict=False))
    )


def _named(out: Path, number: int, of: int) -> Path:
    return out.with_name(f"{out.stem}-{number:05d}-of-{of:05d}{out.suffix}")


def of_same_name(out: Path) -> list[Path]:
    """Stores that are there already under this name: whole, or as shards of any number."""
    shard = re.compile(re.escape(out.stem) + r"-\d{5}-of-\d{5}" + re.escape(out.suffix))
    beside = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
    return [path for path in beside if path.name == out.name or shard.fullmatch(path.name)]
