"""`results.json`: every reported number, recomputed from `predictions.csv` alone.

`docs/statistics.md` defines the metrics, the estimator and both intervals.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import RunFolderError
from milkit.metrics import Interval, Metric, corrected_resampled_t, metrics_of, percentile_interval
from milkit.metrics.intervals import DRAWS, SEED
from milkit.predictions import SELECTIONS, Predictions, whole_file
from milkit.report.estimate import Aggregate, Estimates, Resample, Tested, estimates, tested

FORMAT = 1
OPTIMISTIC = "optimistic"
POOLED = "pooled over the folds of each repeat and seed, then averaged"
NO_FOLD_VALUES = "pooled over folds: there are no values of single folds to form it from"


def compute_results(
    predictions: Predictions,
    *,
    unit: str = "patient",
    aggregate: Aggregate = "mean",
    resample: Resample = "patient",
    marks: Sequence[str] = (),
    n_train: Mapping[tuple[int, int], float | int] | None = None,
    draws: int = DRAWS,
    specificity: float = 0.9,
    seed: int = SEED,
) -> dict[str, Any]:
    """All metrics of all selections with their intervals.

    Args:
        predictions: all rows of a study; numbers come from its test rows.
        unit: what a bag was, for the record.
        aggregate: how the scores of a patient's bags become one.
        resample: unit of the bootstrap; sites where folds are grouped by site.
        marks: what every number must be read with.
        n_train: training patients of each (repeat, fold); where not given, the training rows are counted if there are
            any.
        draws: bootstrap draws.
        specificity: of `sensitivity_at_specificity_...`, 0 to 1.
        seed: of the bootstrap.

    Returns:
        What `results.json` holds; numbers that are undefined are None with a note.

    Raises:
        RunFolderError: no test row, a patient with two truths, or one without a site where sites are resampled.
    """
    sizes = _train_patients(predictions) if n_train is None else dict(n_train)
    test = predictions.take(predictions.role == "test")
    present = [s for s in SELECTIONS if (test.selection == s).any()]
    if not present:
        raise RunFolderError("The predictions hold no test row; no run has finished. Go on with --resume.")
    metrics = metrics_of(test.kind, test.names, specificity)
    selections: dict[str, Any] = {}
    for selection in present:
        rows = test.take(test.selection == selection)
        study = tested(rows, aggregate, resample)
        found = estimates(study, metrics, draws, seed)
        own_marks = list(dict.fromkeys([*marks, *([OPTIMISTIC] if selection == OPTIMISTIC else [])]))
        selections[selection] = {
            "marks": own_marks,
            "counts": _counts(rows, study),
            "metrics": {m.name: _entry(m, e, study, sizes, own_marks) for m, e in zip(metrics, found, strict=True)},
            "per_run": _per_run(study, selection, metrics, found, own_marks),
        }
    primary = present[0]
    return {
        "format": FORMAT,
        "experiment": str(test.experiment[0]),
        "task": test.kind,
        "classes": list(test.names),
        "unit": unit,
        "aggregate": aggregate,
        "resample": resample,
        "draws": draws,
        "selection": primary,
        "marks": selections[primary]["marks"],
        "counts": selections[primary]["counts"],
        "metrics": selections[primary]["metrics"],
        "selections": selections,
        "per_run": selections[primary]["per_run"],
    }


def write_results(run_folder: Path | str, *, draws: int = DRAWS, specificity: float = 0.9) -> dict[str, Any]:
    """Recompute `results.json` of a run folder from its `predictions.csv`.

    `config.json` tells the unit, how slides become patients, what folds are grouped by, and the marks; `cohort.json`
    (or `runs.csv`) how many patients each split trained on.

    Args:
        run_folder: the folder.
        draws: bootstrap draws.
        specificity: of `sensitivity_at_specificity_...`.

    Returns:
        What `results.json` holds.

    Raises:
        RunFolderError: a file is missing or damaged, or the disk is full.
    """
    folder = Path(run_folder)
    config = _json(folder / "config.json")
    unit = config.get("unit", "patient")
    results = compute_results(
        Predictions.read(folder / "predictions.csv"),
        unit=unit,
        aggregate=config.get("aggregate", "mean"),
        resample="site" if config.get("grouped_by") == "site" else "patient",
        marks=tuple(config.get("marks", ())),
        n_train=_recorded_train_patients(folder, unit),
        draws=draws,
        specificity=specificity,
    )
    with whole_file(folder / "results.json") as file:
        json.dump(results, file, indent=1, allow_nan=False, ensure_ascii=False)
        file.write("\n")
    return results


def _entry(
    metric: Metric, found: Estimates, study: Tested, sizes: Mapping[tuple[int, int], float | int], marks: list[str]
) -> dict[str, Any]:
    """One metric as `results.json` holds it."""
    sampling, sampling_note = percentile_interval(found.draws, found.value)
    if study.unit.max() == 0:
        sampling, sampling_note = None, "there is only one patient or site to resample"
    seen = found.draws[~np.isnan(found.draws)]
    note = [metric.note] * bool(metric.note) + [POOLED] * metric.pooled
    note += dict.fromkeys(reason for reason in found.reasons if reason)
    entry: dict[str, Any] = {
        "value": _number(found.value),
        "sampling": _pair(sampling, metric) if not math.isnan(found.value) else None,
        "sampling_note": sampling_note or None,
        "sampling_bias": _number(float(seen.mean()) - found.value) if len(seen) else None,
        "procedure": None,
        "procedure_note": NO_FOLD_VALUES if metric.pooled else None,
        "fold_sd": None,
        "seed_sd": _number(found.seed_sd),
        "undefined_folds": 0,
        "undefined_runs": int(np.isnan(found.runs).sum()),
        "marks": marks,
        "note": "; ".join(note),
    }
    if metric.baseline is not None:
        name, compute = metric.baseline
        baseline = Metric(name, compute, metric.pooled)
        entry[name] = _number(estimates(study, (baseline,), 1, SEED)[0].value)
        if entry[name] is not None:
            entry["note"] = "; ".join([f"{name} {entry[name]:.3f}", *note])
    if found.splits is not None:
        entry["undefined_folds"] = int(np.isnan(found.splits).sum())
        seen = found.splits[~np.isnan(found.splits)]
        entry["fold_sd"] = _number(float(seen.std(ddof=1))) if len(seen) > 1 else None
        entry["procedure"], entry["procedure_note"] = _procedure(metric, found.splits, study, sizes)
    return entry


def _procedure(
    metric: Metric, splits: np.ndarray, study: Tested, sizes: Mapping[tuple[int, int], float | int]
) -> tuple[list[float] | None, str | None]:
    """The corrected resampled t over splits, or None and why."""
    tested_of: dict[tuple[int, int], list[int]] = {}
    for run in study.runs:
        tested_of.setdefault((run.repeat, run.fold), []).append(len(run.patient))
    missing = [split for split in study.splits if not sizes.get(split)]
    if missing and len(study.splits) > 1:
        repeat, fold = missing[0]
        return None, f"the number of training patients of repeat {repeat}, fold {fold}, is not known"
    n_train = np.array([sizes.get(split) or np.nan for split in study.splits], np.float64)
    n_test = np.array([np.mean(tested_of[split]) for split in study.splits])
    interval, note = corrected_resampled_t(splits, n_test, n_train)
    return _pair(interval, metric), note or None


def _per_run(
    study: Tested, selection: str, metrics: Sequence[Metric], found: Sequence[Estimates], marks: list[str]
) -> list[dict[str, Any]]:
    """Each run's own values, and why some are missing; pooled metrics have none."""
    single = [(m, e) for m, e in zip(metrics, found, strict=True) if not m.pooled]
    rows = []
    for i, run in enumerate(study.runs):
        rows.append(
            {
                "run": run.name,
                "repeat": run.repeat,
                "fold": run.fold,
                "seed": run.seed,
                "selection": selection,
                "marks": marks,
                "n": len(run.patient),
                "metrics": {m.name: _number(e.runs[i]) for m, e in single},
                "undefined": {m.name: e.reasons[i] for m, e in single if e.reasons[i]},
            }
        )
    return rows


def _counts(rows: Predictions, study: Tested) -> dict[str, Any]:
    """How much the numbers rest on; classes are counted in patients."""
    target, names = study.target, rows.names
    classes: dict[str, int] = {}
    if rows.kind in ("Binary", "MultiClass"):
        classes = {name: int((target[:, 0] == i).sum()) for i, name in enumerate(names)}
    elif rows.kind == "MultiLabel":
        classes = {name: int(target[:, i].sum()) for i, name in enumerate(names)}
    elif rows.kind == "Survival":
        classes = {"events": int(target[:, 1].sum()), "censored": int((1 - target[:, 1]).sum())}
    return {
        "patients": len(study.patients),
        "bags": len(np.unique(rows.bag)),
        "classes": classes,
        "repeats": len({run.repeat for run in study.runs}),
        "folds": len({run.fold for run in study.runs}),
        "splits": len(study.splits),
        "seeds": len({run.seed for run in study.runs}),
        "runs": len(study.runs),
    }


def _train_patients(predictions: Predictions) -> dict[tuple[int, int], float]:
    """Training patients of each split, counted in the rows of role train; empty where those were not written."""
    train = predictions.take(predictions.role == "train")
    sizes: dict[tuple[int, int], list[int]] = {}
    for run in np.unique(train.run):
        mine = train.take(train.run == run)
        key = (int(mine.repeat[0]), int(mine.fold[0]))
        sizes.setdefault(key, []).append(len(np.unique(mine.patient)))
    return {key: float(np.mean(found)) for key, found in sizes.items()}


def _recorded_train_patients(folder: Path, unit: str) -> dict[tuple[int, int], float] | None:
    """Training patients of each split by `cohort.json`, else by `runs.csv`, which counts bags.

    Bags are patients only if the unit is.
    """
    cohort, runs = folder / "cohort.json", folder / "runs.csv"
    found: dict[tuple[int, int], list[float]] = {}
    if cohort.is_file():
        for part in _json(cohort).get("folds", ()):
            if part.get("role") == "train" and "patients" in part:
                found.setdefault((int(part["repeat"]), int(part["fold"])), []).append(float(part["patients"]))
    if not found and unit == "patient" and runs.is_file():
        with runs.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("n_train"):
                    found.setdefault((int(row["repeat"]), int(row["fold"])), []).append(float(row["n_train"]))
    return {key: float(np.mean(sizes)) for key, sizes in found.items()} or None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"There is no {path}; is {path.parent} a run folder that milkit wrote?") from None
    except ValueError as error:
        raise RunFolderError(f"{path} is not readable JSON ({error}); was it cut short?") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds a {type(value).__name__}; expected an object of named values.")
    return value


def _pair(interval: Interval | None, metric: Metric) -> list[float] | None:
    return None if interval is None else list(interval.within(metric.bounds))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
