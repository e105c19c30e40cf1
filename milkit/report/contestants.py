"""The runs of a comparison as they were given: run folders, or tables of predictions."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milkit.errors import RunFolderError
from milkit.predictions import SELECTIONS, Predictions
from milkit.report.foreign import is_native, read_foreign
from milkit.report.risk import Recorded, read_training

Split = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Contestant:
    """One run, or one table of predictions, before it is known to fit the others.

    Attributes:
        name: how it is called in tables.
        path: as the user gave it.
        test: its test rows, all selections.
        settings: unit, aggregate and what folds are grouped by; {} for a table without a run folder.
        n_train: training patients of each split; {} where not known.
        published: a foreign table, which says nothing of how its epoch was chosen.
        marks: what the numbers of each selection must be read with.
        training: survival: what each run's training part says; {} where not known.
        notes: how it was read.
    """

    name: str
    path: Path
    test: Predictions
    settings: Mapping[str, str]
    n_train: Mapping[Split, float]
    published: bool = False
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    training: Mapping[str, Recorded] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def selections(self) -> list[str]:
        """Those it has, in milkit's order."""
        return [s for s in SELECTIONS if (self.test.selection == s).any()]


def read_contestants(paths: Sequence[Path | str]) -> list[Contestant]:
    """Read run folders and tables, and give each a name of its own.

    Raises:
        RunFolderError: a path is neither, or a file is damaged.
    """
    given = [Path(path) for path in paths]
    short = [p.resolve().name if p.is_dir() else p.stem for p in given]
    if len(set(short)) < len(short):
        short = [str(p) for p in given]
    names = [name if short.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(short, 1)]
    return [_read(path, name) for path, name in zip(given, names, strict=True)]


def _read(path: Path, name: str) -> Contestant:
    if path.is_dir():
        return _read_folder(path, name)
    if not path.is_file():
        raise RunFolderError(f"There is no {path}; give run folders that `milkit run` wrote, or tables of predictions.")
    notes: tuple[str, ...]
    if is_native(path):
        table = Predictions.read(path)
        notes = ("a table without its run folder: a patient's bags become one by their mean score",)
        return Contestant(name, path, _tests(table, path), {}, _counted_train(table), notes=notes)
    foreign = read_foreign(path)
    table = foreign.predictions
    notes = (*foreign.notes, "published predictions: how their model was chosen is not known")
    return Contestant(name, path, _tests(table, path), {}, _counted_train(table), published=True, notes=notes)


def _read_folder(path: Path, name: str) -> Contestant:
    """A run folder: its predictions, settings, marks and training sizes."""
    results = _json(path / "results.json") if (path / "results.json").is_file() else {}
    # a locked model's answers for another cohort come without a config.json: their results say the same
    locked = bool(results) and not (path / "config.json").exists()
    config = {**results, "grouped_by": results.get("resample")} if locked else _json(path / "config.json")
    stated: tuple[str, ...] = ("unit", "aggregate", "measured", "grouped_by")
    settings = {key: str(config[key]) for key in stated if config.get(key)}
    table = Predictions.read(path / "predictions.csv")
    n_train = recorded_train(path, "bags" if settings.get("measured") == "slide" else "patients")
    own = tuple(str(mark) for mark in config.get("marks", ()))
    # marks that were found when the results were made (runs that are missing) stand there only
    later = results.get("selections", {})
    marks = {s: tuple(dict.fromkeys([*own, *later.get(s, {}).get("marks", ())])) for s in SELECTIONS}
    return Contestant(
        name,
        path,
        _tests(table, path),
        settings,
        n_train or _counted_train(table),
        marks=marks,
        training=read_training(path) if table.kind == "Survival" else {},
    )


def recorded_train(folder: Path, counted: str) -> dict[Split, float]:
    """Training patients (bags where slides are measured) of each split by `cohort.json`; the fewest where inner folds
    differ.
    """
    found: dict[Split, float] = {}
    for part in _json(folder / "cohort.json").get("folds", ()) if (folder / "cohort.json").is_file() else ():
        if part.get("role") == "train" and counted in part:
            split = int(part["repeat"]), int(part["fold"])
            found[split] = min(found.get(split, math.inf), float(part[counted]))
    return found


def _counted_train(table: Predictions) -> dict[Split, float]:
    """Training patients of each split, counted in rows of role train; {} where there are none."""
    train = table.take(table.role == "train")
    found: dict[Split, set[str]] = {}
    for repeat, fold, patient in zip(train.repeat.tolist(), train.fold.tolist(), train.patient.tolist(), strict=True):
        found.setdefault((repeat, fold), set()).add(patient)
    return {split: float(len(patients)) for split, patients in found.items()}


def _json(path: Path) -> dict[str, Any]:
    """An object of a run folder.

    Raises:
        RunFolderError: it is absent or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"There is no {path}; is {path.parent} a run folder that milkit wrote?") from None
    except ValueError as error:
        raise RunFolderError(f"{path} is not readable JSON ({error}); was it cut short?") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds a {type(value).__name__}; expected an object of named values.")
    return value


def _tests(table: Predictions, path: Path) -> Predictions:
    test = table.take(table.role == "test")
    if not len(test):
        raise RunFolderError(
            f"{path} holds no test row, so there is nothing to compare; a run is finished by --resume."
        )
    return test
