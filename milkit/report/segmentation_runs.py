"""A study's test images scored against masks (or points), at one half and at the cut that validation labels choose.

Masks are opened here and nowhere before, but for what a study itself says (crop-label or pixel supervision); the cut
knows labels of validation images only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from milkit.config import from_json
from milkit.data.images import ImageCohort, ImageCrops, KnownImages
from milkit.data.images.opened import OpenImages
from milkit.data.images.points import points_of
from milkit.metrics.segmentation import confusions, from_confusion, image_statistics, point_statistics, stack, summarise
from milkit.metrics.segmentation.curves import BINS
from milkit.metrics.segmentation.label_threshold import (
    ANY_SHARE,
    DEFAULT,
    LabelThreshold,
    level_counts,
    threshold_of_counts,
)
from milkit.metrics.segmentation.points import summarise_points
from milkit.metrics.segmentation.statistics import ImageStatistics
from milkit.metrics.segmentation.study import SegmentationRun, Summary
from milkit.predictions import Predictions
from milkit.report.image_maps import ImageMap, map_of, maps_of_tested

DATA = {cls.__name__: cls for cls in (ImageCohort, ImageCrops, KnownImages)}
CROP_LABELS = ("foreground", "background")
"""Labels of crops that say whether a class covers more than `min_share`."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The test images of all runs of a study.

    Attributes:
        half: runs with pixels called foreground from .5 on.
        chosen: the same, from each run's own cut on; its statistics lack what does not depend on a cut.
        everything: one run a split, every pixel called foreground.
        cuts: of each run, by its name.
        share: what the cut's rule takes as having foreground.
        images: values of each image and split at .5, the mean over seeds.
        without: test images without a truth.
        summary: how statistics become metrics.
        points: truth are points, not masks.
    """

    half: list[SegmentationRun]
    chosen: list[SegmentationRun]
    everything: list[SegmentationRun]
    cuts: Mapping[str, LabelThreshold]
    share: float
    images: list[dict[str, Any]]
    without: tuple[str, ...]
    summary: Summary
    points: bool


class _Masks:
    """Test images against their masks; a mask is read once for all runs."""

    summary = staticmethod(summarise)
    shown = ("dice", "iou")

    def __init__(self, opened: OpenImages) -> None:
        self.opened = opened
        self._read: dict[str, np.ndarray] = {}

    @property
    def any(self) -> bool:
        return bool(self.opened.masks)

    def has(self, image: str) -> bool:
        return image in self.opened.masks

    def scored(self, one: ImageMap) -> ImageStatistics:
        return image_statistics(one.map, self._truth(one), None)

    def at(self, one: ImageMap, threshold: float) -> ImageStatistics:
        return from_confusion(confusions(one.map, self._truth(one), threshold=threshold))

    def _truth(self, one: ImageMap) -> np.ndarray:
        if one.image not in self._read:
            self._read[one.image] = truth_of(self.opened, one)
        return self._read[one.image]


class _Points:
    """Test images against points."""

    summary = staticmethod(summarise_points)
    shown = ("f1", "auroc")
    any = True

    def __init__(self, data: KnownImages) -> None:
        self._points = points_of(data.name, downsample=data.downsample)

    def has(self, image: str) -> bool:
        return image in self._points

    def scored(self, one: ImageMap) -> ImageStatistics:
        return self.at(one, DEFAULT)

    def at(self, one: ImageMap, threshold: float) -> ImageStatistics:
        points = self._points[one.image]
        return point_statistics(one.map, points.xy, points.positive, threshold=threshold)


def scored(
    folder: Path,
    stated: Mapping[str, Any],
    predictions: Predictions,
    selection: str,
    columns: Mapping[str, Mapping[str, str]],
    n_train: Mapping[tuple[int, int], float] | None,
    task: Mapping[str, Any],
) -> Scored | None:
    """Read a study's maps and truths; None where bags are no images, or no test image has a truth.

    Args:
        folder: the run folder.
        stated: data of its `config.json`.
        predictions: all rows.
        selection: whose maps are read.
        columns: `columns.csv`: column -> bag -> cell.
        n_train: training patients (or images) of each (repeat, fold).
        task: of its `config.json`.

    Raises:
        MilkitError: maps, masks or points that cannot be read.
    """
    own = predictions.take(predictions.selection == selection)
    tested = own.take(own.role == "test")
    if tested.map is None or not len(tested) or stated.get("type") not in DATA:
        return None
    data = data_of(stated)
    truth: _Masks | _Points = _Points(data) if _has_points(data) else _Masks(opened_of(data))
    if not truth.any:
        return None
    patients = {name: i for i, name in enumerate(np.unique(tested.patient).tolist())}
    splits = sorted(set(zip(tested.repeat.tolist(), tested.fold.tolist(), strict=True)))
    share = share_of(stated, task)
    half: list[SegmentationRun] = []
    chosen: list[SegmentationRun] = []
    everything: dict[tuple[int, int], SegmentationRun] = {}
    cuts: dict[str, LabelThreshold] = {}
    each: dict[tuple[str, tuple[int, int]], list[dict[str, float]]] = {}
    without: dict[str, None] = {}
    for run in dict.fromkeys(tested.run.tolist()):
        rows = tested.take(tested.run == run)
        where = (int(rows.repeat[0]), int(rows.fold[0]))
        cut = cut_of(folder, own.take((own.run == run) & (own.role == "validation")), share)
        parts: list[tuple[ImageStatistics, ...]] = []
        numbers = []
        for one in maps_of_tested(folder, rows, columns):
            if not truth.has(one.image):
                without[one.image] = None
                continue
            ones = ImageMap(one.image, one.patient, np.ones(one.map.shape), 1.0)
            parts.append((truth.scored(one), truth.at(one, cut.threshold), truth.at(ones, DEFAULT)))
            numbers.append(patients[one.patient])
            values = truth.summary(parts[-1][0], None)
            each.setdefault((one.image, where), []).append({k: float(np.asarray(values[k])) for k in truth.shown})
        if not parts:
            continue
        cuts[run] = cut
        about = (np.array(numbers, np.int64), splits.index(where), round((n_train or {}).get(where, 0)))
        at_half, at_cut, ones_ = (SegmentationRun(stack(column), *about) for column in zip(*parts, strict=True))
        half.append(at_half)
        chosen.append(at_cut)
        everything.setdefault(where, ones_)
    if not half:
        return None
    images = [
        {"image": image, "repeat": where[0], "fold": where[1]}
        | {name: _finite(np.mean([v[name] for v in values])) for name in truth.shown}
        for (image, where), values in each.items()
    ]
    return Scored(
        half, chosen, list(everything.values()), cuts, share, images, tuple(without), truth.summary,
        isinstance(truth, _Points),
    )  # fmt: skip


def cut_of(folder: Path, rows: Predictions, share: float) -> LabelThreshold:
    """The cut that labels of one run's validation images choose; .5 where they cannot.

    Args:
        folder: the run folder.
        rows: of the run's validation part.
        share: see `share_of`.
    """
    assert rows.map is not None
    rows = rows.take((rows.map != "") & (rows.kind in ("Binary", "MultiLabel")))  # other targets are no labels of it
    counts = [level_counts(map_of(folder, rows, i), i) for i in range(len(rows))]
    fore, back = rows.target[:, -1], None
    if rows.kind == "MultiLabel" and "foreground" in rows.names:
        fore = rows.target[:, rows.names.index("foreground")]
        back = rows.target[:, rows.names.index("background")] if "background" in rows.names else None
    return threshold_of_counts(np.array(counts, np.int64).reshape(-1, BINS), fore, back, share=share)


def share_of(stated: Mapping[str, Any], task: Mapping[str, Any]) -> float:
    """An image has a class from this share of its pixels on: what crops were labelled with, where they were."""
    labels = [task.get("label"), *task.get("labels", ())]
    by_share = stated.get("type") == "ImageCrops" and any(name in CROP_LABELS for name in labels)
    return float(stated["min_share"]) if by_share else ANY_SHARE


def data_of(stated: Mapping[str, Any]) -> Any:
    """The data of a study by its configuration."""
    return from_json(dict(stated), DATA, "config.json, data")


def opened_of(data: Any) -> OpenImages:
    """The images of a study's data; of crops the images they are from. Nothing is decoded.

    Raises:
        MilkitError: the table or a folder is not where it was.
    """
    opened: OpenImages = (data.images if isinstance(data, ImageCrops) else data).open()
    return opened


def truth_of(opened: OpenImages, one: ImageMap) -> UInt8[np.ndarray, "h w"]:
    """The mask of an image: 1 on foreground, 0 elsewhere, as large as its map.

    Raises:
        DataError: it cannot be read, or has another size.
    """
    return opened.masks_for([one.image], np.array([one.map.shape], np.int64)).truth(0).astype(np.uint8)


def _has_points(data: Any) -> bool:
    return isinstance(data, KnownImages) and data.name == "colon"


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
