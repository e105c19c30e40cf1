"""How many labelled patients each point of a label-budget curve trained and validated on."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import RunFolderError
from milkit.report.entry import Sizes


@dataclass(frozen=True, eq=False)
class Trained:
    """What the runs of one budget learned from; a mean over splits and draws each.

    Attributes:
        train, validation: labelled patients (slides where labels are theirs).
        updates: median number of updates of a run.
        part: training patients of each (repeat, fold), where the procedure interval needs them; {} for a budget.
    """

    train: float
    validation: float
    updates: float
    part: Sizes

    def as_dict(self) -> dict[str, Any]:
        """As `label_curve.json` holds it."""
        return {"train_patients": self.train, "validation_patients": self.validation, "updates": self.updates}


def few_sizes(folder: Path, few: str, *, slides: bool) -> dict[int, Trained]:
    """Of each budget, by `folds.csv` and `runs.csv` in the folder of few labels."""
    who: dict[tuple[str, ...], set[str]] = {}
    for row in read_rows(folder / few / "folds.csv"):
        key = (row["labels"], row["role"], row["draw"], row["repeat"], row["fold"], row["inner"])
        who.setdefault(key, set()).add(row["bag"] if slides else row["patient"])
    updates = _updates(read_rows(folder / few / "runs.csv"))
    made = {}
    for k in sorted({int(key[0]) for key in who}):
        train = [len(v) for key, v in who.items() if int(key[0]) == k and key[1] == "train"]
        held = [len(v) for key, v in who.items() if int(key[0]) == k and key[1] == "validation"]
        made[k] = Trained(_mean(train), _mean(held), updates.get(k, 0.0), {})
    return made


def full_sizes(folder: Path, *, slides: bool) -> Trained:
    """Of the whole training part, by `folds.csv` and `runs.csv`."""
    who: dict[tuple[str, ...], set[str]] = {}
    for row in read_rows(folder / "folds.csv"):
        split = (row["role"], row["repeat"], row["fold"], row.get("inner") or "0")
        who.setdefault(split, set()).add(row["bag"] if slides else row["patient"])
    sizes: dict[tuple[int, int], list[int]] = {}
    for key, members in who.items():
        if key[0] == "train":
            sizes.setdefault((int(key[1]), int(key[2])), []).append(len(members))
    train = [len(v) for key, v in who.items() if key[0] == "train"]
    held = [len(v) for key, v in who.items() if key[0] == "validation"]
    updates = _updates(read_rows(folder / "runs.csv"))
    return Trained(_mean(train), _mean(held), updates.get(0, 0.0), {key: _mean(v) for key, v in sizes.items()})


def read_rows(path: Path) -> list[dict[str, str]]:
    """A table of a run folder.

    Raises:
        RunFolderError: it is not there.
    """
    if not path.is_file():
        raise RunFolderError(f"There is no {path}; it is written by `milkit run`. Restore it, or run the study anew.")
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(file)]


def _updates(rows: list[dict[str, str]]) -> Mapping[int, float]:
    """Median number of updates of a run, by budget; 0 for all labels."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(int(row.get("labels") or 0), []).append(int(row.get("updates") or 0))
    return {k: float(np.median(v)) for k, v in found.items()}


def _mean(sizes: list[int]) -> float:
    return float(np.mean(sizes)) if sizes else 0.0
