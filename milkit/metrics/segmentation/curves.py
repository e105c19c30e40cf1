"""AUROC and AUPRC of pixels from histograms of their probabilities: any number of large maps in constant memory.

A map is counted into `bins` levels of equal width, apart for pixels of foreground and of background. Pixels of one
level are ties. With 256 levels an 8-bit map (probability = value / 255) loses nothing; of a map of floats the order
within a level is lost, and `auroc_bounds` says by how much that can have moved the AUROC of the data at hand.
Saturated maps (most probabilities below 1 / bins) lose most: give more bins.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from milkit.metrics.draws import ONE_CLASS, Value, Weight, finish, ratio
from milkit.metrics.segmentation.masks import Maps, as_classes, as_probability, pairs
from milkit.metrics.segmentation.terms import mean_of, mean_terms, summed

BINS = 256  # levels of an 8-bit map, what a map is kept as
Average = Literal["pooled", "image"]

ONE_CLASS_OF_PIXELS = ONE_CLASS.replace("patients", "pixels")


class Bounds(NamedTuple):
    """What a value lies between."""

    low: float
    high: float


def pixel_auroc(
    probability: Maps,
    truth: Maps,
    *,
    average: Average = "pooled",
    bins: int = BINS,
    ignore: int | None = None,
    weight: Weight = None,
) -> Value:
    """Chance that a pixel of foreground has a higher probability than one of background, ties half. Range 0 to 1.

    Args:
        probability: maps of floats in [0, 1].
        truth: masks of 0 and 1.
        average: `pooled` compares the pixels of all images with each other; `image` each image's own, then the mean
            over images that have both foreground and background.
        bins: levels that probabilities are counted into.
        ignore: value of the truth whose pixels do not count.
        weight: of images, [n] or [draws, n].

    Returns:
        Undefined where there is foreground only or background only.
    """
    counts = histograms(probability, truth, bins=bins, ignore=ignore)
    if average == "image":
        return mean_of(mean_terms(auroc_of(counts)), weight, ONE_CLASS_OF_PIXELS)
    return finish(auroc_of(_pooled(counts, weight)), weight, ONE_CLASS_OF_PIXELS)


def pixel_auprc(
    probability: Maps,
    truth: Maps,
    *,
    average: Average = "pooled",
    bins: int = BINS,
    ignore: int | None = None,
    weight: Weight = None,
) -> Value:
    """Average precision of pixels: precision times gain in recall, summed over levels from the highest. Range 0 to 1.

    It cannot be read without the share of foreground (`pixel_prevalence`), what a map without information reaches.
    Arguments, averages and empties as for `pixel_auroc`.
    """
    counts = histograms(probability, truth, bins=bins, ignore=ignore)
    if average == "image":
        return mean_of(mean_terms(auprc_of(counts)), weight, ONE_CLASS_OF_PIXELS)
    return finish(auprc_of(_pooled(counts, weight)), weight, ONE_CLASS_OF_PIXELS)


def pixel_prevalence(truth: Maps, *, ignore: int | None = None, weight: Weight = None) -> Value:
    """Share of foreground among the pixels of all images."""
    flat = [np.zeros(np.shape(t)) for t in truth] if isinstance(truth, list | tuple) else np.zeros(np.shape(truth))
    return finish(prevalence_of(_pooled(histograms(flat, truth, bins=1, ignore=ignore), weight)), weight, "no pixel")


def auroc_bounds(counts: Int[np.ndarray, "n 2 bins"] | Float[np.ndarray, "n 2 bins"]) -> Bounds:
    """What the pooled AUROC of the unrounded probabilities lies between: every tie read as an error, or as right."""
    pooled = counts.sum(0, keepdims=True).astype(np.float64)
    tied = float(ratio((pooled[:, 0] * pooled[:, 1]).sum(1), pooled.sum(2).prod(1))[0]) / 2
    middle = float(auroc_of(pooled)[0])
    return Bounds(middle - tied, middle + tied)


def histograms(
    probability: Maps, truth: Maps, *, bins: int = BINS, ignore: int | None = None
) -> Int[np.ndarray, "n 2 bins"]:
    """Pixels of background (row 0) and foreground (row 1) of each image at each level, floor(probability * bins).

    A probability of 1 falls into the highest level. The limits between levels are i / bins, so with an even number of
    bins a cut at 0.5 can be read off exactly.
    """
    both = pairs(probability, truth)
    counts = np.zeros((len(both), 2, bins), np.int64)
    for i, (map_, mask) in enumerate(both):
        level = levels(as_probability(map_, i), bins)
        label = as_classes(mask, 2, f"Truth {i}", ignore)
        counts[i] = histogram(level, label == 1, None if ignore is None else label != ignore, bins)
    return counts


def levels(probability: np.ndarray, bins: int = BINS) -> Int[np.ndarray, "*shape"]:
    """Level of each probability: floor(probability * bins), the highest for 1."""
    return np.minimum((probability.astype(np.float64) * bins).astype(np.int64), bins - 1)


def histogram(
    level: Int[np.ndarray, "h w"],
    foreground: Bool[np.ndarray, "h w"],
    seen: Bool[np.ndarray, "h w"] | None,
    bins: int,
) -> Int[np.ndarray, "2 bins"]:
    """Pixels of background and foreground at each level, those not seen left out."""
    place = level + bins * foreground
    return np.bincount((place if seen is None else place[seen]).ravel(), minlength=2 * bins).reshape(2, bins)


def auroc_of(counts: np.ndarray) -> Float[np.ndarray, "d"]:
    """AUROC of each histogram [d, 2, bins]; NaN for one class."""
    negative, positive = counts[:, 0].astype(np.float64), counts[:, 1].astype(np.float64)
    below = negative.cumsum(1) - 0.5 * negative
    return ratio((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def auprc_of(counts: np.ndarray) -> Float[np.ndarray, "d"]:
    """Average precision of each histogram [d, 2, bins]; NaN for one class."""
    falling = counts[:, :, ::-1].astype(np.float64)
    negative, positive = falling[:, 0], falling[:, 1]
    called = (positive + negative).cumsum(1)
    precision = np.divide(positive.cumsum(1), called, out=np.zeros_like(called), where=called > 0)
    value = ratio((positive * precision).sum(1), positive.sum(1))
    return np.where(negative.sum(1) > 0, value, np.nan)


def prevalence_of(counts: np.ndarray) -> Float[np.ndarray, "d"]:
    """Share of foreground in each histogram [d, 2, bins]."""
    return ratio(counts[:, 1].sum(1).astype(np.float64), counts.sum((1, 2)).astype(np.float64))


def _pooled(counts: np.ndarray, weight: Weight) -> Float[np.ndarray, "d 2 bins"]:
    return summed(counts.reshape(len(counts), -1).astype(np.float64), weight).reshape(-1, 2, counts.shape[-1])
