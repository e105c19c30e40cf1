"""`label_curve.json` and `label_curve.csv`: what a study reaches with few labels, recomputed from its predictions.

A point of the curve is a label budget; its runs are all splits, draws and seeds of that budget, and the last point is
the study itself. `docs/few_labels.md` defines what a point and its intervals claim.
"""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from milkit.metrics import Metric, metrics_of
from milkit.metrics.intervals import DRAWS, SEED
from milkit.predictions import SELECTIONS, Predictions, whole_file
from milkit.report.complete import missing_few
from milkit.report.entry import Sizes, change, entry, number
from milkit.report.estimate import Estimates, Tested, estimates, tested
from milkit.report.label_sizes import Trained, few_sizes, full_sizes, read_rows

FORMAT = 1
FOLDER = "few_labels"
LEFT_OUT = "Label budget of"
"""How a note on a budget that is not in the curve begins (`milkit.data.protocol.labels`)."""
PRIMARY = (
    "auroc", "auprc", "accuracy", "balanced_accuracy", "subset_accuracy", "nll", "brier", "c_index", "mae", "rmse",
    "r2", "pearson", "spearman",
)  # fmt: skip
"""Metrics of the curve, by their names before a colon. Those that need a threshold are left out: it would be chosen on
the few validation patients of a budget, and its own error would be the curve."""
COLUMNS = (
    "labels", "metric", "value", "sampling_low", "sampling_high", "procedure_low", "procedure_high", "procedure_note",
    "fold_sd", "draw_sd", "seed_sd", "undefined_runs", "train_patients", "validation_patients", "splits", "draws",
    "seeds", "runs", "updates",
)  # fmt: skip
ALL = "all"


@dataclass(frozen=True, eq=False)
class _Point:
    """One budget: its test rows grouped, the estimates of every metric, and what it trained on."""

    labels: int
    study: Tested
    found: tuple[Estimates, ...]
    trained: Trained
    draw_of: Mapping[str, int]

    @property
    def key(self) -> int | str:
        return self.labels or ALL


def write_label_curve(run_folder: Path | str, results: Mapping[str, Any], *, draws: int = DRAWS) -> dict[str, Any]:
    """Compute the label-budget curve of a run folder, if it has label budgets, and write it as JSON and CSV.

    Args:
        run_folder: the folder; `few_labels/` in it holds the runs of the budgets.
        results: what its `results.json` holds, which says how patients are pooled and resampled.
        draws: bootstrap draws.

    Returns:
        What `label_curve.json` holds; {} for a study without label budgets, or none of whose budgets has finished.

    Raises:
        RunFolderError: a file is missing or damaged, or the disk is full.
    """
    folder = Path(run_folder)
    if not (folder / FOLDER / "predictions.csv").is_file():
        return {}
    curve = label_curve(folder, results, draws)
    with whole_file(folder / "label_curve.json") as file:
        json.dump(curve, file, indent=1, allow_nan=False, ensure_ascii=False)
        file.write("\n")
    with whole_file(folder / "label_curve.csv") as file:
        file.write(curve_csv(curve))
    return curve


def label_curve(folder: Path, results: Mapping[str, Any], draws: int = DRAWS) -> dict[str, Any]:
    """The curve of a run folder; see `write_label_curve`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    few, full = Predictions.read(folder / FOLDER / "predictions.csv"), Predictions.read(folder / "predictions.csv")
    selection = next(s for s in SELECTIONS if s in set(few.selection.tolist()))
    listed = {row["run"]: row for row in read_rows(folder / FOLDER / "runs.csv")}
    marks = [*results.get("marks", ()), *missing_few(folder, FOLDER, int(config.get("few_label_runs", 0)), few)]
    few, full = (t.take((t.role == "test") & (t.selection == selection)) for t in (few, full))
    metrics = primary_metrics(few.kind, few.names)
    budget_of = np.array([int(listed[run]["labels"]) for run in few.run.tolist()], np.int64)
    sizes = few_sizes(folder, FOLDER, slides=results.get("measured") == "slide")
    points = [
        _point(few.take(budget_of == k), k, metrics, results, draws, sizes[k], listed)
        for k in sorted(set(budget_of.tolist()))
    ]
    if len(full):
        whole = full_sizes(folder, slides=results.get("measured") == "slide")
        points.append(_point(full, 0, metrics, results, draws, whole, {}))
    part = points[-1].trained.part if not points[-1].labels else {}
    return {
        "format": FORMAT,
        "experiment": str(results.get("experiment", "")),
        "task": few.kind,
        "selection": selection,
        "budget": config.get("experiment", {}).get("labels", {}),
        "resample": results.get("resample", "patient"),
        "measured": results.get("measured", "patient"),
        "bootstrap": draws,
        "marks": list(dict.fromkeys(marks)),
        "notes": _left_out(folder / "cohort.json"),
        "metrics": [m.name for m in metrics],
        "points": [_shown(p, metrics, part, marks) for p in points],
        "differences": _differences(points, metrics, part, marks),
    }


def _left_out(cohort: Path) -> list[str]:
    """What the folds had to say of budgets that they cannot fill."""
    notes = json.loads(cohort.read_text(encoding="utf-8")).get("notes", ()) if cohort.is_file() else ()
    return [str(note) for note in notes if str(note).startswith(LEFT_OUT)]


def primary_metrics(kind: str, names: tuple[str, ...]) -> tuple[Metric, ...]:
    """The metrics of a curve: those of a task that need no threshold, and of many labels only their means."""
    found = metrics_of(kind, names)
    each_label = kind == "MultiLabel"
    kept = [m for m in found if m.name.partition(":")[0] in PRIMARY and not (each_label and ":" in m.name)]
    return tuple(m for m in kept if not m.pooled)


def _point(
    rows: Predictions, labels: int, metrics: Sequence[Metric], results: Mapping[str, Any], draws: int,
    trained: Trained, listed: Mapping[str, Mapping[str, str]],
) -> _Point:  # fmt: skip
    study = tested(
        rows, results.get("aggregate", "mean"), results.get("resample", "patient"), results.get("measured", "patient")
    )
    draw_of = {run.name: int(listed[run.name]["draw"]) if run.name in listed else 0 for run in study.runs}
    return _Point(labels, study, tuple(estimates(study, metrics, draws, SEED)), trained, draw_of)


def _shown(point: _Point, metrics: Sequence[Metric], part: Sizes, marks: Sequence[str]) -> dict[str, Any]:
    """A point as the file holds it."""
    made = {}
    for metric, found in zip(metrics, point.found, strict=True):
        one = entry(metric, found, point.study, part, list(marks))
        made[metric.name] = {k: v for k, v in one.items() if k != "marks"} | {
            "draw_sd": number(_draw_sd(found.runs, point)),
            "by_draw": _by_draw(found.runs, point),
        }
    return {
        "labels": point.key,
        "splits": len(point.study.splits),
        "draws": len(set(point.draw_of.values())),
        "seeds": len({run.seed for run in point.study.runs}),
        "runs": len(point.study.runs),
        "test_patients": len(point.study.patients),
        **point.trained.as_dict(),
        "metrics": made,
    }


def _draw_sd(values: Float[np.ndarray, "r"], point: _Point) -> float:
    """SD over the draws of a split, seeds and inner folds averaged first; averaged over splits. NaN for one draw."""
    cells: dict[tuple[int, int], dict[int, list[float]]] = {}
    for run, value in zip(point.study.runs, values.tolist(), strict=True):
        if not np.isnan(value):
            draws = cells.setdefault((run.repeat, run.fold), {})
            draws.setdefault(point.draw_of[run.name], []).append(value)
    means = [[float(np.mean(v)) for v in draws.values()] for draws in cells.values()]
    spread = [float(np.std(m, ddof=1)) for m in means if len(m) > 1]
    return float(np.mean(spread)) if spread else float("nan")


def _by_draw(values: Float[np.ndarray, "r"], point: _Point) -> list[float | None]:
    """The value that each draw alone would have given: its runs averaged within splits, then over splits."""
    made = []
    for draw in sorted(set(point.draw_of.values())):
        cells: dict[tuple[int, int], list[float]] = {}
        for run, value in zip(point.study.runs, values.tolist(), strict=True):
            if point.draw_of[run.name] == draw and not np.isnan(value):
                cells.setdefault((run.repeat, run.fold), []).append(value)
        made.append(float(np.mean([np.mean(v) for v in cells.values()])) if cells else None)
    return made


def _differences(
    points: Sequence[_Point], metrics: Sequence[Metric], part: Sizes, marks: Sequence[str]
) -> list[dict[str, Any]]:
    """Each budget against the next one and against all labels, on the same patients and splits."""
    pairs = list(itertools.pairwise(points))
    pairs += [(p, points[-1]) for p in points[:-2] if not points[-1].labels]
    made = []
    for less, more in pairs:
        same = np.array_equal(less.study.patients, more.study.patients) and less.study.splits == more.study.splits
        if not same:
            continue  # some run is missing, which the marks say
        each = zip(metrics, map(_by_split, less.found), map(_by_split, more.found), strict=True)
        rows = {m.name: change(m, a, b, more.study, part, list(marks)) for m, a, b in each}
        for row in rows.values():
            row.pop("marks")
        made.append({"from": less.key, "to": more.key, "metrics": rows})
    return made


def _by_split(found: Estimates) -> Estimates:
    """Budgets differ in their number of runs (draws), never in their splits."""
    assert found.splits is not None  # pooled metrics are not of a curve
    return replace(found, runs=found.splits, reasons=())


def curve_csv(curve: Mapping[str, Any]) -> str:
    """One row a budget and metric, at full precision; what is undefined is an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for point in curve["points"]:
        for name, metric in point["metrics"].items():
            row = {k: point[k] for k in COLUMNS if k in point} | {"metric": name}
            row |= {k: metric[k] for k in COLUMNS if k in metric}
            for kind in ("sampling", "procedure"):
                low, high = metric[kind] or (None, None)
                row |= {f"{kind}_low": low, f"{kind}_high": high}
            table.writerow({k: "" if v is None else v for k, v in row.items()})
    return text.getvalue()
