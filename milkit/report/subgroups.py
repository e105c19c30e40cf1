"""Metrics within groups of patients (site, sex, any column), with counts and sampling intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from milkit.metrics import Aggregate, Metric, metrics_of
from milkit.metrics.intervals import DRAWS, SEED
from milkit.predictions import Predictions
from milkit.report.entry import counts, number, sampling_of
from milkit.report.estimate import Measured, Resample, estimates, tested
from milkit.report.levels import Columns, chosen_columns, levels_of

FEWEST = 10
"""Patients below which a group gets no number: its interval would span nearly everything, and single patients show."""
MAIN = {
    "Binary": ("auroc", "auprc", "accuracy", "sensitivity_at_threshold", "specificity_at_threshold", "brier"),
    "MultiClass": ("auroc", "accuracy", "balanced_accuracy", "brier"),
    "MultiLabel": ("auroc", "auprc", "macro_f1", "brier"),
    "Regression": ("mae", "rmse", "r2"),
    "Survival": ("c_index",),
}


def subgroups(
    predictions: Predictions,
    columns: Columns,
    asked: Sequence[str] | None = None,
    *,
    aggregate: Aggregate = "mean",
    resample: Resample = "patient",
    measured: Measured = "patient",
    marks: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = SEED,
    fewest: int = FEWEST,
) -> tuple[dict[str, Any], list[str]]:
    """The main metrics within each level of each column, by the estimator of the whole study.

    A run compares the patients of a group within its own test part only, as everywhere; folds that leave too little
    of a group (one class) are left out and counted. Intervals are bootstraps of the group's own patients (of its sites
    where folds are grouped by site and the group has several).

    Args:
        predictions: test rows of one selection; thresholds are taken as they stand, so they may be locked ones.
        columns: column -> bag -> cell.
        asked: columns; None takes those with 2 to 8 levels, six at most.
        aggregate: how the scores of a patient's bags become one.
        resample: unit of the bootstrap.
        measured: `slide` where each bag is a row of its own.
        marks: what every number must be read with.
        draws: bootstrap draws.
        seed: of the bootstrap.
        fewest: patients below which there are counts but no number.

    Returns:
        `{column: {level: {"counts", "metrics": {name: {"value", "sampling", ...}}, "note", "marks"}}}` and notes.

    Raises:
        RunFolderError: a column that is not there or cannot be made into groups.
    """
    who = predictions.bag if measured == "slide" else predictions.patient
    names, notes = chosen_columns(columns, asked, predictions.bag.tolist())
    said = list(notes)
    found: dict[str, Any] = {}
    for name in names:
        groups, note = levels_of(name, columns[name], predictions.bag, who)
        said += [note] * bool(note)
        found[name] = {}
        for level, members in groups.items():
            rows = predictions.take(np.isin(who, list(members)))
            found[name][level] = _group(rows, aggregate, resample, measured, list(marks), draws, seed, fewest)
    total = sum(len(levels) for levels in found.values())
    if total:
        said.append(
            f"{total} groups by {', '.join(found)}: nothing is corrected for how many were looked at, and of twenty "
            "95 % intervals one misses by chance; whether groups differ needs a test of the difference, planned before"
        )
    return found, said


def _group(
    rows: Predictions,
    aggregate: Aggregate,
    resample: Resample,
    measured: Measured,
    marks: list[str],
    draws: int,
    seed: int,
    fewest: int,
) -> dict[str, Any]:
    if len(np.unique(rows.site)) == 1:
        resample = "patient"  # within one site there are only its patients to draw
    study = tested(rows, aggregate, resample, measured)
    size = counts(rows, study)
    kept = {k: size[k] for k in ("patients", "bags", "classes")}
    if size["patients"] < fewest:
        return {"counts": kept, "metrics": {}, "note": f"fewer than {fewest} patients: no number", "marks": marks}
    wanted = main_metrics(rows.kind, rows.names)
    made = {}
    for metric, estimate in zip(wanted, estimates(study, wanted, draws, seed), strict=True):
        sampling, sampling_note = sampling_of(metric, estimate, study)
        made[metric.name] = {
            "value": number(estimate.value),
            "sampling": sampling,
            "sampling_note": sampling_note,
            "undefined_folds": 0 if estimate.splits is None else int(np.isnan(estimate.splits).sum()),
            "undefined_runs": int(np.isnan(estimate.runs).sum()),
            "note": "; ".join(dict.fromkeys(reason for reason in estimate.reasons if reason)),
            "marks": marks,
        }
    return {"counts": kept, "metrics": made, "note": "", "marks": marks}


def main_metrics(kind: str, names: tuple[str, ...]) -> list[Metric]:
    """The few metrics of a task that a table of groups shows."""
    table = {metric.name: metric for metric in metrics_of(kind, names)}
    if kind == "Regression":
        return [m for name, m in table.items() if name.partition(":")[0] in MAIN[kind]]
    return [table[name] for name in MAIN[kind]]
