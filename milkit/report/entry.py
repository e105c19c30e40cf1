"""One metric as `results.json` holds it: value, both intervals, spreads, and what must be said with it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from milkit.metrics import Interval, Metric, corrected_resampled_t, percentile_interval
from milkit.metrics.intervals import SEED
from milkit.predictions import Predictions
from milkit.report.estimate import Estimates, Tested, estimates

POOLED = "pooled over the folds of each repeat and seed, then averaged"
NO_FOLD_VALUES = "pooled over folds: there are no values of single folds to form it from"

Sizes = Mapping[tuple[int, int], float | int]
"""Training patients of each (repeat, fold)."""


def entry(metric: Metric, found: Estimates, study: Tested, sizes: Sizes, marks: list[str]) -> dict[str, Any]:
    """Value and intervals of one metric."""
    sampling, sampling_note = sampling_of(metric, found, study)
    seen = found.draws[~np.isnan(found.draws)]
    note = [metric.note] * bool(metric.note) + [POOLED] * metric.pooled
    note += dict.fromkeys(reason for reason in found.reasons if reason)
    made: dict[str, Any] = {
        "value": number(found.value),
        "sampling": sampling,
        "sampling_note": sampling_note,
        "sampling_bias": number(float(seen.mean()) - found.value) if len(seen) else None,
        "procedure": None,
        "procedure_note": NO_FOLD_VALUES if metric.pooled else None,
        "fold_sd": None,
        "seed_sd": number(found.seed_sd),
        "undefined_folds": 0,
        "undefined_runs": int(np.isnan(found.runs).sum()),
        "marks": marks,
        "note": "; ".join(note),
    }
    if metric.baseline is not None:
        name, compute = metric.baseline
        baseline = Metric(name, compute, metric.pooled)
        made[name] = number(estimates(study, (baseline,), 1, SEED)[0].value)
        if made[name] is not None:
            made["note"] = "; ".join([f"{name} {made[name]:.3f}", *note])
    if found.splits is not None:
        made["undefined_folds"] = int(np.isnan(found.splits).sum())
        seen = found.splits[~np.isnan(found.splits)]
        made["fold_sd"] = number(float(seen.std(ddof=1))) if len(seen) > 1 else None
        made["procedure"], made["procedure_note"] = _procedure(metric, found.splits, study, sizes)
    return made


def sampling_of(metric: Metric, found: Estimates, study: Tested) -> tuple[list[float] | None, str | None]:
    """The sampling interval, or None, and what must be said with it."""
    if study.unit.max() == 0:
        return None, "there is only one patient or site to resample"
    interval, note = percentile_interval(found.draws, found.value)
    return _pair(interval, metric) if not math.isnan(found.value) else None, note or None


def change(
    metric: Metric, before: Estimates, after: Estimates, study: Tested, sizes: Sizes, marks: list[str]
) -> dict[str, Any]:
    """The difference of two estimates of the same runs and patients, draw by draw and split by split."""
    moved = replace(
        after,
        runs=after.runs - before.runs,
        splits=None if after.splits is None or before.splits is None else after.splits - before.splits,
        value=after.value - before.value,
        draws=after.draws - before.draws,
        seed_sd=float("nan"),
    )
    whole = replace(metric, bounds=(-np.inf, np.inf), note="", baseline=None)
    made = entry(whole, moved, study, sizes, marks)
    return {k: made[k] for k in ("value", "sampling", "sampling_note", "procedure", "procedure_note", "marks")}


def _procedure(
    metric: Metric, splits: np.ndarray, study: Tested, sizes: Sizes
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


def _pair(interval: Interval | None, metric: Metric) -> list[float] | None:
    return None if interval is None else list(interval.within(metric.bounds))


def number(value: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if math.isnan(value) else float(value)


def counts(rows: Predictions, study: Tested) -> dict[str, Any]:
    """How much the numbers rest on; classes are counted in patients (in slides where labels are theirs)."""
    target, names = study.target, rows.names
    classes: dict[str, int] = {}
    if rows.kind in ("Binary", "MultiClass"):
        classes = {name: int((target[:, 0] == i).sum()) for i, name in enumerate(names)}
    elif rows.kind == "MultiLabel":
        classes = {name: int(target[:, i].sum()) for i, name in enumerate(names)}
    elif rows.kind == "Survival":
        classes = {"events": int(target[:, 1].sum()), "censored": int((1 - target[:, 1]).sum())}
    return {
        "patients": len(np.unique(rows.patient)),
        "bags": len(np.unique(rows.bag)),
        "classes": classes,
        "repeats": len({run.repeat for run in study.runs}),
        "folds": len({run.fold for run in study.runs}),
        "splits": len(study.splits),
        "seeds": len({run.seed for run in study.runs}),
        "runs": len(study.runs),
    }
