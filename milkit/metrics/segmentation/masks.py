"""What the metrics of this room take: images as masks, class maps or probability maps, checked.

A prediction of floats is a map of probabilities of class 1 (cut at `>= threshold`); one of booleans or whole numbers is
a map of class indices, 0 for background. Images may differ in size: then they come as a list.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Shaped

from milkit.errors import DataError

Maps = Shaped[np.ndarray, "..."] | Sequence[Shaped[np.ndarray, "_ _"]]
"""One image [h, w], a stack [n, h, w], or a list of images of any sizes."""


def as_images(maps: Maps, what: str) -> list[np.ndarray]:
    """The images of `maps`, one array [h, w] each.

    Raises:
        DataError: an image without pixels or of another number of axes.
    """
    if not isinstance(maps, list | tuple):
        stacked = np.asarray(maps)
        maps = [stacked] if stacked.ndim == 2 else list(stacked) if stacked.ndim == 3 else [stacked]
    images = [np.asarray(m) for m in maps]
    for i, image in enumerate(images):
        if image.ndim != 2 or not image.size:
            raise DataError(
                f"{what}: image {i} has shape {image.shape}. Expected [height, width] with at least one pixel; several "
                "images are a stack [n, height, width] or a list."
            )
    return images


def pairs(prediction: Maps, truth: Maps) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prediction and truth of each image.

    Raises:
        DataError: other numbers of images, or an image whose truth has another size.
    """
    predicted, true = as_images(prediction, "prediction"), as_images(truth, "truth")
    if len(predicted) != len(true):
        raise DataError(f"{len(predicted)} predictions, but {len(true)} truth masks. Give one mask an image.")
    for i, (p, t) in enumerate(zip(predicted, true, strict=True)):
        if p.shape != t.shape:
            raise DataError(
                f"Image {i}: the prediction is {p.shape}, its truth {t.shape} (height, width). "
                "Bring the prediction to the size of the truth, not the truth to the prediction's."
            )
    return list(zip(predicted, true, strict=True))


def as_probability(image: np.ndarray, index: int = 0) -> np.ndarray:
    """A map of probabilities.

    Raises:
        DataError: not floats, or a value outside [0, 1] (NaN included).
    """
    if not np.issubdtype(image.dtype, np.floating):
        raise DataError(
            f"Prediction {index} holds {image.dtype}, not probabilities. Expected floats in [0, 1]; "
            "an 8-bit map is divided by 255 first."
        )
    if not (image.min() >= 0 and image.max() <= 1):  # NaN fails both
        raise DataError(
            f"Prediction {index} has values from {image.min()} to {image.max()}. Expected probabilities in [0, 1], "
            "finite: apply the sigmoid to logits, and cut away padding."
        )
    return image


def as_classes(image: np.ndarray, classes: int, what: str, ignore: int | None = None) -> Int[np.ndarray, "h w"]:
    """A map of class indices 0 to classes - 1, and `ignore` where that is given.

    Raises:
        DataError: floats other than whole numbers, or a value that is no class.
    """
    values = _whole(image)
    if values is None:
        raise DataError(
            f"{what} holds fractions or NaN. Expected class indices: cut the probabilities at a threshold first."
        )
    wrong = (values < 0) | (values >= classes)
    if ignore is not None:
        wrong &= values != ignore
    if wrong.any():
        found = np.unique(values[wrong])[:5].tolist()
        raise DataError(
            f"{what} holds {', '.join(map(str, found))}. Expected class indices 0 to {classes - 1}"
            f"{'' if ignore is None else f' and {ignore} to ignore'}: turn a mask of 0 and 255 into `mask > 0`, "
            "state `classes`, or name the value to leave out by `ignore`."
        )
    return values


def as_called(
    image: np.ndarray, threshold: float, classes: int, index: int = 0, ignore: int | None = None
) -> Int[np.ndarray, "h w"]:
    """The class that a prediction calls at each pixel: probabilities are cut at `>= threshold`."""
    if np.issubdtype(image.dtype, np.floating):
        return (as_probability(image, index) >= threshold).astype(np.int64)
    return as_classes(image, classes, f"Prediction {index}", ignore)


def as_mask(image: np.ndarray, threshold: float, what: str) -> Bool[np.ndarray, "h w"]:
    """Foreground of one image: True, 1, or a probability of at least `threshold`.

    Raises:
        DataError: a value other than 0 and 1 in a map of whole numbers, or no probabilities.
    """
    if np.issubdtype(image.dtype, np.floating):
        return as_probability(image) >= threshold
    return as_classes(image, 2, what) == 1


def as_instances(image: np.ndarray, what: str) -> Int[np.ndarray, "h w"]:
    """A map of instance numbers, 0 for background.

    Raises:
        DataError: fractions or negative numbers.
    """
    values = _whole(image)
    if values is None or values.min() < 0:
        raise DataError(
            f"{what} holds negative numbers, fractions or NaN. Expected a number an instance and 0 for background; "
            "`instances(mask)` numbers the connected parts of a mask."
        )
    return values


def _whole(image: np.ndarray) -> Int[np.ndarray, "h w"] | None:
    """The values as int64; None where that would change one."""
    if not np.issubdtype(image.dtype, np.floating):
        return image.astype(np.int64)
    whole = np.isfinite(image).all() and bool((np.abs(image) < 2**53).all()) and bool((image == np.floor(image)).all())
    return image.astype(np.int64) if whole else None
