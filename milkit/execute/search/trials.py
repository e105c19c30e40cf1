"""Which configurations each fold tries, and what becomes of them on disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.data.protocol import Plan
from milkit.execute.folder import read_json, write_text
from milkit.experiment import Experiment
from milkit.search import Choice, Space, Tpe, space_of, stated

FOLDER = "search"
Place = tuple[int, int]
"""Repeat and fold: what a configuration is chosen for."""


@dataclass(frozen=True)
class Trial:
    """A configuration that a fold tries.

    Attributes:
        number: counted from 0 within the fold.
        place: repeat and fold.
        values: of the searched fields, by their dotted names.
    """

    number: int
    place: Place
    values: dict[str, Any]


def places(plan: Plan) -> list[Place]:
    """The folds of all repeats, in the plan's order; inner folds of one fold share its place."""
    return list(dict.fromkeys((s.repeat, s.fold) for s in plan.splits))


def rounds_on_disk(experiment: Experiment, plan: Plan, out: Path) -> list[list[Trial]]:
    """The trials that are settled: all of a grid or of random draws; of Tpe, those whose proposals were written."""
    search = experiment.search
    assert search is not None
    if not isinstance(search, Tpe):
        return [[Trial(i, place, values) for i, values in enumerate(stated(search)) for place in places(plan)]]
    found = []
    for number in range(search.rounds):
        file = proposals_file(out, number)
        if not file.exists():
            break
        found.append([_trial(row, space_of(search)) for row in read_json(file)])
    return found


def proposals_file(out: Path, number: int) -> Path:
    """Where the proposals of a round stand, written before any of them is trained."""
    return out / FOLDER / f"round_{number:04d}.json"


def write_proposals(out: Path, number: int, proposals: list[tuple[Place, int, dict[str, float]]]) -> None:
    """Write a round's proposals: (place, trial, drawn value of each field; of a `Choice` its position)."""
    (out / FOLDER).mkdir(exist_ok=True)
    rows = [{"repeat": p[0], "fold": p[1], "trial": trial, "drawn": drawn} for p, trial, drawn in proposals]
    write_text(proposals_file(out, number), json.dumps(rows, indent=1) + "\n")


def _trial(row: dict[str, Any], space: Space) -> Trial:
    values = {
        name: of.values[int(row["drawn"][name])] if isinstance(of, Choice) else float(row["drawn"][name])
        for name, of in space
    }
    return Trial(int(row["trial"]), (int(row["repeat"]), int(row["fold"])), values)
