"""How well the maps of a study of images show where: `segmentation` of `results.json`, all with both intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import MilkitError
from milkit.metrics.segmentation import segmentation_estimates
from milkit.metrics.segmentation.label_threshold import DEFAULT
from milkit.metrics.segmentation.study import SegmentationEstimate, SegmentationRun
from milkit.predictions import Predictions
from milkit.report.segmentation_runs import Scored, scored

THRESHOLD = DEFAULT
"""A pixel is called foreground from here on; no mask was looked at to choose it."""

PATIENT_LEAKY = "patient-leaky"
MASK_SELECTED = "mask-selected"
PIXELS = "pixel supervision"
CROPS = "crop-label supervision"
IMAGES = "image labels"
_LEAKS = ("patients in two roles", "slides in two roles", "each slide counted as a patient", PATIENT_LEAKY)


def segmentation(
    folder: Path,
    config: Mapping[str, Any],
    predictions: Predictions,
    selection: str,
    columns: Mapping[str, Mapping[str, str]],
    n_train: Mapping[tuple[int, int], float] | None,
    draws: int,
    flow: Mapping[str, Any] | None = None,
    marks: Sequence[str] = (),
) -> dict[str, Any]:
    """Segmentation metrics of a study's test images; {} where bags are no images or nothing says where foreground is.

    Args:
        folder: the run folder.
        config: its `config.json`.
        predictions: all rows.
        selection: whose maps are measured.
        columns: `columns.csv`: column -> bag -> cell.
        n_train: training patients (or images) of each (repeat, fold).
        draws: of the bootstrap.
        flow: of `cohort.json`.
        marks: of the study.

    Returns:
        `metrics` at .5 as elsewhere in `results.json`, `label_threshold` with the same at the cut that validation
        labels chose, `everything_foreground`, `images` (each one's values, the mean over seeds), and what was
        measured; or `reason`, where truths cannot be used.
    """
    experiment = config.get("experiment", {})
    stated = experiment.get("data", {})
    try:
        found = scored(folder, stated, predictions, selection, columns, n_train, experiment.get("task", {}))
        if found is None:
            return {}
        metrics = _estimates(found, found.half, draws)
        chosen = _estimates(found, found.chosen, draws)
        everything = _estimates(found, found.everything, draws)
    except MilkitError as error:
        return {"reason": str(error)}
    supervision = _supervision(stated, columns, predictions, flow or {})
    return {
        "selection": selection,
        "threshold": THRESHOLD,
        "metrics": metrics,
        "images": found.images,
        "truth": "points" if found.points else "masks",
        "test_images_without_truth": len(found.without),
        "label_threshold": _cuts(found) | {"metrics": chosen},
        "everything_foreground": {"metrics": everything},
        "supervision": supervision,
        "marks": _marks(supervision["kind"], selection, experiment, (*marks, *(flow or {}).get("notes", ()))),
    }


def _estimates(found: Scored, runs: Sequence[SegmentationRun], draws: int) -> dict[str, Any]:
    return {k: _json(v) for k, v in segmentation_estimates(runs, draws=draws, summary=found.summary).items()}


def _cuts(found: Scored) -> dict[str, Any]:
    """The cuts of the runs: how they were found, mean and range."""
    cuts = [cut.threshold for cut in found.cuts.values()]
    runs = [
        {"run": run} | {k: _finite(v) if isinstance(v, float) else v for k, v in asdict(cut).items()}
        for run, cut in found.cuts.items()
    ]
    return {
        "share": found.share,
        "mean": float(np.mean(cuts)),
        "lowest": min(cuts),
        "highest": max(cuts),
        "undecided": sum(bool(cut.note) for cut in found.cuts.values()),
        "runs": runs,
    }


def _supervision(
    stated: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, str]],
    predictions: Predictions,
    flow: Mapping[str, Any],
) -> dict[str, Any]:
    """What was learnt from: labels of images, of crops (and how many an image), or masks."""
    notes = [str(note) for note in flow.get("notes", ())]
    said = next((n for kind in (PIXELS, CROPS) for n in notes if n.startswith(kind)), "")
    labels = len(predictions.names) if predictions.kind == "MultiLabel" else 1
    if said.startswith(PIXELS) or stated.get("pixel_masks"):
        return {"kind": PIXELS, "labels_per_image": None, "said": said}
    if stated.get("type") != "ImageCrops" or "image" not in columns:
        return {"kind": IMAGES, "labels_per_image": labels, "said": said}
    tested = set(predictions.bag[predictions.role == "test"].tolist())
    of = [image for bag, image in columns["image"].items() if bag not in tested]
    each = labels * len(of) / len(set(of)) if of else None
    return {"kind": CROPS, "labels_per_image": each, "said": said}


def _marks(kind: str, selection: str, experiment: Mapping[str, Any], said: Sequence[Any]) -> list[str]:
    """What every number of the section must be read with."""
    leaky = any(str(text).startswith(_LEAKS) for text in said)
    pixels = kind == PIXELS
    by_masks = pixels and selection == "validation" and experiment.get("train", {}).get("select") == "loss"
    return [PIXELS] * pixels + [MASK_SELECTED] * by_masks + [PATIENT_LEAKY] * leaky


def _json(estimate: SegmentationEstimate) -> dict[str, Any]:
    said = asdict(estimate)
    for name in ("sampling", "procedure"):
        bounds = getattr(estimate, name)
        said[name] = None if bounds is None else [_finite(b) for b in bounds]
    return said | {"value": _finite(estimate.value)}


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
