"""The slides of a run as the page lists them: truth, what held-out models said, and which held the slide out.

Numbers come from `predictions.csv` alone. A row is a slide; where a bag holds several slides, each has the bag's row.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import RunFolderError
from milkit.execute.folder import read_json
from milkit.predictions import Predictions


@dataclass(frozen=True)
class Listed:
    """One slide of a run.

    Attributes:
        slide: its id.
        bag: id of the bag that it belongs to, mostly the slide's own.
        patient: id of the patient; "" where the run wrote no prediction of the bag.
        truth: the target in words; "" where not known.
        said: the class of the highest mean probability, or the mean value, in words; "" without a held-out prediction.
        right: whether `said` is the truth; None where that is no question (values, risks) or nothing was said.
        scores: (name, mean, lowest, highest) over the models that held the slide out.
        models: how many these are.
        held_out: which folds held it out, in words; where none did, how it was used.
    """

    slide: str
    bag: str
    patient: str
    truth: str
    said: str
    right: bool | None
    scores: tuple[tuple[str, float, float, float], ...]
    models: int
    held_out: str


@dataclass(frozen=True)
class ViewedRun:
    """A run folder as the page shows it.

    Attributes:
        folder: the run folder.
        name: the experiment's.
        kind: Binary, MultiClass, MultiLabel, Regression or Survival.
        names: classes, labels or values.
        selection: how the epoch was chosen.
        marks: what every number has to be read with.
        features: where the experiment says its features are; () where they are no files.
        slides: sorted by id.
    """

    folder: Path
    name: str
    kind: str
    names: tuple[str, ...]
    selection: str
    marks: tuple[str, ...]
    features: tuple[str, ...]
    slides: tuple[Listed, ...]


def read_run(folder: Path) -> ViewedRun:
    """Read a run folder that is finished.

    Raises:
        RunFolderError: no run folder, or one that is unfinished or damaged.
    """
    if not folder.is_dir():
        raise RunFolderError(f"There is no run folder at {folder}; give the folder that `milkit run --out` wrote.")
    config, results = (_object(folder / name) for name in ("config.json", "results.json"))
    experiment = config.get("experiment")
    if not isinstance(experiment, dict):
        raise RunFolderError(f"{folder / 'config.json'} holds no experiment; give a run folder that milkit made.")
    rows = Predictions.read(folder / "predictions.csv")
    selection = str(results.get("selection", "validation"))
    rows = rows.take(rows.selection == selection)
    if not len(rows):
        raise RunFolderError(f"{folder / 'predictions.csv'} holds no row of the selection {selection!r}; --resume it.")
    return ViewedRun(
        folder=folder,
        name=str(experiment.get("name") or folder.name),
        kind=rows.kind,
        names=rows.names,
        selection=selection,
        marks=tuple(dict.fromkeys(str(mark) for mark in results.get("marks") or ())),
        features=_features(experiment.get("data")),
        slides=tuple(sorted(_listed(rows, _trained_on(folder / "folds.csv")), key=lambda one: one.slide)),
    )


def beside(run: ViewedRun, slides: Sequence[str]) -> ViewedRun:
    """With slides listed last that the run says nothing of; its models can be asked about them all the same."""
    known = {one.slide for one in run.slides}
    said = "not in this study: no prediction, but its models can be asked for a heat map"
    more = [Listed(name, name, "", "", "", None, (), 0, said) for name in sorted(slides) if name not in known]
    return replace(run, slides=(*run.slides, *more))


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise RunFolderError(f"{path} is not what milkit writes (no JSON object); make it anew with --resume.")
    return found


def _features(data: Any) -> tuple[str, ...]:
    """Paths of features in an experiment's data: one, several, or those of aligned sets."""
    if isinstance(data, str):
        return (data,)
    if isinstance(data, list):
        return tuple(path for one in data for path in _features(one))
    if isinstance(data, dict) and isinstance(data.get("cohort"), dict):
        return _features(data["cohort"])  # slide files, and the store that was made of them
    if isinstance(data, dict):
        return next((_features(data[key]) for key in ("features", "sets", "path") if key in data), ())
    return ()


def _trained_on(path: Path) -> dict[str, str]:
    """Bags that `folds.csv` names, and their patients; training bags may be in no other table."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["bag"]: row["patient"] or "" for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise RunFolderError(f"{path} cannot be read as a table of folds ({error}); --resume the run.") from None


def _listed(rows: Predictions, known: dict[str, str]) -> Iterator[Listed]:
    """One `Listed` a slide, each once."""
    places: dict[str, list[int]] = {}
    for i, bag in enumerate(rows.bag.tolist()):
        places.setdefault(bag, []).append(i)
    seen: set[str] = set()
    for bag in (*places, *(b for b in known if b not in places)):
        own = rows.take(np.array(places.get(bag, []), np.int64))
        slides = str(own.slide[0]).split(";") if len(own) else [bag]
        for slide in slides:
            if slide not in seen:
                seen.add(slide)
                yield _one(slide, bag, own, known.get(bag, ""))


def _one(slide: str, bag: str, own: Predictions, patient: str) -> Listed:
    """A slide from all rows of its bag."""
    held = own.take((own.role == "test") & np.isfinite(own.score).all(1))
    truth = _truth(own)
    patient = str(own.patient[0]) if len(own) else patient
    if not len(held):
        roles = sorted(set(own.role.tolist())) or ["train"]
        used = "never held out: used for " + " and ".join({"train": "training"}.get(r, r) for r in roles)
        return Listed(slide, bag, patient, truth, "", None, (), 0, used)
    mean, low, high = held.score.mean(0), held.score.min(0), held.score.max(0)
    said = _said(held, mean)
    right = said == truth if held.kind in ("Binary", "MultiClass", "MultiLabel") else None
    scores = tuple(zip(held.names, mean.tolist(), low.tolist(), high.tolist(), strict=True))
    return Listed(slide, bag, patient, truth, said, right, scores, len(held), _folds(held))


def _truth(own: Predictions) -> str:
    if not len(own):
        return ""
    target = own.target[0]
    if own.kind in ("Binary", "MultiClass"):
        return own.names[int(target[0])]
    if own.kind == "MultiLabel":
        return _labels(own.names, target >= 0.5)
    if own.kind == "Survival":
        return f"{'event' if target[1] else 'censored'} at {target[0]:g}"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(own.names, target, strict=True))


def _said(held: Predictions, mean: np.ndarray) -> str:
    """What the mean over models says; a binary task is cut at 0.5, as its accuracy is."""
    if held.kind in ("Binary", "MultiClass"):
        return held.names[int(mean.argmax())]
    if held.kind == "MultiLabel":
        return _labels(held.names, mean >= 0.5)
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(held.names, mean, strict=True))


def _labels(names: tuple[str, ...], there: np.ndarray) -> str:
    return ", ".join(name for name, on in zip(names, there, strict=True) if on) or "none"


def _folds(held: Predictions) -> str:
    """Which folds held the bag out, counted from 0 as in the run's tables."""
    repeats = {int(r) for r in held.repeat}
    folds = sorted({(int(r), int(f)) for r, f in zip(held.repeat, held.fold, strict=True)})
    text = ", ".join(f"fold {f}" if repeats == {0} else f"repeat {r} fold {f}" for r, f in folds)
    seeds = len(set(held.seed.tolist()))
    return text + (f" ({seeds} seeds)" if seeds > 1 else "")
