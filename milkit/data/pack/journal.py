"""The folder beside the target that a pack works in, and the journal of finished slides that a resume goes on from."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from milkit.data.pack.plan import Plan
from milkit.data.pack.rounding import Rounding
from milkit.errors import DataError


@dataclass(frozen=True)
class Written:
    """One slide that is in its file.

    Attributes:
        index: of the slide.
        features, coords_um, coords_px: sha256 of the bytes written; "" for positions that the slide has not.
        mpp: micrometres per pixel of level 0, None where unknown.
        tile_um: width of a tile, None where unknown.
        tile_px: width of a tile in pixels of level 0, None where unknown.
        rounding: of its features.
        source: name, bytes and sha256 of the file it is from, where this is the first slide of that file.
    """

    index: int
    features: str
    coords_um: str = ""
    coords_px: str = ""
    mpp: float | None = None
    tile_um: float | None = None
    tile_px: float | None = None
    rounding: Rounding = field(default_factory=Rounding)
    source: dict[str, Any] | None = None

    @property
    def line(self) -> str:
        """As a line of the journal."""
        return json.dumps(asdict(self), sort_keys=True) + "\n"

    @property
    def source_line(self) -> str:
        """The source file as the store keeps it."""
        return json.dumps(self.source, sort_keys=True)


class Work:
    """The work folder of a pack: `.<store>.pack`, on the target's disk.

    Attributes:
        path: of the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.with_name(f".{out.name}.pack")

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep a second process out of the folder, which is made."""
        return alone(self.path, f"Another milkit pack is writing {self.out}")

    def begin(self, plan: Plan, resume: bool) -> None:
        """Settle whether this is a new pack or goes on with one.

        Raises:
            DataError: a pack was interrupted here and `resume` was not asked for; or it was of other features or
                options.
        """
        said = self.path / "plan.json"
        if not said.is_file():  # nothing that could be gone on with
            said_now = {"fingerprint": plan.fingerprint, "dtype": plan.dtype, "options": plan.asked.said}
            write_whole(said, json.dumps(said_now, sort_keys=True, indent=1))
            return
        if not resume:
            raise DataError(
                f"An interrupted pack of {self.out} lies in {self.path}: go on with --resume, or throw it away with "
                "--overwrite."
            )
        if json.loads(said.read_text())["fingerprint"] != plan.fingerprint:
            raise DataError(
                f"The pack in {self.path} cannot be gone on with: the features, their files or the options have "
                "changed since. Give the same ones, or begin anew with --overwrite."
            )

    def shard(self, number: int) -> Path:
        """File of a shard while it is written."""
        return self.path / f"shard-{number:05d}.h5"

    def positions(self, number: int, name: str) -> Path:
        """Flat file of a shard's positions."""
        return self.path / f"{name}-{number:05d}.bin"

    def published(self, number: int) -> Path:
        """A note with the digest of a shard that is whole and about to get its name."""
        return self.path / f"done-{number:05d}.txt"

    def finished(self) -> dict[int, Written]:
        """The journal: slides that are written; a last line that was cut short is none."""
        journal = self.path / "journal.jsonl"
        found: dict[int, Written] = {}
        if journal.is_file():
            for line in journal.read_text().splitlines(keepends=True):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    values = json.loads(line) if line.endswith("\n") else {}
                    entry = Written(**{**values, "rounding": Rounding(**values["rounding"])})
                    found[entry.index] = entry
        return found

    def begin_journal(self, kept: dict[int, Written]) -> None:
        """Write the journal anew with what was found to be sound."""
        write_whole(self.path / "journal.jsonl", "".join(entry.line for entry in kept.values()))

    def note(self, entry: Written) -> None:
        """Add a finished slide."""
        with (self.path / "journal.jsonl").open("a") as file:
            file.write(entry.line)

    def clear(self) -> None:
        """Throw away what lies in the folder; the lock stays."""
        for entry in self.path.iterdir():
            if entry.name != "lock":
                entry.unlink()

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def alone(folder: Path, otherwise: str) -> Iterator[None]:
    """Keep a second process out of a folder, which is made.

    Args:
        folder: a file `lock` in it is locked until the end, however the process ends.
        otherwise: what is said where another holds it.

    Raises:
        DataError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{otherwise}; wait for it, or end it.") from None
        yield


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
