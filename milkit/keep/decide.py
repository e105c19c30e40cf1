"""What is locked into a model beside its weights: thresholds, temperature, risk cut-off, all from validation patients.

Every run of a study predicted its own validation part, whose patients it did not train on. Those predictions are put
together as the model will put its members together: a patient's score is the mean over the runs that had the patient
in validation, on the probability (value, risk) scale. Test patients take no part, so the study's numbers stay what
they were.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from milkit.metrics import Aggregate, fit_temperature, median_risk, why, youden_threshold
from milkit.predictions import Predictions
from milkit.report.estimate import Measured, tested
from milkit.task import Survival, Task

HALF = 0.5
SMALLEST = 1e-15
"""Probabilities closer to 0 or 1 have no logit to scale."""


def out_of_fold(rows: Predictions, centres: Mapping[str, float]) -> Predictions:
    """One row a bag that stood in a validation part: its mean score over the runs that held it out.

    Args:
        rows: validation rows of one selection.
        centres: what is taken off each run's risks.
    """
    _, first, number = np.unique(rows.bag, return_index=True, return_inverse=True)
    score = rows.score - np.array([centres.get(run, 0.0) for run in rows.run.tolist()])[:, None]
    total = np.stack([np.bincount(number, column) for column in score.T], 1)
    return replace(rows.take(first), score=total / np.bincount(number)[:, None])


def centres_of(rows: Predictions, task: Task) -> dict[str, float]:
    """Mean log risk of each run's validation bags (Cox), which is its zero from then on; nothing for other tasks."""
    if not (isinstance(task, Survival) and task.loss == "cox"):
        return {}
    return {run: float(rows.score[rows.run == run, 0].mean()) for run in np.unique(rows.run).tolist()}


def decide(
    task: Task, names: tuple[str, ...], rows: Predictions, aggregate: Aggregate, measured: Measured = "patient"
) -> dict[str, Any]:
    """Threshold, temperature and risk cut-off, each with where it comes from.

    Args:
        task: the task.
        names: classes, labels or values.
        rows: validation rows of the selection that is kept; none if the study has no validation part.
        aggregate: how the scores of a patient's bags become one.
        measured: `slide` where labels belong to slides.

    Returns:
        `threshold`, `temperature` and `risk_cut`, as `model.json` holds them.
    """
    kind = type(task).__name__
    if not len(rows):
        said, bags = "the study has no validation part", rows
        target, score = rows.target, rows.score
    else:
        bags = out_of_fold(rows, centres_of(rows, task))
        part = tested(replace(bags, run=np.full(len(bags), "all")), aggregate, "patient", measured).runs[0].part
        target, score, runs = part.target, part.score, len(np.unique(rows.run))
        said = f"{len(target)} validation {measured}s of {runs} runs, averaged over the runs that held each out"
    cut = None
    if kind == "Survival" and len(rows):
        cut = {"value": float(median_risk(score[:, 0])), "from": f"median risk of {said}"}
    return {
        "threshold": _thresholds(kind, target, score, said),
        "temperature": _temperatures(kind, names, bags, aggregate, measured, said),
        "risk_cut": cut,
    }


def _columns(kind: str, target: np.ndarray, score: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(truth, probability) of each label that has a cut of its own."""
    if kind == "Binary":
        return [(target[:, 0], score[:, -1])]
    return [(target[:, i], score[:, i]) for i in range(score.shape[1])] if kind == "MultiLabel" else []


def _thresholds(kind: str, target: np.ndarray, score: np.ndarray, said: str) -> dict[str, Any]:
    found, undefined = [], []
    columns = _columns(kind, target, score)
    for y, p in columns:
        value = youden_threshold(y, p) if len(y) else float("nan")
        if np.isnan(value):
            undefined.append(why(value) or said)
        found.append(HALF if np.isnan(value) else float(value))
    if not columns:
        return {"value": [], "from": "a class is the most probable one" if kind == "MultiClass" else "none"}
    if len(undefined) == len(found):
        return {"value": found, "from": f"0.5, for {undefined[0]}"}
    note = f" (0.5 for {len(undefined)} labels: {undefined[0]})" if undefined else ""
    return {"value": found, "from": f"Youden's J on {said}{note}"}


def _temperatures(
    kind: str, names: tuple[str, ...], bags: Predictions, aggregate: Aggregate, measured: Measured, said: str
) -> dict[str, Any]:
    """Bags are scaled and then made into patients, as they are when the model is used."""
    if kind not in ("Binary", "MultiClass", "MultiLabel"):
        return {"value": [], "from": "none"}
    who = np.unique(bags.bag if measured == "slide" else bags.patient, return_inverse=True)[1]
    logits, y = logits_of(kind, bags.score), bags.target.astype(np.int64)
    if kind == "MultiClass":
        fitted = [fit_temperature(logits, y[:, 0], who, aggregate)]
    else:
        fitted = [fit_temperature(logits[:, i], y[:, i], who, aggregate) for i in range(logits.shape[1])]
    notes = [why(t) or getattr(t, "note", "") for t in fitted]
    values = [1.0 if np.isnan(t) else float(t) for t in fitted]
    owner = [f"{name}: " for name in names] if kind == "MultiLabel" else [""]
    told = [who_ + note for who_, note in zip(owner, notes, strict=True) if note]
    if all(np.isnan(fitted)):
        return {"value": values, "from": f"1, for {notes[0] if len(bags) else said}"}
    return {"value": values, "from": f"least log loss on {said}" + (f" ({'; '.join(told)})" if told else "")}


def logits_of(kind: str, score: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "n k"]:
    """Logits of mean probabilities, one column for a binary task; values and risks stand for themselves."""
    if kind == "MultiClass":
        return np.log(np.clip(score, SMALLEST, 1.0))
    return {"Binary": lambda: log_odds(score[:, 1:]), "MultiLabel": lambda: log_odds(score)}.get(kind, lambda: score)()


def log_odds(p: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """log(p / (1 - p)), finite also where rounding made p 0 or 1."""
    kept = np.clip(p, SMALLEST, 1.0 - SMALLEST)
    return np.log(kept) - np.log1p(-kept)


def calibrated(
    kind: str, score: Float[np.ndarray, "n s"], temperature: Float[np.ndarray, "t"]
) -> Float[np.ndarray, "n s"]:
    """Probabilities after division of their logits by the temperature; other tasks' scores as they are.

    Args:
        kind: class name of the task.
        score: probabilities (binary: both classes), values or the risk.
        temperature: one number, or one a label; empty for tasks without probabilities.
    """
    if kind == "MultiClass":
        scaled = logits_of(kind, score) / temperature
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)
    if kind == "Binary":
        positive = _sigmoid(logits_of(kind, score) / temperature)
        return np.concatenate([1.0 - positive, positive], 1)
    return _sigmoid(log_odds(score) / temperature) if kind == "MultiLabel" else score


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
