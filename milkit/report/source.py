"""A run folder as the report reads it. Files only: nothing of the study that made it is in memory."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import RunFolderError
from milkit.report.estimate import Measured
from milkit.report.scores import Scores, read_scores

MOST_BAGS = 12
"""Bags whose attention a page shows."""
_NEEDED = ("config.json", "results.json", "predictions.csv")


@dataclass(frozen=True, eq=False)
class Source:
    """What the files of a run folder say.

    Attributes:
        folder: the run folder.
        config: all of `config.json`.
        environment: versions, device, precision; {} where the file is absent.
        results: `results.json`.
        cohort: flow and folds; {} where absent.
        runs: rows of `runs.csv`; () where absent.
        history: one dict a run and epoch; () where absent.
        scores: test predictions of the primary selection.
        scaled: those of the runs that have a temperature, after scaling; None where no run has one.
        attention: a handful of test bags with their weights; () for models without attention.
        top: rows of `top_instances.csv` for the bags of `attention` (or for the first few); () where absent.
        trials: rows of `trials.csv`; () for a study without a search.
        label_curve: `label_curve.json`; {} for a study without label budgets.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]
    cohort: dict[str, Any]
    runs: tuple[dict[str, str], ...]
    history: tuple[dict[str, Any], ...]
    scores: Scores
    scaled: Scores | None = None
    attention: tuple[dict[str, Any], ...] = ()
    top: tuple[dict[str, str], ...] = field(default=())
    trials: tuple[dict[str, str], ...] = field(default=())
    label_curve: dict[str, Any] = field(default_factory=dict)

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment with all its choices."""
        return self.config.get("experiment", {})

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.results.get("experiment") or self.experiment.get("name") or self.folder.name)

    @property
    def task(self) -> str:
        """Class name of the task: Binary, MultiClass, MultiLabel, Regression or Survival."""
        return task_name(self.config, self.results)

    @property
    def selection(self) -> str:
        """The selection whose numbers the page opens with."""
        return str(self.results.get("selection", "validation"))

    @property
    def measured(self) -> Measured:
        """What a row of every metric is: the patient, or the slide where labels belong to slides."""
        return "slide" if self.results.get("measured") == "slide" else "patient"

    @property
    def marks(self) -> tuple[str, ...]:
        """What every number of the page has to be read with, each once."""
        found = [*self.results.get("marks", ()), *self.cohort.get("marks", ())]
        return tuple(dict.fromkeys(str(mark) for mark in found))

    @property
    def inner(self) -> int:
        """Inner folds of each fold; 1 unless the protocol is nested."""
        return len({row.get("inner") or "0" for row in self.runs}) or 1

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes, labels or values; the positive class of a binary task is the last."""
        return tuple(str(c) for c in self.results.get("classes", ())) or self.scores.names

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the primary selection, by name."""
        return self.results.get("metrics", {})


def task_name(config: dict[str, Any], results: dict[str, Any]) -> str:
    """The task's class name, from the config or, failing that, the results."""
    for task in (config.get("experiment", {}).get("task"), results.get("task")):
        if isinstance(task, dict) and "type" in task:
            return str(task["type"])
        if isinstance(task, str):
            return task
    raise RunFolderError("config.json names no task (experiment.task.type); the run folder is incomplete.")


def read_source(folder: Path) -> Source:
    """Read a run folder.

    Raises:
        RunFolderError: the folder, one of the three files that a report needs is missing, or a file is damaged.
    """
    if not folder.is_dir():
        raise RunFolderError(f"There is no run folder at {folder}; give the folder that `milkit run --out` wrote.")
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise RunFolderError(
            f"{folder} lacks {', '.join(missing)}, so there is nothing to report yet; "
            "finish the run with `milkit run ... --resume`."
        )
    config, results = _json(folder / "config.json"), _json(folder / "results.json")
    bags = tuple(_usable(_json(folder / "attention.json").get("bags", ())))
    measured: Measured = "slide" if results.get("measured") == "slide" else "patient"
    scores, scaled = read_scores(
        folder / "predictions.csv",
        str(results.get("selection", "validation")),
        "max" if results.get("aggregate", config.get("aggregate")) == "max" else "mean",
        "site" if results.get("resample") == "site" else "patient",
        measured,
        _temperatures(results),
    )
    return Source(
        folder=folder,
        config=config,
        environment=_json(folder / "environment.json"),
        results=results,
        cohort=_json(folder / "cohort.json"),
        runs=_csv(folder / "runs.csv"),
        history=_lines(folder / "history.jsonl"),
        scores=scores,
        scaled=scaled,
        attention=bags,
        trials=_csv(folder / "trials.csv"),
        top=_top(folder / "top_instances.csv", [str(b.get("bag")) for b in bags]),
        label_curve=_json(folder / "label_curve.json"),
    )


def _temperatures(results: dict[str, Any]) -> dict[str, list[float]]:
    """Of each run, by label where there are several; NaN for none."""
    found = {str(row.get("run")): row["temperature"] for row in results.get("per_run", ()) if "temperature" in row}
    each = {run: value if isinstance(value, list) else [value] for run, value in found.items()}
    return {run: [float("nan") if t is None else float(t) for t in values] for run, values in each.items()}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{path} is not readable JSON ({error}); was the run cut short while writing it?"
        ) from None
    if not isinstance(data, dict):
        raise RunFolderError(f"{path} holds a {type(data).__name__} at its top; expected an object of named values.")
    return data


def _csv(path: Path) -> tuple[dict[str, str], ...]:
    if not path.is_file():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        # a row cut short has None in it
        return tuple({k: v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(file))


def _top(path: Path, bags: list[str]) -> tuple[dict[str, str], ...]:
    """Rows of a few bags only: a large study has millions."""
    if not path.is_file():
        return ()
    wanted, rows = set(bags), []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not bags and len(wanted) < MOST_BAGS:
                wanted.add(row["bag"])
            if row["bag"] in wanted and all(row.get(k) not in (None, "") for k in ("instance", "attention", "rank")):
                rows.append(row)
    return tuple(rows)


def _lines(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number == len(lines):  # a killed run leaves half a line at the end; all before it is whole
                break
            raise RunFolderError(f"{path}, line {number}, is not JSON: {line[:60]!r}.") from None
    return tuple(rows)


def _usable(bags: Any) -> list[dict[str, Any]]:
    """Bags whose attention is there and finite; a model that diverged leaves NaN, which has no picture."""
    kept = []
    for bag in bags:
        weights = np.asarray(bag.get("attention") or [np.nan], np.float64)
        if weights.ndim == 1 and np.isfinite(weights).all():
            kept.append(bag)
    return kept
