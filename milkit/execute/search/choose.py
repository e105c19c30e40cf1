"""Which trial each fold keeps: the best on its validation part, by the order that chooses epochs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import NonFiniteError
from milkit.execute.program import OPTIMISTIC, program_folder
from milkit.execute.search.family import Family
from milkit.execute.search.trials import Place

DIGITS = 6
"""Criteria are float32: equal accuracies that came about by other sums must tie."""


@dataclass(frozen=True)
class Found:
    """What a trial reached in a fold.

    Attributes:
        trial: its number.
        metric, loss: validation criterion and loss at the kept epochs, means over the fold's seeds and inner folds.
        failed: whether a run was not finite.
        rows: of `done.json`, one a run.
    """

    trial: int
    metric: float
    loss: float
    failed: bool
    rows: tuple[dict[str, Any], ...]


def found_in(families: Sequence[Family], out: Path) -> dict[Place, list[Found]]:
    """What the trained trials reached, by fold, in the order of trials."""
    rows: dict[tuple[Place, int], list[dict[str, Any]]] = {}
    for row in _rows(families, out):
        rows.setdefault(((row["repeat"], row["fold"]), row["trial"]), []).append(row)
    made: dict[Place, list[Found]] = {}
    for (place, trial), mine in sorted(rows.items()):
        figures = np.array([[r["best_validation_metric"], r["best_validation_loss"]] for r in mine], np.float64)
        metric, loss = figures.mean(0).tolist()
        failed = any(r["status"] == "failed" for r in mine)
        made.setdefault(place, []).append(Found(trial, metric, loss, failed, tuple(mine)))
    return made


def best(found: Sequence[Found], place: Place) -> Found:
    """The trial of the highest criterion, then of the least loss, then the earliest; one that failed has lost.

    Raises:
        NonFiniteError: all failed.
    """
    whole = [f for f in found if not f.failed]
    if not whole:
        raise NonFiniteError(
            f"All {len(found)} trials of repeat {place[0]}, fold {place[1]} ended in a loss that was not finite "
            "(trials.csv lists them). Search lower learning rates, or set train.clip, and start anew."
        )
    return min(whole, key=lambda f: (-round(f.metric, DIGITS), f.loss, f.trial))


def best_on_test(
    families: Sequence[Family], out: Path, found: Mapping[Place, Sequence[Found]]
) -> tuple[dict[Place, int], dict[str, int]]:
    """The optimistic choice: the same order on what the test part showed. For studies that ask for it only.

    Returns:
        The trial of each fold, and the epoch (from 1) of every trial's run.
    """
    figures: dict[str, dict[str, float]] = {}
    for program in _programs(families):
        figures |= json.loads((program_folder(out, program) / OPTIMISTIC).read_text())
    chosen = {}
    for place, trials in found.items():
        seen = []
        for trial in (t for t in trials if not t.failed):
            mine = [figures[row["run"]] for row in trial.rows]
            metric, loss = (float(np.mean([f[name] for f in mine])) for name in ("metric", "loss"))
            seen.append(Found(trial.trial, metric, loss, False, trial.rows))
        chosen[place] = best(seen, place).trial
    return chosen, {run: int(figure["epoch"]) + 1 for run, figure in figures.items()}


def _programs(families: Sequence[Family]) -> list[int]:
    return sorted({run.program for family in families for run in family.runs})


def _rows(families: Sequence[Family], out: Path) -> list[dict[str, Any]]:
    files = [program_folder(out, program) / "done.json" for program in _programs(families)]
    return [row for file in files if file.exists() for row in json.loads(file.read_text())]
