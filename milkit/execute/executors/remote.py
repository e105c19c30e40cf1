"""One program of a study on another machine: what a Ray task does, with no Ray in it beyond the mailbox it is given.

The task makes a run folder of its own from what it was handed, runs the program there, and returns the files that the
program left. While it runs it hands each new checkpoint to the mailbox, which outlives its machine.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from milkit.errors import MilkitError
from milkit.execute.executors.base import run_once, set_jax
from milkit.execute.executors.handover import BAGS, rebuild
from milkit.execute.prepare import Prepared
from milkit.execute.program import CHECKPOINT, program_folder
from milkit.execute.search import grown
from milkit.watch.program import FILE as PROGRESS

BEAT_SECONDS = 1.0
"""The least time between two messages of a task to the mailbox."""
_built: dict[str, Prepared] = {}


@runtime_checkable
class Mailbox(Protocol):
    """What a task tells of itself and asks, over the network."""

    def beat(self, program: int, files: Mapping[str, bytes], rows: list[list[dict[str, Any]]]) -> bool:
        """Hand over new files and epochs; returns whether to stop."""

    def kept(self, program: int) -> dict[str, bytes]:
        """Files of an earlier attempt: its checkpoint and history."""


def run_program_here(task: Mapping[str, Any], handed: Mapping[str, bytes], mailbox: Mailbox) -> dict[str, Any]:
    """Run a program in a folder of its own.

    Args:
        task: "program", "bits", "jax" (settings), "folder" (to work in), "tracked".
        handed: files of the run folder by name, and the bags of a study in memory.
        mailbox: of the driver.

    Returns:
        "files" that the program left, by name; and "error" (class, message) or "stopped" (where), if it was.
    """
    _set_process(task)
    program = int(task["program"])
    with tempfile.TemporaryDirectory(prefix="milkit-") as temporary:
        out = Path(temporary)
        try:
            write_files(out, handed)
            write_files(out, mailbox.kept(program))
            (out / "weights").mkdir(exist_ok=True)
            beats = _Beats(mailbox, program, out)
            study = grown(_study(out, handed, task["bits"]), out)
            run_once(study, program, out, [beats] if task["tracked"] else [], beats.stop)
            beats.last()
        except MilkitError as error:
            return {"error": [type(error).__name__, str(error)], "files": files_of(out, program)}
        except KeyboardInterrupt as where:
            return {"stopped": str(where), "files": files_of(out, program)}
        return {"files": files_of(out, program)}


class _Beats:
    """Hands checkpoints and epochs on while a program runs; stands as a tracker and as what is asked to stop."""

    def __init__(self, mailbox: Mailbox, program: int, out: Path) -> None:
        self._mailbox, self._program, self._out = mailbox, program, out
        self._rows: list[list[dict[str, Any]]] = []
        self._next, self._seen, self._stopping = 0.0, 0, False

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """One epoch of the program."""
        self._rows.append(json.loads(json.dumps(rows, default=float)))

    def close(self) -> None:
        """Nothing is held."""

    def stop(self) -> bool:
        """Whether to stop, as of a second ago at most."""
        if time.monotonic() >= self._next:
            self.last()
            self._next = time.monotonic() + BEAT_SECONDS
        return self._stopping

    def last(self) -> None:
        """Hand over what there is."""
        folder, files = program_folder(self._out, self._program), {}
        names = [PROGRESS]
        with contextlib.suppress(FileNotFoundError):
            changed = (folder / CHECKPOINT).stat().st_mtime_ns
            if changed != self._seen:  # history first: it is flushed before the checkpoint, so it is never behind
                self._seen, names = changed, [PROGRESS, CHECKPOINT, "history.jsonl"]
        for name in names:
            if (folder / name).exists():
                files[f"{folder.relative_to(self._out)}/{name}"] = (folder / name).read_bytes()
        rows, self._rows = self._rows, []
        self._stopping = self._mailbox.beat(self._program, files, rows)


def files_of(out: Path, program: int) -> dict[str, bytes]:
    """What a program has left, `done.json` last."""
    folder = program_folder(out, program)
    found = [*(out / "weights").glob(f"{program:04d}.*"), *(p for p in sorted(folder.iterdir()) if p.is_file())]
    found = [p for p in found if not p.name.startswith(".") and p.suffix != ".tmp"]
    found.sort(key=lambda p: p.name == "done.json")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in found}


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Files by their names, in their order, into a folder that nobody else uses."""
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


def _study(out: Path, handed: Mapping[str, bytes], bits: Mapping[str, Any]) -> Prepared:
    """The study without its search's programs; built once a process."""
    digest = json.loads(handed["config.json"])["digest"]
    if digest not in _built:
        _built.clear()
        _built[digest] = rebuild(out, out / BAGS if BAGS in handed else None, bits)
    return _built[digest]


def _set_process(task: Mapping[str, Any]) -> None:
    """Folder and JAX as in the driver."""
    if os.path.isdir(task["folder"]):  # paths in an experiment are read from where it was started
        os.chdir(task["folder"])
    set_jax(task["jax"])
