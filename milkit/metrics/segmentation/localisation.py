"""Does a map of attention or of class evidence point at what the truth marks? Any scores, higher = more evidence."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from scipy.ndimage import distance_transform_edt

from milkit.errors import DataError
from milkit.metrics.draws import ONE_CLASS, Value, Weight, as_draws, finish, not_finite, undefined
from milkit.metrics.ranking import average_precision
from milkit.metrics.segmentation.masks import Maps, as_classes, pairs
from milkit.metrics.segmentation.terms import mean_of, mean_terms

Average = Literal["pooled", "image"]

FROC_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives an image, those of CAMELYON16
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
    scores, labels = _of_instances(score, label)
    if reason := next((r for s in scores if (r := not_finite(s))), ""):
        return undefined(weight, reason)
    if average == "pooled":
        bag = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
        spread = None if weight is None else np.asarray(weight)[..., bag]
        return average_precision(np.concatenate(labels), np.concatenate(scores), spread)
    each = [average_precision(y, s) if len(y) else np.nan for y, s in zip(labels, scores, strict=True)]
    return mean_of(mean_terms(np.asarray(each, np.float64)), weight, ONE_CLASS_OF_INSTANCES)


def instance_pointing(
    score: Sequence[Shaped[np.ndarray, "_"]], label: Sequence[Shaped[np.ndarray, "_"]], *, weight: Weight = None
) -> Value:
    """Share of positive bags whose highest instance is positive (the pointing game, on instances). Range 0 to 1.

    Where several instances share the highest score, a bag counts the share of them that is positive. Bags without a
    positive instance have no part in it; without any other bag it is undefined.

    Args:
        score: of the instances of each bag, any scale.
        label: 1 where an instance is positive, else 0.
        weight: of bags, [n] or [draws, n].

    Raises:
        DataError: as in `instance_auprc`.
    """
    scores, labels = _of_instances(score, label)
    if reason := next((r for s in scores if (r := not_finite(s))), ""):
        return undefined(weight, reason)
    each = [y[s == s.max()].mean() if y.any() else np.nan for s, y in zip(scores, labels, strict=True)]
    return mean_of(mean_terms(np.asarray(each, np.float64)), weight, "no bag has a positive instance")


def _of_instances(
    score: Sequence[np.ndarray], label: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and labels of each bag in float64, looked at."""
    if len(score) != len(label) or any(len(s) != len(y) for s, y in zip(score, label, strict=True)):
        raise DataError("Scores and labels of instances differ in number. Expected one label an instance, bag by bag.")
    if any(not np.isin(y, (0, 1)).all() for y in label):
        raise DataError("Labels of instances are not all 0 or 1.")
    scores, labels = ([np.asarray(v, np.float64) for v in values] for values in (score, label))
    return scores, labels


def froc(
    score: Sequence[Shaped[np.ndarray, "_"]],
    lesion: Sequence[Shaped[np.ndarray, "_"]],
    lesions: Sequence[int],
    *,
    rates: Sequence[float] = FROC_RATES,
    weight: Weight = None,
) -> Value:
    """Mean sensitivity for lesions at given numbers of false positives an image. Range 0 to 1.

    A lesion is found at a threshold if a detection inside it scores as high; a detection in no lesion is a false
    positive. Sensitivity (of all lesions) against false positives an image (of all images) is read off at `rates` by
    straight lines between thresholds; where all detections together give fewer false positives, by the last point.
    Undefined without a lesion.

    Args:
        score: of the detections of each image; higher = more certain.
        lesion: number of the lesion that each detection lies in, from 1 on; 0 for none, -1 for a region that is not to
            count at all (isolated tumour cells in CAMELYON16).
        lesions: how many lesions each image has (those that do not count left out).
        rates: false positives an image.
        weight: of images, [n] or [draws, n].

    Raises:
        DataError: other numbers of images or detections, or a lesion that its image does not have.

    References:
        Ehteshami Bejnordi et al. (2017), Diagnostic assessment of deep learning algorithms for detection of lymph node
        metastases (CAMELYON16), supplement on the free-response ROC.
    """
    _check_detections(score, lesion, lesions)
    if reason := next((r for s in score if (r := not_finite(np.asarray(s)))), ""):
        return undefined(weight, reason)
    at, image, hit = _events(score, lesion)
    levels, place = np.unique(-at, return_inverse=True)  # from the highest score
    w, counts = as_draws(weight, len(score)), np.zeros((2, len(score), len(levels)))
    np.add.at(counts, (hit, image, place), 1.0)
    wrong, found = ((w @ c).cumsum(1) for c in counts)
    total, images = w @ np.asarray(lesions, np.float64), w.sum(1)
    values = np.full(len(w), np.nan)
    for i in np.flatnonzero(total > 0):
        x, y = np.r_[0.0, wrong[i] / images[i]], np.r_[0.0, found[i] / total[i]]
        values[i] = np.interp(rates, x, y).mean()
    return finish(values, weight, "no image has a lesion")


def _events(score: Sequence[np.ndarray], lesion: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, image and kind (1: a lesion's best detection, 0: a false positive) of all that counts."""
    out: list[tuple[float, int, int]] = []
    for image, (scores, places) in enumerate(zip(score, lesion, strict=True)):
        out += [(float(s), image, 0) for s, p in zip(scores, places, strict=True) if p == 0]
        out += [(float(scores[places == p].max()), image, 1) for p in np.unique(places[places > 0])]
    rows = np.asarray(out, np.float64).reshape(-1, 3)
    return rows[:, 0], rows[:, 1].astype(np.int64), rows[:, 2].astype(np.int64)


def _check_detections(score: Sequence[np.ndarray], lesion: Sequence[np.ndarray], lesions: Sequence[int]) -> None:
    if not len(score) == len(lesion) == len(lesions):
        raise DataError(
            f"Scores of {len(score)} images, lesions of {len(lesion)} and {len(lesions)} numbers of lesions. "
            "Expected one each an image."
        )
    for i, (scores, places, number) in enumerate(zip(score, lesion, lesions, strict=True)):
        if len(scores) != len(places):
            raise DataError(f"Image {i}: {len(scores)} scores, but lesions of {len(places)} detections.")
        if len(places) and (places.min() < -1 or places.max() > number):
            raise DataError(
                f"Image {i} has {number} lesions, but its detections name {places.min()} to {places.max()}. "
                "Expected 1 to the number of lesions, 0 for none, -1 for one that does not count."
            )
