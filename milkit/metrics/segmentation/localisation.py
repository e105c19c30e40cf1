"""Does a map of attention or of class evidence point at what the truth marks? Any scores, higher = more evidence."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from scipy.ndimage import distance_transform_edt

from milkit.errors import DataError
from milkit.metrics.draws import ONE_CLASS, Value, Weight, not_finite, undefined
from milkit.metrics.ranking import average_precision
from milkit.metrics.segmentation.masks import Maps, as_classes, pairs
from milkit.metrics.segmentation.terms import mean_of, mean_terms

Average = Literal["pooled", "image"]

NO_POSITIVE = "no image has a positive pixel in its truth"
ONE_CLASS_OF_INSTANCES = ONE_CLASS.replace("patients", "instances")


def pointing_game(score: Maps, truth: Maps, *, tolerance: float = 0.0, weight: Weight = None) -> Value:
    """Share of positive images whose highest score lies on the foreground. Range 0 to 1.

    Where several pixels share the highest score, the image counts the share of them that hit: what a random choice
    among them would reach. Images without foreground have no part in it; without any it is undefined.

    Args:
        score: maps of any finite scores.
        truth: masks of 0 and 1.
        tolerance: px; a point as near as this to the foreground hits too (the source has 15).
        weight: of images, [n] or [draws, n].

    References:
        Zhang et al. (2016), Top-down neural attention by excitation backprop, section 4.1.
    """
    return mean_of(
        mean_terms([pointed(s, t, i, tolerance) for i, (s, t) in enumerate(pairs(score, truth))]), weight, NO_POSITIVE
    )


def pointed(score: np.ndarray, truth: np.ndarray, index: int = 0, tolerance: float = 0.0) -> float:
    """Share of the highest pixels that hit in one image; NaN without foreground.

    Raises:
        DataError: a score that is not finite, or a truth other than 0 and 1.
    """
    foreground = as_classes(truth, 2, f"Truth {index}") == 1
    if reason := not_finite(score):
        raise DataError(f"Map {index}: {reason}. Cut away padding, and look where the NaN comes from.")
    if not foreground.any():
        return float("nan")
    top = score == score.max()
    near = foreground if tolerance <= 0 else distance_transform_edt(~foreground) <= tolerance
    return float(near[top].mean())


def instance_auprc(
    score: Sequence[Shaped[np.ndarray, "_"]],
    label: Sequence[Shaped[np.ndarray, "_"]],
    *,
    average: Average = "image",
    weight: Weight = None,
) -> Value:
    """Average precision of the instances of bags by a score such as attention. Range 0 to 1.

    Args:
        score: of the instances of each bag, any scale.
        label: 1 where an instance is positive, else 0.
        average: `image` compares instances within each bag, mean over bags that have both kinds; `pooled` compares all
            instances with each other, which asks scores of different bags to share a scale (attention that sums to 1
            in each bag does not: it depends on the bag's size).
        weight: of bags, [n] or [draws, n].

    Returns:
        Undefined where no bag (pooled: where the bags together do not) have both kinds of instance.

    Raises:
        DataError: other numbers of scores and labels, or a label other than 0 and 1.
    """
    if len(score) != len(label) or any(len(s) != len(y) for s, y in zip(score, label, strict=True)):
        raise DataError("Scores and labels of instances differ in number. Expected one label an instance, bag by bag.")
    if any(not np.isin(y, (0, 1)).all() for y in label):
        raise DataError("Labels of instances are not all 0 or 1.")
    if reason := next((r for s in score if (r := not_finite(np.asarray(s)))), ""):
        return undefined(weight, reason)
    scores, labels = ([np.asarray(v, np.float64) for v in values] for values in (score, label))
    if average == "pooled":
        bag = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
        spread = None if weight is None else np.asarray(weight)[..., bag]
        return average_precision(np.concatenate(labels), np.concatenate(scores), spread)
    each = [average_precision(y, s) if len(y) else np.nan for y, s in zip(labels, scores, strict=True)]
    return mean_of(mean_terms(np.asarray(each, np.float64)), weight, ONE_CLASS_OF_INSTANCES)
