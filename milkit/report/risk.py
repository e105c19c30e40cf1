"""Survival beyond the table of metrics: what the training parts say, and low against high risk on the test parts.

The cut-off of a run is the median risk of its validation patients (of its training patients where it has none),
locked before any test patient is seen. A patient's group is the majority of the runs of one repeat that tested it, a
tie counts as high. Groups are pooled over the folds of a repeat; each fold has its own models and cut-offs, so the
log-rank test compares patients within their fold only (stratified) and adds the sums up.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from milkit.errors import RunFolderError
from milkit.metrics import Aggregate, TrainingPart, compare_groups, logrank, survival_at_cuts
from milkit.metrics.risk_groups import logrank_entry, risk_groups
from milkit.predictions import Predictions
from milkit.report.estimate import RunPart, Tested

NO_CUTOFF = "predictions.csv holds no cut-off: the column threshold is empty in all rows of this selection"
POOLED_FOLDS = (
    "One log-rank p over the test parts of several folds is approximate: each fold's groups come of a model that was "
    "trained on patients of the other folds, so patients are not independent (Simon et al. 2011). In simulations "
    "without any signal about 1 in 10 such p came out below 0.05, not 1 in 20 (docs/survival.md)."
)


@dataclass(frozen=True, eq=False)
class Recorded:
    """What `survival.json` says of a run.

    Attributes:
        part: its training part.
        cutoff: the role whose median risk is the cut-off: "validation" or "train".
    """

    part: TrainingPart
    cutoff: str


def read_training(folder: Path) -> dict[str, Recorded]:
    """Training parts by run from `survival.json`; {} where the folder has none.

    Raises:
        RunFolderError: the file is damaged.
    """
    path = folder / "survival.json"
    if not path.is_file():
        return {}
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return {run: Recorded(TrainingPart.from_dict(s), s["cutoff"]) for s in splits for run in s["runs"]}
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} is not what milkit writes ({type(error).__name__}: {error}); was it cut short or edited? Take it "
            "away to have censoring estimated on the patients tested."
        ) from None


def of_all_runs(rows: Predictions, training: Mapping[str, Recorded] | None) -> dict[str, Recorded]:
    """What is on record if it is for every run of a survival study, else {}: runs must not be measured two ways."""
    known = dict(training or {}) if rows.kind == "Survival" else {}
    return known if set(rows.run.tolist()) <= known.keys() else {}


def predicts_curves(rows: Predictions, training: Mapping[str, Recorded]) -> bool:
    """Whether all runs predict survival at time cuts that are on record."""
    cuts = rows.logits.shape[1] - 1
    runs = set(rows.run.tolist())
    return cuts > 0 and all(run in training and len(training[run].part.cuts) == cuts for run in runs)


def with_training(study: Tested, rows: Predictions, training: Mapping[str, Recorded], aggregate: Aggregate) -> Tested:
    """The test parts with what their training parts say, and survival at the cuts where it is predicted.

    Args:
        study: test parts.
        rows: the rows they were made of.
        training: of every run.
        aggregate: how the curves of a patient's bags become one: their mean, or the lowest ("max": the highest risk).
    """
    curves = predicts_curves(rows, training)
    runs = []
    for run in study.runs:
        survival = _curves(rows.take(rows.run == run.name), study, run, aggregate) if curves else None
        part = replace(run.part, training=training[run.name].part, survival=survival)
        runs.append(replace(run, part=part))
    return replace(study, runs=tuple(runs))


def _curves(rows: Predictions, study: Tested, run: RunPart, aggregate: Aggregate) -> np.ndarray:
    """Survival at the cuts, a row a patient of the run in the order of its test part."""
    each = survival_at_cuts(rows.logits)
    ids = study.patients[run.patient]
    who = rows.patient if np.isin(rows.patient, ids).all() else rows.bag  # slides count where labels are theirs
    place = np.searchsorted(ids, who)
    if aggregate == "max":
        out = np.full((len(ids), each.shape[1]), np.inf)
        np.minimum.at(out, place, each)
        return out
    out = np.zeros((len(ids), each.shape[1]))
    np.add.at(out, place, each)
    return out / np.bincount(place, minlength=len(ids))[:, None]


def survival_summary(study: Tested, training: Mapping[str, Recorded]) -> dict[str, Any]:
    """`survival` of a selection in `results.json`.

    Returns:
        `groups`, `logrank`, `logrank_unstratified` (None with one fold), `hazard_ratio` and `curves` of the first
        repeat; `cutoff`; `repeats` with the test of each; `notes`. Without a cut-off, `groups` is None and the notes
        say why.
    """
    usable = [run for run in study.runs if _has_groups(run)]
    cutoff = _cutoff(usable, training, len(study.runs))
    if not usable:
        return {"groups": None, "cutoff": cutoff, "censoring": _censoring(study), "notes": [NO_CUTOFF]}
    repeats = sorted({run.repeat for run in usable})
    made = [_repeat([run for run in usable if run.repeat == repeat], study) for repeat in repeats]
    first = made[0]
    folds = first["folds"]
    notes = [POOLED_FOLDS] if folds > 1 else []
    if len(usable) < len(study.runs):
        gone = f"{len(study.runs) - len(usable)} of {len(study.runs)} runs"
        notes.append(f"{gone} have no cut-off or a risk that is not finite, and no say in the groups.")
    if first["ties"]:
        who = f"{first['ties']} patients" if first["ties"] > 1 else "1 patient"
        notes.append(f"As many runs call {who} low as high; a tie counts as high.")
    return {
        "repeat": repeats[0],
        **first,
        "cutoff": cutoff,
        "censoring": _censoring(study),
        "repeats": [
            {
                "repeat": repeat,
                "n": {name: group["n"] for name, group in one["groups"].items()},
                "chi2": one["logrank"]["chi2"],
                "p": one["logrank"]["p"],
                "hazard_ratio": one["hazard_ratio"]["value"],
            }
            for repeat, one in zip(repeats, made, strict=True)
        ],
        "notes": notes,
    }


def _has_groups(run: RunPart) -> bool:
    return bool(np.isfinite(run.part.threshold).all() and np.isfinite(run.part.score).all())


def _repeat(runs: list[RunPart], study: Tested) -> dict[str, Any]:
    """Groups of the patients that the runs of one repeat tested, and how they differ."""
    patient, high, fold, ties, changed = _majority(runs, len(study.patients))
    time, event = study.target[patient].T
    folds = len(np.unique(fold))
    found = compare_groups(time, event, high, fold if folds > 1 else None)
    plain = logrank_entry(logrank(time, event, high)) if folds > 1 else None
    found["logrank"] = {**found["logrank"], "stratified_by": "fold" if folds > 1 else None}
    return {**found, "logrank_unstratified": plain, "folds": folds, "ties": ties, "changed": changed}


def _majority(
    runs: list[RunPart], patients: int
) -> tuple[Int[np.ndarray, "n"], Bool[np.ndarray, "n"], Int[np.ndarray, "n"], int, float | None]:
    """Patients, whether most runs call them high, their fold, how many are tied, and what share is not unanimous."""
    votes, seen, fold = np.zeros(patients), np.zeros(patients), np.full(patients, -1)
    for run in runs:
        votes[run.patient] += risk_groups(run.part.score[:, 0], run.part.threshold)
        seen[run.patient] += 1
        fold[run.patient] = run.fold
    patient = np.flatnonzero(seen)
    votes, seen = votes[patient], seen[patient]
    split = (votes > 0) & (votes < seen)
    changed = float(split.mean()) if (seen > 1).any() else None
    return patient, 2 * votes >= seen, fold[patient], int((2 * votes == seen).sum()), changed


def _cutoff(runs: list[RunPart], training: Mapping[str, Recorded], total: int) -> dict[str, Any]:
    """Where the cut-offs come from and what they are; runs share no scale, so their range says little of the model."""
    roles = {training[run.name].cutoff for run in runs if run.name in training}
    part = {"validation": "validation", "train": "training"}
    where = " or ".join(f"the run's {part[role]} part" for role in sorted(roles, key=list(part).index))
    values = [float(run.part.threshold[0]) for run in runs]
    return {
        "rule": f"median risk of {where}" if where else "as written in predictions.csv (column threshold)",
        "high_risk": "risk >= cut-off",
        "runs": len(runs),
        "missing": total - len(runs),
        "range": [min(values), max(values)] if values else None,
    }


def _censoring(study: Tested) -> dict[str, Any]:
    """On whom G was estimated, and where the IPCW C-index ends."""
    ends = [run.part.training.follow_up for run in study.runs if run.part.training is not None]
    if len(ends) < len(study.runs):
        return {"estimated_on": "all patients tested", "tau": None}
    return {"estimated_on": "the training part of each run", "tau": [min(ends), max(ends)]}
