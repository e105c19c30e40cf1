"""The live table of the study that this process runs, and its lines in the run folder's `progress.jsonl`.

A thread reads what the programs write, so it makes no difference in which process or on which machine they run.
"""

import os
import secrets
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from milkit.watch.lines import append
from milkit.watch.program import FILE, SLOWEST
from milkit.watch.standing import Reader, Standing
from milkit.watch.table import line, table

EVERY = 0.5
"""Seconds between two looks."""


class Live:
    """Shows a study while its `with` block runs: a table on a terminal, about ten lines elsewhere.

    Args:
        out: the run folder.
        name: of the experiment.
        programs, runs: of the study.
        epochs: of a program.
    """

    def __init__(self, out: Path, name: str, programs: int, runs: int, epochs: int) -> None:
        self._file, self._reader, self._end = out / FILE, Reader(out), threading.Event()
        self._told, self._written, self._began = -1, 0.0, time.monotonic()
        self._session = secrets.token_hex(4)
        self._append("start", {"name": name, "programs": programs, "runs": runs, "epochs": epochs, "pid": os.getpid()})
        self._screen = _screen()
        self._thread = threading.Thread(target=self._watch, name="milkit-live", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """The last line of `progress.jsonl` says how it ended; the table stays on the terminal as it was."""
        self._end.set()
        self._thread.join()
        self._append("end", {"how": "finished" if kind is None else "stopped"})
        standing = self._reader.read()
        if standing is not None:
            self._show(standing, last=True)
        if self._screen is not None:
            self._screen.stop()

    def _watch(self) -> None:
        while not self._end.wait(EVERY):
            standing = self._reader.read()
            if standing is None:
                continue
            self._show(standing)
            now = time.monotonic()
            if now - self._written > min(SLOWEST, max(1.0, (now - self._began) / 60)):
                self._written = now
                self._append("study", asdict(standing))

    def _append(self, event: str, row: dict[str, Any]) -> None:
        append(self._file, {"time": round(time.time(), 2), "event": event, "session": self._session, **row})

    def _show(self, standing: Standing, *, last: bool = False) -> None:
        if self._screen is not None:
            self._screen.update(table(standing), refresh=True)
            return
        tenth = 10 * standing.epochs_done // max(standing.epochs_total, 1)
        if tenth > self._told or last:  # ten lines a study, whatever its length
            self._told = tenth
            print(line(standing), file=sys.stderr, flush=True)


def _screen() -> Any:
    """A started rich display on a terminal, else None."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.live import Live as Screen

    screen = Screen(console=Console(stderr=True), auto_refresh=False, transient=False)
    screen.start()
    return screen
