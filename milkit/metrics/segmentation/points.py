"""Maps scored at points of known kind, such as nuclei, where there are no masks.

Each point reads the map at its pixel (or the mean around it) and is then one observation: foreground or not, with a
probability. Pixels between points are not scored, so a map that is too wide costs nothing unless it reaches a point of
another kind, and Dice or IoU cannot be had from points.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped
from scipy.ndimage import uniform_filter

from milkit.errors import DataError
from milkit.metrics.draws import ONE_CLASS, Value, Weight, finish, ratio
from milkit.metrics.intervals import DRAWS, LEVEL, SEED
from milkit.metrics.segmentation import curves, pixels
from milkit.metrics.segmentation.masks import as_probability
from milkit.metrics.segmentation.statistics import NO_IMAGE, ImageStatistics, stack
from milkit.metrics.segmentation.study import SegmentationEstimate, SegmentationRun, segmentation_estimates
from milkit.metrics.segmentation.terms import mean_of, mean_terms, summed

ONE_CLASS_OF_POINTS = ONE_CLASS.replace("patients", "points")
NO_POINT = "no point is of the class, and none is called so"


def values_at(
    map_: Shaped[np.ndarray, "h w"], xy: Num[np.ndarray, "k 2"], radius: int = 0, index: int = 0
) -> Float[np.ndarray, "k"]:
    """What a map of probabilities says at some points.

    Args:
        map_: probability of foreground.
        xy: points (x, y) in pixels from the top left corner, x from 0 to the width; a point on the right or lower edge
            belongs to the last pixel.
        radius: px; the mean of the square of 2 radius + 1 pixels around the point, edges repeated; 0 for its pixel.
        index: of the image, for messages.

    Raises:
        DataError: a point outside the image, or a map of something else.
    """
    values = as_probability(map_, index).astype(np.float64)
    height, width = values.shape
    outside = (xy < 0).any(1) | (xy[:, 0] > width) | (xy[:, 1] > height) | ~np.isfinite(xy).all(1)
    if outside.any():
        x, y = xy[outside][0].tolist()
        raise DataError(f"Point ({x:g}, {y:g}) of image {index} is outside its map of {width} x {height} pixels.")
    if radius:
        values = np.clip(uniform_filter(values, 2 * radius + 1, mode="nearest"), 0.0, 1.0)
    column, row = np.minimum(xy.astype(np.int64), (width - 1, height - 1)).T
    return values[row, column]


def point_statistics(
    map_: Shaped[np.ndarray, "h w"],
    xy: Num[np.ndarray, "k 2"],
    positive: Bool[np.ndarray, "k"],
    *,
    threshold: float = 0.5,
    radius: int = 0,
    index: int = 0,
) -> ImageStatistics:
    """What is kept of one image: its points counted as pixels are, [1, true, called] and by level of probability.

    Args:
        map_: probability of foreground.
        xy: points (x, y) in pixels; see `values_at`.
        positive: whether each is of foreground's kind.
        threshold: from here on a point is called foreground.
        radius: px, see `values_at`.
        index: of the image, for messages.
    """
    values = values_at(map_, xy, radius, index)
    place = 2 * positive.astype(np.int64) + (values >= threshold)
    confusion = np.bincount(place, minlength=4).reshape(1, 2, 2).astype(np.float64)
    histogram = curves.histogram(curves.levels(values)[None], positive[None], None, curves.BINS)[None].astype(
        np.float64
    )
    terms = {
        "auroc_per_image": mean_terms(curves.auroc_of(histogram)),
        "auprc_per_image": mean_terms(curves.auprc_of(histogram)),
        "f1_per_image": pixels.f1_pos_terms(confusion),
        "balanced_accuracy_per_image": mean_terms(_balanced(confusion)),
    }
    return ImageStatistics(confusion, terms, histogram)


def summarise_points(statistics: ImageStatistics, weight: Weight = None) -> dict[str, Value]:
    """Every metric at points: pooled with the plain name, means over images end in `_per_image`.

    F1 per image is over images with a point of foreground; the others over images with both kinds.
    """
    bins = curves.BINS
    assert statistics.histogram is not None
    counts = summed(statistics.histogram.reshape(len(statistics), -1), weight).reshape(-1, 2, bins)
    matrix = summed(statistics.confusion.reshape(len(statistics), -1), weight).reshape(-1, 2, 2)
    out: dict[str, Value] = {
        "auroc": finish(curves.auroc_of(counts), weight, ONE_CLASS_OF_POINTS),
        "auprc": finish(curves.auprc_of(counts), weight, ONE_CLASS_OF_POINTS),
        "prevalence": finish(curves.prevalence_of(counts), weight, NO_IMAGE),
        "f1": finish(pixels.dice_of(matrix)[:, 1], weight, NO_POINT),
        "balanced_accuracy": finish(_balanced(matrix), weight, ONE_CLASS_OF_POINTS),
    }
    reason = "no image has points of both kinds"
    return out | {name: mean_of(rows, weight, reason) for name, rows in statistics.terms.items()}


def at_points(
    maps: Sequence[Sequence[Shaped[np.ndarray, "_ _"]]],
    points: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    patient: Shaped[np.ndarray, "n"] | None = None,
    threshold: float | Sequence[float] = 0.5,
    radius: int = 0,
    draws: int = DRAWS,
    seed: int = SEED,
    level: float = LEVEL,
) -> dict[str, SegmentationEstimate]:
    """Maps of one or several runs on the same images, scored at points, with intervals over images (or patients).

    AUROC, AUPRC (read it beside `prevalence`), F1 and balanced accuracy at the threshold; pooled over all points, and
    per image. Runs on different test images: `point_statistics`, `SegmentationRun` and `point_estimates`.

    Args:
        maps: of each run, the maps of the images.
        points: of each image (xy [k, 2], positive [k]).
        patient: whose each image is; None where nobody knows, so that images are drawn by themselves and intervals are
            too narrow if one patient has several.
        threshold: one, or one a run.
        radius: px, see `values_at`.
        draws: of patients.
        seed: of the draws.
        level: coverage aimed at.

    Raises:
        DataError: other numbers of maps and images, a point outside its map.
    """
    cuts = [threshold] * len(maps) if isinstance(threshold, float) else list(threshold)
    bad = [len(run) for run in maps if len(run) != len(points)]
    if not maps or bad or len(cuts) != len(maps):
        raise DataError(
            f"{len(maps)} runs with thresholds of {len(cuts)}; points of {len(points)} images"
            f"{f', but {bad[0]} maps' if bad else ''}. Expected a map of each image in each run, and a threshold a run."
        )
    ids = np.arange(len(points)) if patient is None else np.unique(patient, return_inverse=True)[1]
    runs = []
    for cut, run in zip(cuts, maps, strict=True):
        each = enumerate(zip(run, points, strict=True))
        own = [point_statistics(m, xy, yes, threshold=cut, radius=radius, index=i) for i, (m, (xy, yes)) in each]
        runs.append(SegmentationRun(stack(own), ids))
    return point_estimates(runs, draws=draws, seed=seed, level=level)


def point_estimates(
    runs: Sequence[SegmentationRun], *, draws: int = DRAWS, seed: int = SEED, level: float = LEVEL
) -> dict[str, SegmentationEstimate]:
    """`segmentation_estimates` of runs whose images hold `point_statistics`."""
    return segmentation_estimates(runs, draws=draws, seed=seed, level=level, summary=summarise_points)


def _balanced(matrix: Float[np.ndarray, "d 2 2"]) -> Float[np.ndarray, "d"]:
    """Mean of both kinds' shares called rightly; NaN for one kind."""
    right = [ratio(matrix[:, i, i], matrix[:, i].sum(1)) for i in (0, 1)]
    return (right[0] + right[1]) / 2
