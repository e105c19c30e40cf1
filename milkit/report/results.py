"""`results.json`: every reported number, recomputed from `predictions.csv` alone.

`docs/statistics.md` defines the metrics, the estimator and both intervals.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import RunFolderError
from milkit.metrics import Aggregate, Metric, metrics_of
from milkit.metrics.intervals import DRAWS, SEED
from milkit.predictions import SELECTIONS, Predictions, whole_file
from milkit.report.calibrated import calibration
from milkit.report.complete import inner_folds, missing
from milkit.report.entry import Sizes, counts, entry, number
from milkit.report.estimate import Estimates, Measured, Resample, Tested, estimates, tested
from milkit.report.label_curve import write_label_curve
from milkit.report.levels import Columns
from milkit.report.risk import (
    Recorded,
    of_all_runs,
    predicts_curves,
    read_training,
    survival_summary,
    with_training,
)
from milkit.report.segmentation import segmentation
from milkit.report.subgroups import subgroups
from milkit.report.validation import CALIBRATED, Temperatures, cut_at_sensitivity, fit_temperatures

FORMAT = 1
OPTIMISTIC = "optimistic"
SLIDES_ARE_PATIENTS = "each slide counted as a patient"
YOUDEN = "Youden's J on each run's validation patients"


def compute_results(
    predictions: Predictions,
    *,
    unit: str = "patient",
    aggregate: Aggregate = "mean",
    resample: Resample = "patient",
    measured: Measured = "patient",
    marks: Sequence[str] = (),
    n_train: Sizes | None = None,
    inner: Mapping[str, int] | None = None,
    columns: Columns | None = None,
    groups: Sequence[str] | None = (),
    sensitivity: float | None = None,
    temperatures: Temperatures | None = None,
    training: Mapping[str, Recorded] | None = None,
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
        measured: `slide` where labels belong to slides: a row of every metric is a slide, resampled with its patient.
        marks: what every number must be read with.
        n_train: training patients of each (repeat, fold); where not given, the training rows are counted if there are
            any.
        inner: inner fold of each run, for the record.
        columns: further columns to group patients by, column -> bag -> cell; site and cohort are there anyway.
        groups: columns of the sub-group table; None takes those with 2 to 8 levels, () none.
        sensitivity: binary tasks: choose each run's threshold anew, for at least this sensitivity on its validation
            patients; None keeps the thresholds in the table (Youden's J).
        temperatures: of each run, where they were settled before (a locked model); fitted on validation rows if None.
        training: survival: what each run's training part says (`survival.json`); censoring is estimated on the
            patients tested where it is not given.
        draws: bootstrap draws.
        specificity: of `sensitivity_at_specificity_...`, 0 to 1.
        seed: of the bootstrap.

    Returns:
        What `results.json` holds; numbers that are undefined are None with a note.

    Raises:
        RunFolderError: no test row, a patient with two truths, or one without a site where sites are resampled; a
            column that cannot be grouped by.
    """
    sizes = _train_units(predictions, measured) if n_train is None else dict(n_train)
    test = predictions.take(predictions.role == "test")
    validation = predictions.take(predictions.role == "validation")
    present = [s for s in SELECTIONS if (test.selection == s).any()]
    if not present:
        raise RunFolderError("The predictions hold no test row; no run has finished. Go on with --resume.")
    if sensitivity is not None and (test.kind != "Binary" or not 0 < sensitivity <= 1):
        raise RunFolderError(f"A cut at sensitivity {sensitivity} needs a binary task and a share above 0, up to 1.")
    learnt = of_all_runs(test, training)
    with_curves = predicts_curves(test, learnt)
    metrics = metrics_of(test.kind, test.names, specificity, training=bool(learnt), curves=with_curves)
    how: dict[str, Any] = {"aggregate": aggregate, "resample": resample, "measured": measured}
    selections: dict[str, Any] = {}
    for selection in present:
        rows = test.take(test.selection == selection)
        held = validation.take(validation.selection == selection)
        if sensitivity is not None:
            rows = cut_at_sensitivity(rows, held, sensitivity, aggregate, measured)
        study = tested(rows, aggregate, resample, measured)
        if learnt:
            study = with_training(study, rows, learnt, aggregate)
        found = estimates(study, metrics, draws, seed)
        own_marks = list(dict.fromkeys([*marks, *([OPTIMISTIC] if selection == OPTIMISTIC else [])]))
        part: dict[str, Any] = {
            "marks": own_marks,
            "counts": counts(rows, study),
            "metrics": {m.name: entry(m, e, study, sizes, own_marks) for m, e in zip(metrics, found, strict=True)},
        }
        if test.kind == "Survival":
            part["survival"] = survival_summary(study, learnt)
        known = temperatures
        if known is None and test.kind in CALIBRATED:
            known = fit_temperatures(held, [run.name for run in study.runs], aggregate, measured)
        part["per_run"] = _per_run(study, selection, metrics, found, own_marks, inner or {}, known or {})
        if known is not None and test.kind in CALIBRATED:
            given = {} if temperatures is None else {"settled": "before these patients were seen"}
            more = {"draws": draws, "seed": seed, **how, **given}
            part["calibration"] = calibration(rows, known, metrics, sizes, own_marks, **more)
        if selection == present[0]:
            cells = {**bag_columns(rows), **(columns or {})}
            more = {"marks": own_marks, "draws": draws, "seed": seed, **how}
            by_group, group_notes = subgroups(rows, cells, groups, **more)
        selections[selection] = part
    primary = selections[present[0]]
    return {
        "format": FORMAT,
        "experiment": str(test.experiment[0]),
        "task": test.kind,
        "classes": list(test.names),
        "unit": unit,
        **how,
        "draws": draws,
        "selection": present[0],
        "threshold": _chosen(test.kind, sensitivity),
        "marks": primary["marks"],
        "counts": primary["counts"],
        "metrics": primary["metrics"],
        **{name: primary[name] for name in ("calibration", "survival") if name in primary},
        "subgroups": by_group,
        "subgroup_notes": group_notes,
        "selections": selections,
        "per_run": primary["per_run"],
    }


def bag_columns(rows: Predictions) -> dict[str, dict[str, str]]:
    """Site and cohort of each bag, where any is known."""
    found = {
        name: dict(zip(rows.bag.tolist(), getattr(rows, name).tolist(), strict=True)) for name in ("site", "cohort")
    }
    return {name: cells for name, cells in found.items() if any(cells.values())}


def _chosen(kind: str, sensitivity: float | None) -> str | None:
    """How the thresholds of `..._at_threshold` were chosen."""
    if kind != "Binary":
        return None
    if sensitivity is None:
        return YOUDEN
    return f"the highest with a sensitivity of at least {sensitivity:g} on each run's validation patients"


def write_results(
    run_folder: Path | str,
    *,
    groups: Sequence[str] | None = None,
    sensitivity: float | None = None,
    draws: int = DRAWS,
    specificity: float = 0.9,
) -> dict[str, Any]:
    """Recompute `results.json` of a run folder from its `predictions.csv`; and its label-budget curve, if it has one.

    `config.json` tells the unit, how slides become patients, what folds are grouped by, and the marks; `cohort.json`
    (or `runs.csv`) how many patients each split trained on; `folds.csv` and `runs.csv` what should be there, so that
    what is missing becomes a mark; `columns.csv` what patients can be grouped by.

    Args:
        run_folder: the folder.
        groups: columns of the sub-group table; None takes those with 2 to 8 levels.
        sensitivity: see `compute_results`.
        draws: bootstrap draws.
        specificity: of `sensitivity_at_specificity_...`.

    Returns:
        What `results.json` holds.

    Raises:
        RunFolderError: a file is missing or damaged, a column cannot be grouped by, or the disk is full.
    """
    folder = Path(run_folder)
    config = _json(folder / "config.json")
    cohort = _json(folder / "cohort.json") if (folder / "cohort.json").is_file() else {}
    predictions = Predictions.read(folder / "predictions.csv")
    measured: Measured = "slide" if config.get("measured") == "slide" else "patient"
    lacking, details = missing(folder, config, predictions)
    flow = cohort.get("flow", {})
    columns = recorded_columns(folder / "columns.csv")
    data = config.get("experiment", {}).get("data", {}).get("type")
    # bags of the classic sets are molecules and images, which belong to nobody
    alone = data != "Classic" and any(str(note).startswith("no patient column") for note in flow.get("notes", ()))
    results = compute_results(
        predictions,
        unit=config.get("unit", "patient"),
        aggregate=config.get("aggregate", "mean"),
        resample="site" if config.get("grouped_by") == "site" else "patient",
        measured=measured,
        marks=(*config.get("marks", ()), *lacking, *([SLIDES_ARE_PATIENTS] if alone else [])),
        n_train=_recorded_train_units(folder, config.get("unit", "patient"), measured),
        inner=inner_folds(folder),
        columns=columns,
        groups=groups,
        sensitivity=sensitivity,
        training=read_training(folder),
        draws=draws,
        specificity=specificity,
    )
    seen = segmentation(
        folder,
        config,
        predictions,
        results["selection"],
        columns,
        _recorded_train_units(folder, config.get("unit", "patient"), "patient"),
        draws,
        flow,
        results["marks"],
    )
    results |= {"segmentation": seen} if seen else {}
    results |= {"left_out": _left_out(flow)} if flow else {}
    results |= {"missing": details} if details else {}
    if (folder / "search.json").is_file():  # how many configurations were tried, and what each fold chose
        results["search"] = _json(folder / "search.json")
    with whole_file(folder / "results.json") as file:
        json.dump(results, file, indent=1, allow_nan=False, ensure_ascii=False)
        file.write("\n")
    write_label_curve(folder, results, draws=draws)
    return results


def _left_out(flow: Mapping[str, Any]) -> dict[str, int]:
    """Slides that the study does not use, by reason."""
    reasons = [str(reason) for _, reason in flow.get("left_out", ())]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def _per_run(
    study: Tested,
    selection: str,
    metrics: Sequence[Metric],
    found: Sequence[Estimates],
    marks: list[str],
    inner: Mapping[str, int],
    temperatures: Temperatures,
) -> list[dict[str, Any]]:
    """Each run's own values, and why some are missing; pooled metrics have none."""
    single = [(m, e) for m, e in zip(metrics, found, strict=True) if not m.pooled]
    rows = []
    for i, run in enumerate(study.runs):
        own = [number(t) for t in temperatures.get(run.name, ())]
        rows.append(
            {
                "run": run.name,
                "repeat": run.repeat,
                "fold": run.fold,
                "inner": inner.get(run.name, 0),
                "seed": run.seed,
                "selection": selection,
                "marks": marks,
                "n": len(run.patient),
                **({"temperature": own[0] if len(own) == 1 else own} if own else {}),
                "metrics": {m.name: number(e.runs[i]) for m, e in single},
                "undefined": {m.name: e.reasons[i] for m, e in single if e.reasons[i]},
            }
        )
    return rows


def _train_units(predictions: Predictions, measured: Measured) -> dict[tuple[int, int], float]:
    """Training patients (slides) of each split, counted in the rows of role train; empty where there are none."""
    train = predictions.take(predictions.role == "train")
    sizes: dict[tuple[int, int], list[int]] = {}
    for run in np.unique(train.run):
        mine = train.take(train.run == run)
        key = (int(mine.repeat[0]), int(mine.fold[0]))
        sizes.setdefault(key, []).append(len(np.unique(mine.bag if measured == "slide" else mine.patient)))
    return {key: float(np.mean(found)) for key, found in sizes.items()}


def _recorded_train_units(folder: Path, unit: str, measured: Measured) -> dict[tuple[int, int], float] | None:
    """Training patients (slides) of each split by `cohort.json`, else by `runs.csv`, which counts bags.

    Bags are patients only if the unit is.
    """
    cohort, runs = folder / "cohort.json", folder / "runs.csv"
    counted = "bags" if measured == "slide" else "patients"
    found: dict[tuple[int, int], list[float]] = {}
    if cohort.is_file():
        for part in _json(cohort).get("folds", ()):
            if part.get("role") == "train" and counted in part:
                found.setdefault((int(part["repeat"]), int(part["fold"])), []).append(float(part[counted]))
    if not found and (unit == "patient" or measured == "slide") and runs.is_file():
        with runs.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("n_train"):
                    found.setdefault((int(row["repeat"]), int(row["fold"])), []).append(float(row["n_train"]))
    return {key: float(np.mean(sizes)) for key, sizes in found.items()} or None


def recorded_columns(path: Path) -> dict[str, dict[str, str]]:
    """Column -> bag -> cell of `columns.csv`; {} where it is absent."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = [name for name in reader.fieldnames or () if name not in ("bag", "patient")]
        rows = list(reader)
    short = [i for i, row in enumerate(rows, 2) if None in row or None in row.values()]
    if short or "bag" not in (reader.fieldnames or ()):
        where = f"line {short[0]} has another number of cells than the header" if short else "there is no column bag"
        raise RunFolderError(f"{path}: {where}; it is written by `milkit run`: one row a bag. Restore or remove it.")
    return {name: {row["bag"]: row[name] for row in rows} for name in names}


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
