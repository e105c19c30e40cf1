"""Metrics of pixels called one class or another: F1+, F1-, IoU, mIoU, Dice, accuracy.

All rest on one confusion matrix an image: rows are the truth, columns the prediction. *Pooled* adds the matrices of all
images before dividing, so a large image weighs more; *per image* divides first and then averages over images.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from milkit.errors import DataError
from milkit.metrics.draws import Value, Weight, finish, mean_of_defined, ratio
from milkit.metrics.segmentation.masks import Maps, as_called, as_classes, pairs
from milkit.metrics.segmentation.terms import mean_of, mean_terms, summed

Average = Literal["pooled", "image"]

NO_POSITIVE = "no image has a positive pixel in its truth"
NO_NEGATIVE = "no image is without a positive pixel in its truth"
NEITHER = "the class is in no truth mask and in no prediction"


def f1_pos(prediction: Maps, truth: Maps, *, threshold: float = 0.5, weight: Weight = None) -> Value:
    """F1+: F1 of the foreground in each positive image, then the mean over positive images. Range 0 to 1.

    A positive image has at least one pixel of foreground in its truth; the others have no part in it. An image where
    nothing was found has 0. Undefined without a positive image.

    Args:
        prediction: probabilities, or masks of 0 and 1.
        truth: masks of 0 and 1.
        threshold: probabilities from here on are foreground.
        weight: of images, [n] or [draws, n].

    References:
        Li et al. (2023), Weakly supervised histopathology image segmentation with self-attention, section 4.2.
    """
    return mean_of(f1_pos_terms(confusions(prediction, truth, threshold=threshold)), weight, NO_POSITIVE)


def f1_neg(prediction: Maps, truth: Maps, *, threshold: float = 0.5, weight: Weight = None) -> Value:
    """F1-: F1 of the background in each negative image, then the mean over negative images. Range 0 to 1.

    A negative image has no pixel of foreground in its truth: with a share s of false foreground its F1 is
    2 (1 - s) / (2 - s). Undefined without a negative image. Arguments and source as for `f1_pos`.
    """
    return mean_of(f1_neg_terms(confusions(prediction, truth, threshold=threshold)), weight, NO_NEGATIVE)


def iou(
    prediction: Maps,
    truth: Maps,
    *,
    average: Average = "pooled",
    label: int = 1,
    classes: int = 2,
    ignore: int | None = None,
    threshold: float = 0.5,
    empty: float = 1.0,
    weight: Weight = None,
) -> Value:
    """Intersection over union of one class, tp / (tp + fp + fn). Range 0 to 1.

    Args:
        prediction: probabilities (of two classes), or class indices.
        truth: class indices.
        average: `pooled` adds the pixels of all images before dividing, and is undefined where the class is in no truth
            and in no prediction; `image` is the mean over all images.
        label: the class.
        classes: number of classes.
        ignore: value of the truth whose pixels do not count at all.
        threshold: probabilities from here on are class 1.
        empty: `image` only: value of an image whose truth and prediction both lack the class; NaN leaves such images
            out, which takes them from a model that is right there and leaves them to one that is not.
        weight: of images, [n] or [draws, n].
    """
    matrix = confusions(prediction, truth, classes=classes, ignore=ignore, threshold=threshold)
    if average == "image":
        return mean_of(image_terms(matrix, _label(label, classes), "iou", empty), weight, NEITHER)
    return finish(iou_of(_pooled(matrix, weight))[:, _label(label, classes)], weight, NEITHER)


def dice(
    prediction: Maps,
    truth: Maps,
    *,
    average: Average = "pooled",
    label: int = 1,
    classes: int = 2,
    ignore: int | None = None,
    threshold: float = 0.5,
    empty: float = 1.0,
    weight: Weight = None,
) -> Value:
    """Dice coefficient of one class, 2 tp / (2 tp + fp + fn), which is its F1. Range 0 to 1.

    Pooled it is 2 iou / (1 + iou); the mean over images is not a function of the mean IoU. Arguments, averages and
    empties as for `iou`.

    References:
        Dice (1945), Measures of the amount of ecologic association between species.
    """
    matrix = confusions(prediction, truth, classes=classes, ignore=ignore, threshold=threshold)
    if average == "image":
        return mean_of(image_terms(matrix, _label(label, classes), "dice", empty), weight, NEITHER)
    return finish(dice_of(_pooled(matrix, weight))[:, _label(label, classes)], weight, NEITHER)


def miou(
    prediction: Maps,
    truth: Maps,
    *,
    classes: int = 2,
    ignore: int | None = None,
    threshold: float = 0.5,
    weight: Weight = None,
) -> Value:
    """Mean over classes (background included) of the pooled IoU. Range 0 to 1.

    A class in no truth mask and in no prediction is left out of the mean. One that is predicted but never true has
    IoU 0. Arguments as for `iou`.

    References:
        Everingham et al. (2015), The PASCAL visual object classes challenge: a retrospective, section 3.
    """
    matrix = confusions(prediction, truth, classes=classes, ignore=ignore, threshold=threshold)
    return finish(mean_of_defined(iou_of(_pooled(matrix, weight)).T), weight, "no pixel")


def accuracy(
    prediction: Maps,
    truth: Maps,
    *,
    classes: int = 2,
    ignore: int | None = None,
    threshold: float = 0.5,
    weight: Weight = None,
) -> Value:
    """Share of pixels whose class was called, over all images. Arguments as for `iou`."""
    matrix = confusions(prediction, truth, classes=classes, ignore=ignore, threshold=threshold)
    return finish(accuracy_of(_pooled(matrix, weight)), weight, "no pixel")


def confusions(
    prediction: Maps, truth: Maps, *, classes: int = 2, ignore: int | None = None, threshold: float = 0.5
) -> Float[np.ndarray, "n c c"]:
    """Confusion matrix of each image: pixels of class i (row) called class j (column).

    Raises:
        DataError: sizes that differ, or values that are no class (`milkit.metrics.segmentation.masks`).
    """
    found = np.zeros((len(both := pairs(prediction, truth)), classes, classes))
    for i, (predicted, true) in enumerate(both):
        called = as_called(predicted, threshold, classes, i, ignore).ravel()
        label = as_classes(true, classes, f"Truth {i}", ignore).ravel()
        if ignore is not None:
            seen = label != ignore
            if (called[seen] == ignore).any() and ignore >= classes:
                raise DataError(f"Prediction {i} calls {ignore}, which is no class, where the truth has one.")
            called, label = called[seen], label[seen]
        found[i] = np.bincount(label * classes + called, minlength=classes * classes).reshape(classes, classes)
    return found


def f1_pos_terms(matrix: Float[np.ndarray, "n c c"]) -> Float[np.ndarray, "n 2"]:
    """Terms of F1+: an image with foreground has its F1."""
    foreground = matrix[:, 1].sum(-1) > 0
    return mean_terms(np.where(foreground, dice_of(matrix)[:, 1], np.nan))


def f1_neg_terms(matrix: Float[np.ndarray, "n c c"]) -> Float[np.ndarray, "n 2"]:
    """Terms of F1-: an image of background only has the F1 of background."""
    background = (matrix[:, 1].sum(-1) == 0) & (matrix[:, 0].sum(-1) > 0)
    return mean_terms(np.where(background, dice_of(matrix)[:, 0], np.nan))


def image_terms(
    matrix: Float[np.ndarray, "n c c"], label: int, what: Literal["iou", "dice"], empty: float = 1.0
) -> Float[np.ndarray, "n 2"]:
    """Terms of the mean over images of one class's IoU or Dice; `empty` where it is in neither."""
    values = (iou_of if what == "iou" else dice_of)(matrix)[:, label]
    some = matrix.sum((1, 2)) > 0  # an image whose every pixel is ignored says nothing
    return mean_terms(np.where(np.isnan(values) & some, empty, values))


def iou_of(matrix: Float[np.ndarray, "d c c"]) -> Float[np.ndarray, "d c"]:
    """IoU of each class; NaN where it is neither true nor predicted."""
    hit, either = _hit_and_sum(matrix)
    return ratio(hit, either - hit)


def dice_of(matrix: Float[np.ndarray, "d c c"]) -> Float[np.ndarray, "d c"]:
    """Dice of each class; NaN where it is neither true nor predicted."""
    hit, either = _hit_and_sum(matrix)
    return ratio(2 * hit, either)


def accuracy_of(matrix: Float[np.ndarray, "d c c"]) -> Float[np.ndarray, "d"]:
    """Share of pixels on the diagonal."""
    return ratio(np.trace(matrix, axis1=1, axis2=2), matrix.sum((1, 2)))


def _hit_and_sum(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(2) + matrix.sum(1)


def _pooled(matrix: Float[np.ndarray, "n c c"], weight: Weight) -> Float[np.ndarray, "d c c"]:
    classes = matrix.shape[-1]
    return summed(matrix.reshape(len(matrix), -1), weight).reshape(-1, classes, classes)


def _label(label: int, classes: int) -> int:
    if not 0 <= label < classes:
        raise DataError(f"Class {label} of {classes}: a class index is 0 to {classes - 1}; state `classes`.")
    return label
