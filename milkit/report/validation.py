"""What each run settles on its own validation patients: temperatures, and cuts at a wanted sensitivity.

Nothing here reads a test row to decide anything; test rows are only scaled or cut by what was decided.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from milkit.metrics import Aggregate, Undefined, fit_temperature, pool, threshold_at_sensitivity
from milkit.metrics.temperature import class_probabilities
from milkit.predictions import Predictions
from milkit.report.estimate import Measured

CALIBRATED = ("Binary", "MultiClass", "MultiLabel")
"""Tasks whose logits are those of probabilities."""
NO_VALIDATION = "no validation patient"

Temperatures = Mapping[str, Sequence[float]]
"""Of each run by name: one number, or one a label; NaN (an `Undefined`) where there is none."""


def fit_temperatures(
    validation: Predictions, runs: Sequence[str], aggregate: Aggregate = "mean", measured: Measured = "patient"
) -> dict[str, list[float]]:
    """The temperature of each run (of each label), fitted on its validation rows alone.

    Args:
        validation: validation rows of one selection.
        runs: names of all runs; those without validation rows get an `Undefined`.
        aggregate: how the scores of a patient's bags become one: bags are scaled, then pooled, as test bags are.
        measured: `slide` where each bag is a row of its own.
    """
    labels = len(validation.names) if validation.kind == "MultiLabel" else 1
    found: dict[str, list[float]] = {run: [Undefined(NO_VALIDATION)] * labels for run in runs}
    for run, rows in by_run(validation):
        who = validation.bag if measured == "slide" else validation.patient
        number = np.unique(who[rows], return_inverse=True)[1]
        logits, target = validation.logits[rows], validation.target[rows].astype(np.int64)
        if validation.kind == "MultiClass":
            found[run] = [fit_temperature(logits, target[:, 0], number, aggregate)]
        else:
            found[run] = [fit_temperature(logits[:, i], target[:, i], number, aggregate) for i in range(labels)]
    return found


def scale(rows: Predictions, temperatures: Temperatures) -> Predictions:
    """The rows of runs whose temperatures are all known, their logits divided and their scores made anew."""
    known = {run: np.array(each, np.float64) for run, each in temperatures.items() if np.isfinite(each).all()}
    rows = rows.take(np.isin(rows.run, list(known)))
    names, run = np.unique(rows.run, return_inverse=True)
    if not len(names):
        return rows
    logits = rows.logits / np.stack([known[str(name)] for name in names])[run]
    if rows.kind == "MultiLabel":
        score = np.stack([class_probabilities(column)[:, 1] for column in logits.T], 1)
    else:
        score = class_probabilities(logits[:, 0] if rows.kind == "Binary" else logits)
    return replace(rows, logits=logits, score=score)


def cut_at_sensitivity(
    test: Predictions,
    validation: Predictions,
    sensitivity: float,
    aggregate: Aggregate = "mean",
    measured: Measured = "patient",
) -> Predictions:
    """Test rows of a binary task with the highest threshold that reaches a sensitivity on the run's validation rows.

    Args:
        test: test rows of one selection.
        validation: validation rows of the same selection.
        sensitivity: wanted on validation, above 0 to 1.
        aggregate: how the scores of a patient's bags become one.
        measured: `slide` where each bag is a row of its own.
    """
    chosen = {}
    for run, rows in by_run(validation):
        who = (validation.bag if measured == "slide" else validation.patient)[rows]
        patients, first, number = np.unique(who, return_index=True, return_inverse=True)
        score = pool("Binary", validation.score[rows], number, len(patients), aggregate)[:, 1]
        chosen[run] = threshold_at_sensitivity(validation.target[rows][first, 0], score, sensitivity)
    names, run_of = np.unique(test.run, return_inverse=True)
    cuts = np.array([chosen.get(str(name), np.nan) for name in names], np.float64)
    return replace(test, threshold=cuts[run_of][:, None])


def by_run(rows: Predictions) -> Iterator[tuple[str, np.ndarray]]:
    """(run, its rows), by one sort."""
    names, number = np.unique(rows.run, return_inverse=True)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(names)))
    for i, name in enumerate(names):
        yield str(name), order[(ends[i - 1] if i else 0) : ends[i]]
