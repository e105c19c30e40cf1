"""Predictions of a program's runs as rows of `predictions.csv`, with each run's own threshold from validation."""

from dataclasses import dataclass

import numpy as np

from milkit.execute.maps import map_files
from milkit.execute.prepare import Prepared, Run
from milkit.losses import unscale
from milkit.metrics.pooling import pool
from milkit.metrics.risk_groups import median_risk
from milkit.metrics.thresholds import youden_thresholds
from milkit.predictions import Predictions, concat
from milkit.task import Binary, MultiLabel, Regression, Survival, probabilities

Seen = list[tuple[int, np.ndarray, np.ndarray | None]]
"""(row of the study, logits, attention or None) of every bag of a part."""


@dataclass
class RunPrediction:
    """What one selection of one run predicted.

    Attributes:
        run: which.
        epoch: whose parameters, counted from 1.
        roles: the bags of each role.
    """

    run: Run
    epoch: int
    roles: dict[str, Seen]


def program_predictions(prepared: Prepared, seen: dict[str, list[RunPrediction]]) -> Predictions:
    """All rows of a program, by selection, run and role."""
    parts = [
        _rows(prepared, selection, predicted, role)
        for selection, runs in seen.items()
        for predicted in runs
        for role in predicted.roles
        if predicted.roles[role] and (role != "train" or prepared.experiment.predict_train)
    ]
    return concat(parts)


def threshold(prepared: Prepared, predicted: RunPrediction) -> np.ndarray:
    """Cut on a patient's probability by Youden's J on the validation part, one a label; NaN where there is none.

    Survival: the median risk of the validation patients, or of the training patients of a run that has no validation
    part (`milkit.execute.survival` records which it was).
    """
    task, bags = prepared.experiment.task, predicted.roles.get("validation", [])
    if isinstance(task, Survival):
        return _risk_cutoff(prepared, bags or predicted.roles.get("train", []))
    if not isinstance(task, Binary | MultiLabel):
        return np.full(1, np.nan)
    labels = prepared.out_features
    if not bags:
        return np.full(labels, np.nan)
    rows = [row for row, _, _ in bags]
    score = probabilities(task, np.stack([logits for _, logits, _ in bags]))
    target = prepared.study.targets.values[rows].reshape(len(bags), -1)
    # thresholds are applied to patients' scores, so they are chosen on patients' scores
    # (of slides', where labels belong to slides)
    who = prepared.study.bag if prepared.measured == "slide" else prepared.study.patient
    patients, first, member = np.unique(who[rows], return_index=True, return_inverse=True)
    highest = np.max if prepared.experiment.aggregate == "max" else np.mean
    pooled = np.stack([highest(score[member == i], axis=0) for i in range(len(patients))])
    return youden_thresholds(target[first], pooled)


def _risk_cutoff(prepared: Prepared, bags: Seen) -> np.ndarray:
    if not bags:
        return np.full(1, np.nan)
    risk = probabilities(prepared.experiment.task, np.stack([logits for _, logits, _ in bags]))
    patients, member = np.unique(prepared.study.patient[[row for row, _, _ in bags]], return_inverse=True)
    pooled = pool("Survival", risk, member, len(patients), prepared.experiment.aggregate)
    return np.array([median_risk(pooled[:, 0])])


def _rows(prepared: Prepared, selection: str, predicted: RunPrediction, role: str) -> Predictions:
    experiment, study, run = prepared.experiment, prepared.study, predicted.run
    bags = predicted.roles[role]
    rows = np.array([row for row, _, _ in bags])
    logits = np.stack([out for _, out, _ in bags])
    task = experiment.task
    values = unscale(logits, prepared.loss[run.split]) if isinstance(task, Regression) else None
    return Predictions.of(
        task,
        study.targets.names,
        logits,
        study.targets.values[rows],
        experiment=experiment.name,
        run=run.name,
        repeat=run.repeat,
        fold=run.fold,
        seed=run.seed,
        selection=selection,
        role=role,
        bag=study.bag[rows],
        slide=[";".join(study.slides[r]) for r in rows],
        patient=study.patient[rows],
        site=study.site[rows],
        cohort=study.cohort[rows],
        values=values,
        selected_epoch=predicted.epoch,
        threshold=threshold(prepared, predicted),
        map=None if study.sizes is None else map_files(run.program, run.name, selection, role, bags),
    )
