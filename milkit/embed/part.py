"""What is encoded of one bag, in a folder of its own: rows appended block by block, each noted with its digest."""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from milkit.data.pack.journal import alone, write_whole
from milkit.data.store_write import as_stored, disk_dtype, sync
from milkit.embed.settings import Settings, differences
from milkit.embed.source import Source
from milkit.errors import ConfigError, DataError

HEAD, JOURNAL, FEATURES, DONE = "head.json", "journal.jsonl", "features.bin", "done.json"
POSITIONS = {"coords_um": "<f4", "coords_px": "<i8"}


class StopError(DataError):
    """What no other bag would mend: a disk that is full, an encoder that raises."""


@dataclass(frozen=True)
class Done:
    """A bag that is wholly encoded.

    Attributes:
        id: of the bag.
        tiles: how many.
        width: features of a tile.
        digests: sha256 of the features, `coords_um` and `coords_px`; "" for positions that the bag has not.
        mpp: micrometres a pixel of level 0, None where unknown; likewise
        tile_um: width of a tile in micrometres, and
        width_px: in pixels of level 0.
        facts: of its source.
    """

    id: str
    tiles: int
    width: int
    digests: dict[str, str]
    mpp: float | None
    tile_um: float | None
    width_px: int | None
    facts: dict[str, Any]


def part_folder(work: Path, bag_id: str) -> Path:
    """The folder of a bag; ids may hold what file systems do not take, so it is named by the id's digest."""
    return work / hashlib.sha256(bag_id.encode()).hexdigest()[:24]


def read_done(folder: Path) -> Done | None:
    """What stands there of a bag that is finished; None where it is not, or the note is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Done(**json.loads((folder / DONE).read_text()))
    return None


def finished(work: Path, bag_id: str, settings: Settings, facts: Mapping[str, Any]) -> Done | None:
    """A bag that is wholly encoded with these settings and of this source, which is not opened for it; else None.

    Args:
        work: the folder of all bags.
        bag_id: its id.
        settings: of the store.
        facts: of its source, or those that tell it from another one.
    """
    folder = part_folder(work, bag_id)
    with contextlib.suppress(OSError, ValueError, KeyError):
        head = json.loads((folder / HEAD).read_text())
        if head["settings"] == settings.flat and agree(head["facts"], facts):
            return read_done(folder)
    return None


def agree(found: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether what was written of a source is what is known of it."""
    return all(found.get(name) == value for name, value in json.loads(json.dumps(dict(known))).items())


class Part:
    """A bag under way. Only one process may have it open; what an earlier one wrote soundly is kept.

    Args:
        source: the bag.
        bag_id: its id.
        work: the folder of all parts.
        settings: of the store.

    Attributes:
        start: tiles that are encoded already.
        kept: of those, what an earlier process left.
        done: what was noted when all were; None before.

    Raises:
        ConfigError: what lies there was made with other settings.
        DataError: another process has it open.
        StopError: it cannot be written.
    """

    def __init__(self, source: Source, bag_id: str, work: Path, settings: Settings) -> None:
        self.source, self.id, self.settings = source, bag_id, settings
        self.path, self.block, self.tiles = part_folder(work, bag_id), settings.block(source.side), len(source)
        self.start, self.width, self._sha = 0, 0, hashlib.sha256()
        self._open = contextlib.ExitStack()
        with self._open, writing(self.path):
            self._open.enter_context(alone(self.path, f"Another process is encoding {bag_id!r} (in {self.path})"))
            self._head()
            self.done = read_done(self.path)
            if self.done:
                self.start = self.tiles
            else:
                self._sound()
            self._file = self._open.enter_context((self.path / FEATURES).open("ab", 0))
            self._open = self._open.pop_all()
        self.kept = self.start

    def _head(self) -> None:
        """Compare what lies there with what is wanted; of another file or tiling, it is thrown away."""
        head = self.path / HEAD
        own = {"id": self.id, "tiles": self.tiles, "block": self.block, "facts": dict(self.source.facts)}
        wanted = json.loads(json.dumps({"settings": self.settings.flat, **own}))
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found = json.loads(head.read_text())
            if other := differences(found["settings"], wanted["settings"]):
                raise ConfigError(f"What is encoded of {self.id!r} was made with other settings: {other}.")
            if found == wanted:
                return
        for entry in (DONE, JOURNAL, FEATURES):
            (self.path / entry).unlink(missing_ok=True)
        write_whole(head, json.dumps(wanted, sort_keys=True, indent=1))

    def _sound(self) -> None:
        """Keep the blocks from the first on that are on the disk as they were noted, and cut off the rest."""
        journal, features = self.path / JOURNAL, self.path / FEATURES
        size = disk_dtype(self.settings.dtype).itemsize
        lines: list[str] = []
        with features.open("a+b", 0) as file:
            held = file.seek(0, os.SEEK_END)
            file.seek(0)
            for line in journal.read_text().splitlines(keepends=True) if journal.is_file() else []:
                try:
                    noted = json.loads(line) if line.endswith("\n") else {}
                    start, stop, width, sha = (noted[k] for k in ("start", "stop", "width", "sha256"))
                    sound = (start, stop) == (self.start, self._stop(start)) and width == (self.width or width)
                    sound = sound and stop * width * size <= held
                except (ValueError, TypeError, KeyError):
                    break
                rows = file.read((stop - start) * width * size) if sound else b""
                if not sound or hashlib.sha256(rows).hexdigest() != sha:
                    break
                self._sha.update(rows)
                self.start, self.width = stop, width
                lines.append(line)
            file.truncate(self.start * self.width * size)
        write_whole(journal, "".join(lines))

    def _stop(self, start: int) -> int:
        """Where the block that begins at `start` ends."""
        return min(start + self.block, self.tiles)

    @property
    def blocks(self) -> Iterator[tuple[int, int]]:
        """First tile and end of what is still to be encoded."""
        return ((start, self._stop(start)) for start in range(self.start, self.tiles, self.block))

    def append(self, features: Float[np.ndarray, "n d"]) -> None:
        """Write the features of the next block.

        Raises:
            DataError: a value that is not finite or that the store's dtype does not hold, or another width than before.
            StopError: the disk refuses.
        """
        if self.width and features.shape[1] != self.width:
            raise DataError(f"{self.id!r} has {self.width} features a tile, and {features.shape[1]} from {self.start}.")
        stop = self._stop(self.start)
        if len(features) != stop - self.start:
            raise DataError(f"The encoder gave {len(features)} rows for {stop - self.start} tiles of {self.id!r}.")
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        if len(bad):
            raise DataError(f"The encoder gave NaN or infinity for tile {self.start + int(bad[0])} of {self.id!r}.")
        rows = as_stored(self.id, features, self.settings.dtype, self.start).tobytes()
        noted = {"start": self.start, "stop": stop, "width": features.shape[1]}
        with writing(self.path):
            write_all(self._file, rows)
            with (self.path / JOURNAL).open("a") as journal:
                journal.write(json.dumps({**noted, "sha256": hashlib.sha256(rows).hexdigest()}, sort_keys=True) + "\n")
        self._sha.update(rows)
        self.start, self.width = stop, features.shape[1]

    def finish(self) -> Done:
        """Note that the bag is whole.

        Raises:
            DataError: the source changed while it was read; what was made of it is thrown away.
        """
        if self.done:
            return self.done
        if not self.source.unchanged():
            self.throw_away()
            raise DataError(f"{self.id!r} changed while it was read; tile it again when it is complete.")
        digests = {"features": self._sha.hexdigest()}
        with writing(self.path):
            for name, dtype in POSITIONS.items():
                values = getattr(self.source, name)
                digests[name] = "" if values is None else _write(self.path / f"{name}.bin", values, dtype)
            sync(self.path / FEATURES)
            source = self.source
            sizes = source.mpp, source.tile_um, source.width_px
            self.done = Done(self.id, self.tiles, self.width, digests, *sizes, dict(source.facts))
            write_whole(self.path / DONE, json.dumps(asdict(self.done), sort_keys=True))
        return self.done

    def throw_away(self) -> None:
        """Take away all that was encoded of the bag."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Let go of source and folder; more than once does no harm."""
        self._open.close()
        self.source.close()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full or cannot be written, in words.

    Raises:
        StopError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        raise StopError(
            f"{path} cannot be written: {error.strerror or error}. Make room, or mend it, and repeat the command: what "
            "is encoded is kept."
        ) from error


def write_all(file: io.FileIO, raw: bytes) -> None:
    """Write to an unbuffered file, one call to which may take only a part (a disk nearly full)."""
    left = memoryview(raw)
    while left:
        left = left[file.write(left) :]


def _write(path: Path, values: np.ndarray, dtype: str) -> str:
    """Write positions, and give their sha256."""
    raw = np.ascontiguousarray(values, dtype)
    with path.open("wb") as file:
        file.write(raw.data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(raw.data).hexdigest()
