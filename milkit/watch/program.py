"""What one program writes while it runs: a line every few seconds in its own folder, in whatever process it runs.

The lines carry wall times, so `progress.jsonl` is the one file of a program that differs between two equal runs.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milkit.watch.compiles import compiles
from milkit.watch.device import memory
from milkit.watch.lines import append

FILE = "progress.jsonl"
SLOWEST = 10.0
"""The most seconds between two lines of a program whose epochs are shorter."""


class ProgramProgress:
    """Writes how far a program is. It is told of training and validation only.

    Args:
        folder: of the program.
        program: its number.
        epochs: to be trained.
        names: of its runs.
        bags, steps: of each run in an epoch (fillers not counted).
        criterion: the validation figure that picks the epoch ("loss", ...), or None; loss is best when smallest.
    """

    def __init__(
        self, folder: Path, program: int, epochs: int, names: Sequence[str], bags: Sequence[int], steps: Sequence[int],
        criterion: str | None,
    ) -> None:  # fmt: skip
        self._file, self._criterion = folder / FILE, criterion
        self._bags, self._steps = dict(zip(names, bags, strict=True)), dict(zip(names, steps, strict=True))
        self._best: dict[str, float] = {}
        self._row: dict[str, Any] = {
            "program": program, "pid": os.getpid(), "runs": len(names), "epochs": epochs, "epoch": 0,
            "learning": len(names), "bags": 0, "run_steps": 0, "criterion": criterion,
        }  # fmt: skip
        self._began = self._told = self._phase_began = time.monotonic()
        self._compiled = self._phase_compiled = compiles()
        self._phase = "train_seconds"

    def start(self, epoch: int, best: Mapping[str, float]) -> None:
        """Before the first epoch.

        Args:
            epoch: epochs that an earlier attempt had trained.
            best: what its runs had reached on validation.
        """
        self._best = dict(best)
        self._row["epoch"] = epoch
        self._write("start")

    def epoch(self, epoch: int, rows: Sequence[Mapping[str, Any]], *, now: bool = False) -> None:
        """After an epoch (counted from 1).

        Args:
            epoch: its number.
            rows: of `history.jsonl`, one for each run that still learned.
            now: write a line however short ago the last one was.
        """
        name = f"validation_{self._criterion}"
        better = min if self._criterion == "loss" else max
        for row in rows:
            value = row.get(name)
            if value is not None and math.isfinite(value):
                self._best[row["run"]] = better(self._best.get(row["run"], value), value)
        self._row |= {
            "epoch": epoch,
            "learning": len(rows),
            "bags": self._row["bags"] + sum(self._bags[row["run"]] for row in rows),
            "run_steps": self._row["run_steps"] + sum(self._steps[row["run"]] for row in rows),
        }
        for loss in ("train_loss", "validation_loss"):
            self._row[loss] = _median([row[loss] for row in rows if loss in row])
        passed = time.monotonic() - self._began
        if now or time.monotonic() - self._told > min(SLOWEST, max(1.0, passed / 60)):
            self._write("epoch")

    def predicting(self) -> None:
        """Training is over."""
        self._change("predict_seconds")
        self._write("predict")

    def done(self) -> None:
        """Everything of the program is written."""
        self._change("")
        self._write("done")

    def _change(self, phase: str) -> None:
        self._row[self._phase] = self._spent()
        self._phase, self._phase_began, self._phase_compiled = phase, time.monotonic(), compiles()

    def _spent(self) -> float:
        """Seconds of this phase without those of compiling, which are counted apart."""
        compiling = (compiles() - self._phase_compiled).seconds
        return round(max(0.0, time.monotonic() - self._phase_began - compiling), 3)

    def _write(self, event: str) -> None:
        self._told = time.monotonic()
        if self._phase:
            self._row[self._phase] = self._spent()
        new = compiles() - self._compiled
        held, limit = memory()
        append(self._file, {
            "time": round(time.time(), 2), "event": event, **self._row, "seconds": round(self._told - self._began, 3),
            "best": [float(f"{v:.5g}") for v in self._best.values()],
            "compiles": new.count, "compile_seconds": round(new.seconds, 3), "compiles_cached": new.cached,
            "memory_bytes": held, "memory_limit": limit,
        })  # fmt: skip


def _median(values: list[float]) -> float | None:
    """None where there is nothing finite, which JSON cannot hold."""
    finite = [v for v in values if math.isfinite(v)]
    return float(f"{np.median(finite):.5g}") if finite else None
