"""What is kept of each image, and all metrics from it: `image_statistics` once an image, `summarise` at will.

The statistics of an image are a few numbers (and a histogram), so that a test set of any size is streamed through
`image_statistics`, and 2,000 bootstrap draws are one product of weights and sums. Rows may be added up by patient
(`per_patient`): every metric stays the same function of the sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from milkit.errors import DataError
from milkit.metrics.draws import Value, Weight, finish, mean_of_defined
from milkit.metrics.segmentation import curves, distance, objects, pixels
from milkit.metrics.segmentation.distance import Mode
from milkit.metrics.segmentation.localisation import pointed
from milkit.metrics.segmentation.masks import Maps, as_called, as_classes, pairs
from milkit.metrics.segmentation.terms import mean_of, mean_terms, quotient, summed

OBJECT_NAMES = ("dice", "iou", "hausdorff")
NO_IMAGE = "no image"


@dataclass(frozen=True)
class Wanted:
    """What is measured beside F1, IoU, Dice and (where there are probabilities) AUROC, AUPRC and the pointing game.

    Attributes:
        threshold: probabilities from here on are class 1.
        classes: number of classes; more than 2 give IoU and Dice of each, mIoU and accuracy only.
        ignore: value of the truth whose pixels do not count; two classes without distances and instances only.
        bins: levels that probabilities are counted into.
        distances: modes of the Hausdorff distance; an image where nothing was found counts with its diagonal.
        instances: whether AJI, object Dice, object IoU and object Hausdorff are computed, on the connected parts of
            what is called foreground, or on the instance maps given.
        mpp: micrometres a pixel, for distances; None leaves them in pixels.
    """

    threshold: float = 0.5
    classes: int = 2
    ignore: int | None = None
    bins: int = curves.BINS
    distances: tuple[Mode, ...] = ()
    instances: bool = False
    mpp: float | None = None

    def __post_init__(self) -> None:
        if (self.distances or self.instances) and (self.classes != 2 or self.ignore is not None):
            raise DataError("Distances and instances are of two classes, and of truth without pixels to ignore.")
        if self.bins < 1 or self.classes < 2 or not (self.mpp is None or 0 < self.mpp < np.inf):
            raise DataError(
                f"bins {self.bins}, classes {self.classes}, mpp {self.mpp}: expected at least 1 bin and 2 classes, and "
                "micrometres a pixel above 0."
            )


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """Terms of every metric, one row an image (or a patient).

    Attributes:
        confusion: pixels of class i (row) called class j (column).
        terms: of what is not read off the confusion matrix, by the metric's name.
        histogram: pixels of background and foreground at each level of probability; None for predictions of masks.
    """

    confusion: Float[np.ndarray, "n c c"]
    terms: Mapping[str, Float[np.ndarray, "n _"]]
    histogram: Float[np.ndarray, "n 2 bins"] | None = None

    def __len__(self) -> int:
        return len(self.confusion)


def image_statistics(
    prediction: Maps,
    truth: Maps,
    wanted: Wanted | None = None,
    *,
    predicted_instances: Maps | None = None,
    true_instances: Maps | None = None,
) -> ImageStatistics:
    """What is kept of one image or several.

    Args:
        prediction: probabilities, masks of 0 and 1, or class indices.
        truth: masks of 0 and 1, or class indices.
        wanted: what is measured; None for the defaults.
        predicted_instances: instance maps; None numbers the connected parts of what is called foreground.
        true_instances: likewise of the truth.

    Raises:
        DataError: sizes that differ, or values that are no class or probability.
    """
    wanted = wanted or Wanted()
    both = pairs(prediction, truth)
    confusion = pixels.confusions(
        prediction, truth, classes=wanted.classes, ignore=wanted.ignore, threshold=wanted.threshold
    )
    terms: dict[str, Float[np.ndarray, "n _"]] = {}
    for label in range(1, wanted.classes):
        for what in ("iou", "dice"):
            terms[_named(f"{what}_per_image", label, wanted.classes)] = pixels.image_terms(confusion, label, what)
    if wanted.classes > 2:
        return ImageStatistics(confusion, terms)
    terms |= {"f1_pos": pixels.f1_pos_terms(confusion), "f1_neg": pixels.f1_neg_terms(confusion)}
    histogram = None
    if all(np.issubdtype(p.dtype, np.floating) for p, _ in both):
        histogram = curves.histograms(prediction, truth, bins=wanted.bins, ignore=wanted.ignore).astype(np.float64)
        terms |= _map_terms(both, histogram, wanted)
    if wanted.distances or wanted.instances:
        masks = [(as_called(p, wanted.threshold, 2) == 1, as_classes(t, 2, "Truth") == 1) for p, t in both]
        terms |= _distance_terms(masks, wanted)
    if wanted.instances:
        predicted = [objects.instances(p) for p, _ in masks] if predicted_instances is None else predicted_instances
        true = [objects.instances(t) for _, t in masks] if true_instances is None else true_instances
        terms |= _object_terms(predicted, true, wanted.mpp or 1.0)
    return ImageStatistics(confusion, terms, histogram)


def stack(parts: Sequence[ImageStatistics]) -> ImageStatistics:
    """The rows of several, in their order.

    Raises:
        DataError: none, or parts that were not measured alike.
    """
    if not parts:
        raise DataError("No image statistics to put together: the test part has no images.")
    shapes = [{k: v.shape[1:] for k, v in _arrays(p).items()} for p in parts]
    if any(s != shapes[0] for s in shapes):
        raise DataError("Image statistics differ in what was measured: give all images the same `Wanted`.")
    arrays = [_arrays(p) for p in parts]
    return _of({name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]})


def per_patient(statistics: ImageStatistics, patient: Int[np.ndarray, "n"], patients: int) -> ImageStatistics:
    """Rows of each patient added up; row i is patient number i, zeros for one without images."""
    out = {}
    for name, rows in _arrays(statistics).items():
        out[name] = np.zeros((patients, *rows.shape[1:]))
        np.add.at(out[name], patient, rows)
    return _of(out)


def summarise(statistics: ImageStatistics, weight: Weight = None) -> dict[str, Value]:
    """Every metric that the statistics hold.

    Args:
        statistics: rows of images or of patients.
        weight: of the rows, [n] or [draws, n].

    Returns:
        Values by name: `docs/segmentation_metrics.md` lists them. Pooled ones have the plain name, means over images
        end in `_per_image`; with more than two classes, a class stands after a colon.
    """
    classes = statistics.confusion.shape[-1]
    matrix = summed(statistics.confusion.reshape(len(statistics), -1), weight).reshape(-1, classes, classes)
    iou, dice = pixels.iou_of(matrix), pixels.dice_of(matrix)
    out: dict[str, Value] = {}
    for label in range(1, classes):
        out[_named("iou", label, classes)] = finish(iou[:, label], weight, pixels.NEITHER)
        out[_named("dice", label, classes)] = finish(dice[:, label], weight, pixels.NEITHER)
    out["miou"] = finish(mean_of_defined(iou.T), weight, NO_IMAGE)
    out["accuracy"] = finish(pixels.accuracy_of(matrix), weight, NO_IMAGE)
    if statistics.histogram is not None:
        out |= _of_histogram(statistics.histogram, weight)
    for name, terms in statistics.terms.items():
        out |= _of_terms(name, terms, weight)
    return out


def bounds(name: str) -> tuple[float, float]:
    """Lowest and highest possible value of a metric of `summarise`."""
    return (0.0, np.inf) if "hausdorff" in name or name.startswith("hd95") else (0.0, 1.0)


def distance_name(mode: Mode) -> str:
    """Name of a Hausdorff mode in `summarise`."""
    return mode if mode.startswith("hd95") else "hausdorff" if mode == "exact" else f"hausdorff_{mode}"


def _named(what: str, label: int, classes: int) -> str:
    return what if classes == 2 else f"{what}:{label}"


def _map_terms(
    both: list[tuple[np.ndarray, np.ndarray]], histogram: Float[np.ndarray, "n 2 bins"], wanted: Wanted
) -> dict[str, np.ndarray]:
    terms = {
        "auroc_per_image": mean_terms(curves.auroc_of(histogram)),
        "auprc_per_image": mean_terms(curves.auprc_of(histogram)),
    }
    if wanted.ignore is None:
        terms["pointing_game"] = mean_terms([pointed(p, t, i) for i, (p, t) in enumerate(both)])
    return terms


def _distance_terms(masks: list[tuple[np.ndarray, np.ndarray]], wanted: Wanted) -> dict[str, np.ndarray]:
    values = np.asarray([distance.distances(p, t, wanted.distances, "diagonal") for p, t in masks])
    values = values.reshape(len(masks), -1) * (wanted.mpp or 1.0)
    return {distance_name(mode): mean_terms(values[:, i]) for i, mode in enumerate(wanted.distances)}


def _object_terms(predicted: Maps, true: Maps, scale: float) -> dict[str, np.ndarray]:
    matches = [objects.match(p, t) for p, t in pairs(predicted, true)]
    jaccard = np.asarray([objects.aji_terms(m) for m in matches])
    terms = {"aji": jaccard, "aji_per_image": objects.image_aji(jaccard)}
    for what in OBJECT_NAMES:
        sums = np.asarray([objects.object_terms(m, what) for m in matches])
        if what == "hausdorff":
            sums[:, [0, 2]] *= scale
        terms[f"object_{what}"] = sums
        terms[f"object_{what}_per_image"] = mean_terms(objects.object_of(sums, what))
    return terms


def _of_histogram(histogram: Float[np.ndarray, "n 2 bins"], weight: Weight) -> dict[str, Value]:
    bins = histogram.shape[-1]
    counts = summed(histogram.reshape(len(histogram), -1), weight).reshape(-1, 2, bins)
    return {
        "auroc": finish(curves.auroc_of(counts), weight, curves.ONE_CLASS_OF_PIXELS),
        "auprc": finish(curves.auprc_of(counts), weight, curves.ONE_CLASS_OF_PIXELS),
        "prevalence": finish(curves.prevalence_of(counts), weight, NO_IMAGE),
    }


_REASONS = {"f1_pos": pixels.NO_POSITIVE, "f1_neg": pixels.NO_NEGATIVE, "pointing_game": pixels.NO_POSITIVE}


def _of_terms(name: str, terms: np.ndarray, weight: Weight) -> dict[str, Value]:
    if name == "aji":
        return {name: quotient(summed(terms, weight)[:, :2], weight, objects.NOTHING)}
    if terms.shape[1] == 4:
        value = objects.object_of(summed(terms, weight), name.removeprefix("object_"))
        return {name: finish(value, weight, objects.NO_OBJECT)}
    reason = _REASONS.get(name, "no image has a value")
    return {name: mean_of(terms, weight, reason)}


def _arrays(statistics: ImageStatistics) -> dict[str, np.ndarray]:
    own = {"confusion": statistics.confusion} | {f"terms {k}": v for k, v in statistics.terms.items()}
    return own if statistics.histogram is None else own | {"histogram": statistics.histogram}


def _of(arrays: Mapping[str, np.ndarray]) -> ImageStatistics:
    terms = {k.removeprefix("terms "): v for k, v in arrays.items() if k.startswith("terms ")}
    return ImageStatistics(arrays["confusion"], terms, arrays.get("histogram"))
