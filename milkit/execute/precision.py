"""What computing in half precision moved: the same parameters, asked once more in float32."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from milkit.execute.prepare import Prepared, Run
from milkit.losses import unscale
from milkit.task import Regression, probabilities
from milkit.train.config import Precision
from milkit.train.engine import Engine, Group


def in_float32(engine: Engine) -> Engine:
    """The same engine, computing in float32."""
    exact = copy.copy(engine)
    exact.setup = engine.setup._replace(train=replace(engine.setup.train, precision="float32"))
    return exact


def mark_of(precision: Precision) -> list[str]:
    """What numbers that were computed in half precision must be read with."""
    return [] if precision == "float32" else [f"computed in {precision}"]


def moved_by_precision(
    prepared: Prepared, group: Group, fit: tuple[Any, ...], runs: tuple[Run, ...]
) -> list[dict[str, Any]]:
    """How far each run's predictions lie from those of float32, as columns of `runs.csv`; none in float32.

    Asked of the validation part, or of the training part where there is none; never of the test part.

    Args:
        prepared: the study.
        group, runs: of the program.
        fit: (parameters, buffers, ...) that the study reports on.

    Returns:
        One row a run: the part, how many bags, median and largest absolute difference of the scores (probability of
        each class, value, or risk), and the largest difference of a logit.
    """
    if prepared.experiment.train.precision == "float32":
        return [{} for _ in runs]
    validates = any(len(s.validation) for s in prepared.plan.splits)
    role = "validation" if validates else "train"
    splits = [prepared.split(r) for r in runs]
    padded = splits + [splits[0]] * (prepared.width - len(splits))
    part = prepared.engine.part([getattr(s, role) for s in padded], [getattr(s, role) for s in prepared.plan.splits])
    said = [
        engine.predict(group, fit[0], fit[1], part)[: len(runs)]
        for engine in (prepared.engine, in_float32(prepared.engine))
    ]
    return [{"precision_part": role, **_gap(prepared, run, *both)} for run, *both in zip(runs, *said, strict=True)]


def _gap(prepared: Prepared, run: Run, lower: list[Any], exact: list[Any]) -> dict[str, Any]:
    if not exact:
        return dict.fromkeys(("precision_bags", "precision_median", "precision_largest", "precision_logit"), "")
    logits = [np.stack([out for _, out, _ in bags]).astype(np.float64) for bags in (lower, exact)]
    gaps = np.abs(_scores(prepared, run, logits[0]) - _scores(prepared, run, logits[1]))
    return {
        "precision_bags": len(exact),
        "precision_median": float(np.median(gaps)),
        "precision_largest": float(gaps.max()),
        "precision_logit": float(np.abs(logits[0] - logits[1]).max()),
    }


def _scores(prepared: Prepared, run: Run, logits: Float[np.ndarray, "v c"]) -> Float[np.ndarray, "v _"]:
    task = prepared.experiment.task
    if isinstance(task, Regression):
        return unscale(logits, prepared.loss[run.split])
    return np.asarray(probabilities(task, logits), np.float64).reshape(len(logits), -1)
