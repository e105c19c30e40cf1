"""A locked model on another cohort: its answers, and every number that a paper needs of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from milkit.data.study import Study
from milkit.keep.decide import logits_of
from milkit.keep.folder import Kept
from milkit.keep.ids import refuse_overlap, refuse_same_features
from milkit.keep.speak import speak
from milkit.metrics import Metric, TestPart
from milkit.metrics.delong import placements
from milkit.metrics.draws import Value, Weight
from milkit.metrics.intervals import DRAWS, SEED
from milkit.metrics.recalibration import (
    calibration_in_the_large,
    calibration_intercept,
    calibration_slope,
    observed_to_expected,
)
from milkit.predictions import Predictions
from milkit.report.entry import entry
from milkit.report.estimate import Aggregate, Measured, estimates, tested
from milkit.report.results import SLIDES_ARE_PATIENTS, compute_results
from milkit.report.validation import CALIBRATED, scale
from milkit.types import Bag

LOCKED, MODEL = "locked", "model"
NO_PROCEDURE = "a locked model has none: it was made once and is not trained again"
Z = 1.959963984540054


def predictions_of(kept: Kept, study: Study, tell: Callable[[int, int], None] | None = None) -> Predictions:
    """A model's answers for a cohort as rows of `predictions.csv`; patients of its training are refused first.

    Args:
        kept: the model.
        study: the cohort.
        tell: (bags done, bags in all), called after each.

    Returns:
        One row a bag: the mean over members, its logits those of the mean.

    Raises:
        ProtocolError: patients, slides or features that were in training.
        NonFiniteError: an answer is not finite.
    """
    seen = kept.facts["training"]["seen"]
    refuse_overlap(study, seen)
    check = refuse_same_features(study, seen)

    def read(row: int) -> Bag:
        bag = study.read(row)
        check(row, bag)
        return bag

    said = speak(kept, study.lengths, read, tell, covariates=study.covariates)
    n = len(study)

    def text(values: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.str_), (n,)).copy()

    zero = np.zeros(n, np.int64)
    cut = kept.facts["risk_cut"]
    threshold = kept.threshold if len(kept.threshold) else np.array([cut["value"] if cut else np.nan])
    return Predictions(
        kind=kept.kind,  # type: ignore[arg-type]
        names=kept.names,
        experiment=text(kept.facts["name"] or MODEL),
        run=text(MODEL),
        repeat=zero,
        fold=zero,
        seed=zero,
        selection=text(LOCKED),
        role=text("test"),
        bag=text(study.bag),
        slide=text([";".join(slides) for slides in study.slides]),
        patient=text(study.patient),
        site=text(study.site),
        cohort=text(study.cohort),
        target=np.asarray(study.targets.values, np.float64).reshape(n, -1),
        logits=logits_of(kept.kind, said.score),
        score=said.score,
        selected_epoch=zero - 1,
        threshold=np.tile(threshold, (n, 1)),
    )


def measure(
    kept: Kept,
    study: Study,
    rows: Predictions,
    marks: Sequence[str],
    groups: Sequence[str] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """`results.json` of an external cohort, in the format of a run folder's.

    Args:
        kept: the model.
        study: the cohort.
        rows: from `predictions_of`.
        marks: what every number must be read with.
        groups: columns of the sub-group table, beside site and cohort; None takes those with 2 to 8 levels.
        draws: bootstrap draws.

    Raises:
        RunFolderError: a column that is not there, or a patient with two truths.
    """
    aggregate, measured = kept.facts["aggregate"], kept.facts["measured"]
    alone = any(note.startswith("no patient column") for note in study.flow.notes)
    own_marks = [*kept.facts["marks"], *marks]
    own_marks = list(dict.fromkeys([*own_marks, *([SLIDES_ARE_PATIENTS] if alone else [])]))
    bags = study.bag.tolist()
    columns = {name: dict(zip(bags, cells.tolist(), strict=True)) for name, cells in study.columns.items()}
    asked = None
    if groups is not None:
        here = [n for n in ("site", "cohort") if any(getattr(study, n).tolist())]
        asked = list(dict.fromkeys([*here, *groups]))
    results = compute_results(
        rows,
        unit=kept.facts["unit"],
        aggregate=aggregate,
        measured=measured,
        marks=own_marks,
        columns=columns,
        groups=asked,
        temperatures={MODEL: kept.temperature.tolist()} if kept.kind in CALIBRATED else None,
        draws=draws,
    )
    if kept.kind == "Binary":
        _recalibration(results, rows, kept, aggregate, measured, own_marks, draws)
        _delong(results, rows, aggregate, measured)
    _no_procedure(results)
    results["threshold"] = kept.facts["threshold"]["from"] if len(kept.threshold) else None
    if kept.kind == "Survival" and kept.facts["risk_cut"] and "survival" in results:
        results["survival"]["cutoff"]["rule"] = kept.facts["risk_cut"]["from"]
    results["locked"] = {
        "model": kept.facts["name"],
        "digest": kept.facts["digest"],
        "how": kept.facts["how"],
        "members": len(kept.members),
        **{k: kept.facts[k] for k in ("threshold", "temperature", "risk_cut")},
    }
    results["against_study"] = against_study(results["metrics"], kept.facts["expected"]["metrics"])
    results["left_out"] = study.flow.reasons
    return results


def _recalibration(
    results: dict[str, Any], rows: Predictions, kept: Kept, aggregate: Aggregate, measured: Measured,
    marks: list[str], draws: int,
) -> None:  # fmt: skip
    """Add slope, intercepts and observed to expected, of raw and of scaled probabilities."""

    def of(function: Callable[..., Value]) -> Callable[[TestPart, Weight], Value]:
        return lambda part, weight: function(part.y, part.score[:, 1], weight)

    free, above = (-math.inf, math.inf), (0.0, math.inf)
    metrics = (
        Metric("slope", of(calibration_slope), bounds=free),
        Metric("intercept", of(calibration_intercept), bounds=free),
        Metric("in_the_large", of(calibration_in_the_large), bounds=free),
        Metric("observed_to_expected", of(observed_to_expected), bounds=above),
    )
    block: dict[str, Any] = {}
    for name, part in (("raw", rows), ("scaled", scale(rows, {MODEL: kept.temperature.tolist()}))):
        study = tested(part, aggregate, "patient", measured)
        found = estimates(study, metrics, draws, SEED)
        block[name] = {m.name: entry(m, e, study, {}, marks) for m, e in zip(metrics, found, strict=True)}
    results["recalibration"] = block


def _delong(results: dict[str, Any], rows: Predictions, aggregate: Aggregate, measured: Measured) -> None:
    """DeLong's interval beside the bootstrap's: it is made for one locked model on one set of patients."""
    part = tested(rows, aggregate, "patient", measured).runs[0].part
    y, metric = part.y, results["metrics"]["auroc"]
    metric["delong"] = None
    if measured == "patient" and min((y == 1).sum(), (y == 0).sum()) > 1:
        found = placements(y, part.score[:, 1])
        variance = found.positive.var(ddof=1) / len(found.positive) + found.negative.var(ddof=1) / len(found.negative)
        half = Z * math.sqrt(variance)
        metric["delong"] = [max(0.0, metric["value"] - half), min(1.0, metric["value"] + half)]


def _no_procedure(part: Any) -> None:
    """A locked model was made once: there is no interval over splits and seeds, wherever one could stand."""
    if isinstance(part, list):
        for item in part:
            _no_procedure(item)
    if isinstance(part, dict):
        if "procedure_note" in part:
            part |= {"procedure": None, "procedure_note": NO_PROCEDURE}
        for item in part.values():
            _no_procedure(item)


def against_study(here: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Each metric beside its cross-validated value in the study that the model comes from, and the difference.

    The interval is MOVER's, from both sampling intervals: patients here and there are other people, so the squared
    distances of value and bound add up. It knows of patients only; how the study's value would move with other splits
    is not in it.

    Returns:
        Metric -> `study` and `here` (value, sampling), `difference` (here minus study), `low`, `high`.

    References:
        Zou & Donner (2008), Construction of confidence limits about effect measures: a general approach.
    """
    found = {}
    for name in here:
        if name not in before:
            continue
        a, b = here[name], before[name]
        row: dict[str, Any] = {
            "study": {k: b.get(k) for k in ("value", "sampling")},
            "here": {k: a.get(k) for k in ("value", "sampling")},
            "difference": None,
            "low": None,
            "high": None,
        }
        if a.get("value") is not None and b.get("value") is not None:
            row["difference"] = a["value"] - b["value"]
            row |= _mover(a, b, row["difference"])
        found[name] = row
    return found


def _mover(a: Mapping[str, Any], b: Mapping[str, Any], difference: float) -> dict[str, float]:
    if not a.get("sampling") or not b.get("sampling"):
        return {}
    (a_low, a_high), (b_low, b_high) = a["sampling"], b["sampling"]
    down = math.hypot(a["value"] - a_low, b_high - b["value"])
    up = math.hypot(a_high - a["value"], b["value"] - b_low)
    return {"low": difference - down, "high": difference + up}
