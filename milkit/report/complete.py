"""What a run folder lacks: runs that were planned and left nothing, rows that were predicted and are gone."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milkit.predictions import Predictions
from milkit.report.validation import by_run
from milkit.report.words import plural

MOST_NAMES = 5
ENDED = ("finished", "stopped early", "done", "completed")


def missing(folder: Path, config: dict[str, Any], predictions: Predictions) -> tuple[list[str], dict[str, Any]]:
    """Marks, and the details that name what is missing.

    Runs are held against `config.json` (how many), `runs.csv` (which, and how they ended); rows against `folds.csv`,
    which says whom each split validates and tests.

    Returns:
        Marks ([] where nothing is missing), and `{"runs": [...], "rows": [{"run", "selection", "role", "bags"}]}`.
    """
    listed = _csv(folder / "runs.csv")
    present = {str(run) for run in set(predictions.run[predictions.role == "test"].tolist())}
    marks, gone = [], [row["run"] for row in listed if row.get("run") and row["run"] not in present]
    planned = config.get("runs")
    planned = planned if isinstance(planned, int) else len(listed)
    if planned > len(present):
        named = f": {named_few(gone)}" if gone else ""
        marks.append(f"unfinished: {planned - len(present)} of {plural(planned, 'run')} left no test prediction{named}")
    other = [row for row in listed if row.get("status") and row["status"] not in ENDED]
    if other:
        kinds = ", ".join(sorted({row["status"] for row in other}))
        names = named_few([row.get("run", "?") for row in other])
        marks.append(f"{plural(len(other), 'run')} of {planned} did not finish ({kinds}): {names}")
    rows = lost_rows(_csv(folder / "folds.csv"), listed, predictions)
    if rows:
        marks.append(_lost("predictions.csv", rows))
    return marks, {"runs": gone, "rows": rows} if gone or rows else {}


def missing_few(folder: Path, few: str, planned: int, predictions: Predictions) -> list[str]:
    """Marks of the runs with few labels, whose tables stand in the folder `few`; [] where nothing is missing."""
    listed = _csv(folder / few / "runs.csv")
    tests = predictions.take(predictions.role == "test")
    gone = planned - len(set(tests.run.tolist()))
    marks = []
    if gone > 0:
        marks.append(f"unfinished: {gone} of {plural(planned, 'run')} with few labels left no test prediction")
    folds = [row for row in _csv(folder / "folds.csv") if row.get("role") == "test"]
    rows = lost_rows(folds, listed, tests)
    return [*marks, _lost(f"{few}/predictions.csv", rows)] if rows else marks


def _lost(name: str, rows: Sequence[dict[str, Any]]) -> str:
    count, first = sum(len(part["bags"]) for part in rows), rows[0]
    runs = list(dict.fromkeys(part["run"] for part in rows))
    return (
        f"rows lost: {name} lacks {plural(count, 'row')} of {plural(len(runs), 'run')}, "
        f"such as {first['role']} {plural(len(first['bags']), 'bag')} {named_few(first['bags'])} of {first['run']}"
    )


def lost_rows(
    folds: Sequence[dict[str, str]], listed: Sequence[dict[str, str]], predictions: Predictions
) -> list[dict[str, Any]]:
    """Validation and test bags of each run and selection that its split names and the predictions lack."""
    expected: dict[tuple[str, ...], dict[str, None]] = {}
    for row in folds:
        if row.get("role") in ("validation", "test"):
            key = (row["repeat"], row["fold"], row.get("inner") or "0", row["role"])
            expected.setdefault(key, {})[row["bag"]] = None
    nested = len({key[2] for key in expected}) > 1
    inner = {row["run"]: row.get("inner") or "0" for row in listed if row.get("run")}
    lost = []
    for run, rows in by_run(predictions):
        if nested and run not in inner:
            continue  # nothing says which of its fold's inner splits it was
        split = (str(predictions.repeat[rows[0]]), str(predictions.fold[rows[0]]), inner.get(run, "0"))
        mine = predictions.take(rows)
        for selection in dict.fromkeys(mine.selection.tolist()):
            for role in ("validation", "test"):
                here = set(mine.bag[(mine.selection == selection) & (mine.role == role)].tolist())
                bags = [bag for bag in expected.get((*split, role), {}) if bag not in here]
                if bags:
                    lost.append({"run": run, "selection": selection, "role": role, "bags": bags})
    return lost


def inner_folds(folder: Path) -> dict[str, int]:
    """Inner fold of each run by `runs.csv`; {} where it is absent."""
    return {row["run"]: int(row.get("inner") or 0) for row in _csv(folder / "runs.csv") if row.get("run")}


def named_few(names: Sequence[str]) -> str:
    """The first five names."""
    return ", ".join(names[:MOST_NAMES]) + (" …" if len(names) > MOST_NAMES else "")


def _csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # a row cut short has None in it
        return [{k: v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(file)]
