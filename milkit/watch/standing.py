"""How a study stands, read from the files of its run folder: by the process that runs it, or by any other."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milkit.watch.lines import Tail
from milkit.watch.program import FILE

WINDOW = 20.0
"""Seconds over which a running program's speed is taken, if it has so many behind it."""


SILENT = 60.0
"""Seconds after which a process that says nothing, while others do, is taken to be gone."""


@dataclass(frozen=True)
class Standing:
    """How a study stands. Figures are of training and validation; none is of a test part.

    Attributes:
        name: of the experiment.
        state: "running", or how it ended: "finished", "stopped".
        seconds: since it was started (or taken up) to its last sign.
        silent: seconds since its last sign.
        programs, done, running: programs in all, finished, under way.
        runs, runs_done, learning: runs in all, of finished programs, and those that learn now.
        epochs: that a program trains at most.
        epoch: the least and the most that a running program has behind it.
        epochs_done, epochs_total: over all programs.
        criterion: what `best` is of, or None.
        best: quartiles and median, over the runs so far, of each one's best validation figure.
        best_runs: how many runs that is.
        bags_per_second, run_steps_per_second: over all runs.
        memory_bytes, memory_limit: held by the processes that run; the limit is an accelerator's.
        compiled, compile_seconds, compiled_cached: functions, seconds, and functions that the cache on disk had.
        seconds_left: at the speed so far, None before there is one; runs that stop early make it less.
    """

    name: str
    state: str
    seconds: float
    silent: float
    programs: int
    done: int
    running: int
    runs: int
    runs_done: int
    learning: int
    epochs: int
    epoch: tuple[int, int] | None
    epochs_done: int
    epochs_total: int
    criterion: str | None
    best: tuple[float, float, float] | None
    best_runs: int
    bags_per_second: float | None
    run_steps_per_second: float | None
    memory_bytes: int | None
    memory_limit: int | None
    compiled: int
    compile_seconds: float
    compiled_cached: int
    seconds_left: float | None


class _Program:
    """The lines of one program: of its last attempt, and the sums of those before."""

    def __init__(self, folder: Path) -> None:
        self._tail, self._done = Tail(folder / FILE), folder / "done.json"
        self.attempts: list[list[dict[str, Any]]] = []
        self.done = False

    def read(self) -> None:
        """Take up what is new. Of each attempt the first line, the last, and those within the window are kept."""
        if self.done:
            return
        self.done = self._done.exists()  # before the lines: `done` is the last of them
        for row in self._tail.new():
            if row.get("event") == "start" or not self.attempts:
                self.attempts.append([])
            rows = self.attempts[-1]
            rows.append(row)
            while len(rows) > 2 and rows[2]["time"] <= row["time"] - WINDOW:
                del rows[1]

    @property
    def last(self) -> dict[str, Any] | None:
        """Its newest line."""
        return self.attempts[-1][-1] if self.attempts else None

    def total(self, name: str) -> float:
        """A figure summed over the attempts."""
        return float(sum(rows[-1].get(name, 0) for rows in self.attempts))

    def since(self, began: float) -> bool:
        """Whether its last attempt belongs to a study that began then."""
        return bool(self.attempts) and self.attempts[-1][0]["time"] >= began

    def rate(self, name: str) -> float:
        """Of a figure that grows, in units a second, over the window."""
        rows = self.attempts[-1]
        old = rows[1] if len(rows) > 2 else rows[0]
        passed = rows[-1]["time"] - old["time"]
        return (rows[-1][name] - old[name]) / passed if passed > 0 else 0.0

    def trained(self) -> int:
        """Epochs of its last attempt."""
        rows = self.attempts[-1]
        return (rows[-1]["epochs"] if self.done else rows[-1]["epoch"]) - rows[0]["epoch"]


@dataclass
class _Session:
    """A process that runs the study, or some of its programs: first line, last sign, how it ended ("" if not)."""

    head: dict[str, Any]
    sign: float
    how: str = ""


class Reader:
    """Reads a run folder again and again, each line once.

    Args:
        out: the run folder.
    """

    def __init__(self, out: Path) -> None:
        self._out, self._tail = out, Tail(out / FILE)
        self._sessions: dict[str, _Session] = {}
        self._programs: list[_Program] = []

    def read(self) -> Standing | None:
        """How it stands now; None where no study has begun."""
        for row in self._tail.new():
            if row.get("event") == "start":
                self._sessions[row["session"]] = _Session(row, float(row["time"]))
            elif (session := self._sessions.get(row.get("session", ""))) is not None:
                session.sign, session.how = float(row["time"]), row.get("how", "")
        if not self._sessions:
            return None
        for number in range(len(self._programs), self._newest.head["programs"]):
            self._programs.append(_Program(self._out / "programs" / f"{number:04d}"))
        for program in self._programs:
            program.read()
        return self._standing()

    def total(self, name: str) -> float:
        """A figure of the programs' lines, summed over programs and attempts."""
        return float(sum(p.total(name) for p in self._programs))

    @property
    def _newest(self) -> "_Session":
        return max(self._sessions.values(), key=lambda s: s.sign)

    def _standing(self) -> Standing:
        newest = self._newest
        # several processes may share a folder; one that was killed wrote no end, and is silent while others speak
        alive = [s for s in self._sessions.values() if not s.how and s.sign > newest.sign - SILENT]
        head, began = newest.head, float(min(s.head["time"] for s in alive or [newest]))
        done = [p for p in self._programs if p.done]
        running = [p for p in self._programs if not p.done and p.since(began)] if alive else []
        now = [p.last for p in running if p.last is not None]
        seen = max([newest.sign, *(row["time"] for row in now)])
        passed = max(seen - began, 1e-9)
        session = [p for p in self._programs if p.since(began)]
        trained = sum(p.trained() for p in session)
        epochs_done = len(done) * head["epochs"] + sum(row["epoch"] for row in now)
        left = head["epochs"] * head["programs"] - epochs_done
        pace = trained / passed if any(p.done for p in session) else sum(p.rate("epoch") for p in running)
        memory = {row["pid"]: row for row in now}.values()
        limits = [row["memory_limit"] for row in memory if row.get("memory_limit")]
        best = [v for p in self._programs if p.last for v in p.last["best"]]
        criteria = [p.last["criterion"] for p in self._programs if p.last]
        return Standing(
            name=head["name"], state="running" if alive else newest.how, seconds=round(passed, 1),
            silent=round(max(0.0, time.time() - seen), 1),
            programs=head["programs"], done=len(done), running=len(running), runs=head["runs"],
            runs_done=sum(p.last["runs"] for p in done if p.last), learning=sum(row["learning"] for row in now),
            epochs=head["epochs"],
            epoch=(min(r["epoch"] for r in now), max(r["epoch"] for r in now)) if now else None,
            epochs_done=epochs_done, epochs_total=head["epochs"] * head["programs"],
            criterion=criteria[0] if criteria else None, best=_quartiles(best), best_runs=len(best),
            bags_per_second=self._speed("bags", running, session, passed),
            run_steps_per_second=self._speed("run_steps", running, session, passed),
            memory_bytes=sum(row["memory_bytes"] for row in memory) if memory else None,
            memory_limit=max(limits) if limits else None,
            compiled=int(self.total("compiles")), compile_seconds=round(self.total("compile_seconds"), 2),
            compiled_cached=int(self.total("compiles_cached")),
            seconds_left=round(left / pace, 1) if pace > 0 and alive else None,
        )  # fmt: skip

    def _speed(self, name: str, running: list[_Program], session: list[_Program], passed: float) -> float | None:
        """What runs now; between two programs, and at the end, the mean since the start."""
        speed = sum(p.rate(name) for p in running) or sum(p.attempts[-1][-1][name] for p in session) / passed
        return float(f"{speed:.4g}") if speed > 0 else None


def _quartiles(values: list[float]) -> tuple[float, float, float] | None:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return None
    low, middle, high = (float(f"{v:.5g}") for v in np.quantile(finite, (0.25, 0.5, 0.75)))
    return low, middle, high
