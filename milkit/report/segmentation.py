"""How well the maps of a study of images show where: its test images against their masks, with both intervals.

Masks are opened here and nowhere before: training and prediction have seen images and their labels only.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from milkit.config import from_json
from milkit.data.images import ImageCohort, ImageCrops, KnownImages
from milkit.data.images.opened import OpenImages
from milkit.errors import MilkitError
from milkit.metrics.segmentation import image_statistics, segmentation_estimates, stack, summarise
from milkit.metrics.segmentation.study import SegmentationEstimate, SegmentationRun
from milkit.predictions import Predictions
from milkit.report.image_maps import ImageMap, maps_of_tested

DATA = {cls.__name__: cls for cls in (ImageCohort, ImageCrops, KnownImages)}
THRESHOLD = 0.5
"""A pixel is called foreground from here on; no mask was looked at to choose it."""


def segmentation(
    folder: Path,
    config: Mapping[str, Any],
    predictions: Predictions,
    selection: str,
    columns: Mapping[str, Mapping[str, str]],
    n_train: Mapping[tuple[int, int], float] | None,
    draws: int,
) -> dict[str, Any]:
    """Segmentation metrics of a study's test images; {} where bags are no images or no masks are named.

    Args:
        folder: the run folder.
        config: its `config.json`.
        predictions: all rows.
        selection: whose maps are measured.
        columns: `columns.csv`: column -> bag -> cell.
        n_train: training patients (or images) of each (repeat, fold).
        draws: of the bootstrap.

    Returns:
        `metrics` as elsewhere in `results.json`, `images` (each one's values, the mean over seeds), and what was
        measured; or `reason`, where masks cannot be used.
    """
    stated = config.get("experiment", {}).get("data", {})
    rows = predictions.take((predictions.selection == selection) & (predictions.role == "test"))
    if rows.map is None or not len(rows) or stated.get("type") not in DATA:
        return {}
    try:
        runs, images = _runs(folder, stated, rows, columns, n_train)
        if not runs:
            return {}
        found = segmentation_estimates(runs, draws=draws)
    except MilkitError as error:
        return {"reason": str(error)}
    return {
        "selection": selection,
        "threshold": THRESHOLD,
        "metrics": {name: _json(estimate) for name, estimate in found.items()},
        "images": images,
    }


def _runs(
    folder: Path,
    stated: Mapping[str, Any],
    rows: Predictions,
    columns: Mapping[str, Mapping[str, str]],
    n_train: Mapping[tuple[int, int], float] | None,
) -> tuple[list[SegmentationRun], list[dict[str, Any]]]:
    patients = {name: i for i, name in enumerate(np.unique(rows.patient).tolist())}
    splits = sorted(set(zip(rows.repeat.tolist(), rows.fold.tolist(), strict=True)))
    runs: list[SegmentationRun] = []
    each: dict[tuple[str, tuple[int, int]], list[dict[str, float]]] = {}
    opened = images_of(stated)
    truths: dict[str, np.ndarray] = {}  # seeds and repeats test the same images
    for run in dict.fromkeys(rows.run.tolist()):
        own = rows.take(rows.run == run)
        where = (int(own.repeat[0]), int(own.fold[0]))
        seen = [m for m in maps_of_tested(folder, own, columns) if m.image in opened.masks]
        if not seen:
            return [], []
        for m in seen:
            if m.image not in truths:
                truths[m.image] = truth_of(opened, m)
        parts = [image_statistics(m.map, truths[m.image]) for m in seen]
        for m, part in zip(seen, parts, strict=True):
            values = {k: float(v) for k, v in summarise(part).items()}
            each.setdefault((m.image, where), []).append({"dice": values["dice"], "iou": values["iou"]})
        numbers = np.array([patients[m.patient] for m in seen], np.int64)
        known = (n_train or {}).get(where, 0)
        runs.append(SegmentationRun(stack(parts), numbers, splits.index(where), round(known)))
    images = [
        {"image": image, "repeat": where[0], "fold": where[1]}
        | {name: _finite(np.mean([v[name] for v in values])) for name in ("dice", "iou")}
        for (image, where), values in each.items()
    ]
    return runs, images


def images_of(stated: Mapping[str, Any]) -> OpenImages:
    """The images of a study's data, by its configuration; of crops the images they are from. Nothing is decoded.

    Raises:
        MilkitError: the table or a folder is not where it was.
    """
    data: Any = from_json(dict(stated), DATA, "config.json, data")
    opened: OpenImages = (data.images if isinstance(data, ImageCrops) else data).open()
    return opened


def truth_of(opened: OpenImages, one: ImageMap) -> UInt8[np.ndarray, "h w"]:
    """The mask of an image: 1 on foreground, 0 elsewhere, as large as its map.

    Raises:
        DataError: it cannot be read, or has another size.
    """
    return opened.masks_for([one.image], np.array([one.map.shape], np.int64)).truth(0).astype(np.uint8)


def _json(estimate: SegmentationEstimate) -> dict[str, Any]:
    said = asdict(estimate)
    for name in ("sampling", "procedure"):
        bounds = getattr(estimate, name)
        said[name] = None if bounds is None else [_finite(b) for b in bounds]
    return said | {"value": _finite(estimate.value)}


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
