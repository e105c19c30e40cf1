"""The calibration block of `results.json`: what temperature scaling, settled on validation, does to test probabilities.

Metrics of raw probabilities, of scaled ones, and their difference, all on the same runs and patients.
"""

from collections import Counter
from typing import Any

import numpy as np

from milkit.metrics import Aggregate, Metric, why
from milkit.predictions import Predictions
from milkit.report.entry import Sizes, change, entry, number
from milkit.report.estimate import Measured, Resample, estimates, tested
from milkit.report.validation import Temperatures, scale

MEASURED = ("nll", "brier", "ece")
METHOD = "temperature scaling (Guo et al. 2017): logits of each bag are divided, then patients are formed"


def calibration(
    rows: Predictions,
    temperatures: Temperatures,
    metrics: tuple[Metric, ...],
    sizes: Sizes,
    marks: list[str],
    *,
    aggregate: Aggregate,
    resample: Resample,
    measured: Measured,
    draws: int,
    seed: int,
    settled: str = "on the validation patients of each run",
) -> dict[str, Any]:
    """`raw`, `metrics` (after scaling) and `change` with their intervals, and the temperatures.

    Args:
        rows: test rows of one selection.
        temperatures: of each run; runs without one are left out of all three.
        metrics: of the task; those of probabilities are taken.
        sizes: training patients of each split.
        marks: what every number must be read with.
        aggregate: how the scores of a patient's bags become one.
        resample: unit of the bootstrap.
        measured: what a row of every metric is.
        draws: bootstrap draws.
        seed: of the bootstrap.
        settled: when, for the record.
    """
    wanted = [m for m in metrics if m.name in MEASURED]
    after = scale(rows, temperatures)
    known = np.unique(after.run)
    block: dict[str, Any] = {
        "method": METHOD,
        "settled": settled,
        "temperature": _described(rows, temperatures),
        "runs": len(known),
        "runs_without": len(temperatures) - len(known),
        "marks": marks,
        "raw": {},
        "metrics": {},
        "change": {},
    }
    if not len(known):
        return block
    studies = [tested(part, aggregate, resample, measured) for part in (rows.take(np.isin(rows.run, known)), after)]
    found = [estimates(study, wanted, draws, seed) for study in studies]
    for metric, before, scaled in zip(wanted, *found, strict=True):
        block["raw"][metric.name] = entry(metric, before, studies[0], sizes, marks)
        block["metrics"][metric.name] = entry(metric, scaled, studies[1], sizes, marks)
        block["change"][metric.name] = change(metric, before, scaled, studies[0], sizes, marks)
    return block


def _described(rows: Predictions, temperatures: Temperatures) -> dict[str, Any]:
    """Median and range over runs (by label where there are several), and what was said of them."""
    table = np.array([list(map(float, each)) for each in temperatures.values()]).reshape(len(temperatures), -1)
    said = Counter(why(t) or getattr(t, "note", "") for each in temperatures.values() for t in each)
    out = {**_spread(table.ravel()), "notes": {note: count for note, count in said.most_common() if note}}
    if rows.kind == "MultiLabel":
        out["labels"] = {name: _spread(column) for name, column in zip(rows.names, table.T, strict=True)}
    return out


def _spread(values: np.ndarray) -> dict[str, Any]:
    seen = values[~np.isnan(values)]
    if not len(seen):
        return {"median": None, "range": None}
    return {"median": number(float(np.median(seen))), "range": [float(seen.min()), float(seen.max())]}
