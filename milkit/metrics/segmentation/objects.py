"""Metrics of instances (nuclei, glands): AJI, object Dice, IoU and Hausdorff.

An instance map has a number for each instance and 0 for background; which number does not matter, but for ties, where
the lowest wins. `instances` makes one of a mask.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import find_objects, label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from milkit.metrics.draws import Value, Weight, finish, ratio
from milkit.metrics.segmentation.distance import farthest
from milkit.metrics.segmentation.masks import Maps, as_instances, pairs
from milkit.metrics.segmentation.terms import mean_of, mean_terms, quotient, summed

Average = Literal["pooled", "image"]
Unmatched = Literal["own_area", "first"]
Nearest = Literal["image", "window"]

NO_OBJECT = "no image has an instance in its truth"
NOTHING = "no image has an instance in its truth or its prediction"
FAR = 1e3  # px; of an instance for which the window search finds no partner
FEW = 100_000  # pairs of pixels up to which all distances are cheaper than a distance transform
WINDOWS = (50, 100, 200, 400)  # px; half the side of the window, tried in turn


def instances(mask: Int[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Connected parts (8 neighbours) of equal value numbered from 1 in the order of reading; 0 stays background.

    Of a mask: its connected parts. Of an instance map: an instance in two pieces becomes two, and neighbours of
    different number stay apart.
    """
    part, count = label(mask, np.ones((3, 3))) if _one_value(mask) else _parts(mask)
    first = np.zeros(count + 1, np.int64)
    first[part.ravel()[::-1]] = np.arange(mask.size)[::-1]  # of several places the one written last stays
    order = np.argsort(first[1:], kind="stable")
    number = np.zeros(count + 1, np.int64)
    number[order + 1] = np.arange(1, count + 1)
    return number[part]


def _one_value(mask: np.ndarray) -> bool:
    return mask.dtype == bool or not mask.any() or bool((mask[mask != 0] == mask.max()).all())


def _parts(mask: np.ndarray) -> tuple[Int[np.ndarray, "h w"], int]:
    """Connected parts of equal value, in any order, and how many they are."""
    height, width = mask.shape
    index = np.arange(mask.size).reshape(mask.shape)
    start, end = [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: height - dy, max(0, -dx) : width - max(0, dx)]
        there = np.s_[dy:, max(0, dx) : width - max(0, -dx)]
        same = (mask[here] == mask[there]) & (mask[here] != 0)
        start.append(index[here][same])
        end.append(index[there][same])
    rows, columns = np.concatenate(start), np.concatenate(end)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), (mask.size, mask.size))
    part = connected_components(graph, directed=False)[1].reshape(mask.shape)
    values, number = np.unique(part[mask != 0], return_inverse=True)
    out = np.zeros(mask.shape, np.int64)
    out[mask != 0] = number + 1
    return out, len(values)


def aji(
    prediction: Maps,
    truth: Maps,
    *,
    average: Average = "image",
    unmatched: Unmatched = "own_area",
    weight: Weight = None,
) -> Value:
    """Aggregated Jaccard index: sum of intersections over sum of unions and of what was never matched. Range 0 to 1.

    Each true instance takes the predicted one of highest IoU, which several may share; both areas enter by their
    intersection and union. Predicted instances that nobody took enter the denominator with their area.

    Args:
        prediction: instance maps.
        truth: instance maps.
        average: `image` is the mean over images that have an instance in their truth (no prediction: 0); `pooled` adds
            both sums over all images first, so that instances predicted in empty images count.
        unmatched: what a true instance without any overlap adds to the denominator: its `own_area`; or the union with
            the `first` predicted instance, which then counts as taken (what some code does, by an argmax over zeros).
        weight: of images, [n] or [draws, n].

    Returns:
        Undefined without instances in the truth; pooled: without any at all.

    References:
        Kumar et al. (2017), A dataset and a technique for generalized nuclear segmentation, section IV.
    """
    terms = np.asarray([aji_terms(m, unmatched) for m in _matches(prediction, truth)])
    if average == "pooled":
        return quotient(summed(terms, weight)[:, :2], weight, NOTHING)
    return mean_of(image_aji(terms), weight, NO_OBJECT)


def object_dice(prediction: Maps, truth: Maps, *, average: Average = "image", weight: Weight = None) -> Value:
    """Object-level Dice: mean of what true and what predicted instances have, each weighed by its area. Range 0 to 1.

    1/2 [ sum_i |G_i| Dice(G_i, S*) / sum |G| + sum_j |S_j| Dice(G*, S_j) / sum |S| ], where S* (G*) is the partner of
    largest overlap. An instance without overlap has Dice 0; without any predicted instance the second sum is 0.

    Args:
        prediction: instance maps.
        truth: instance maps.
        average: `image` is the mean over images that have an instance in their truth; `pooled` adds the sums over all
            images first.
        weight: of images, [n] or [draws, n].

    References:
        Sirinukunwattana et al. (2017), Gland segmentation in colon histology images: the GlaS challenge contest.
    """
    return _object("dice", prediction, truth, average, weight)


def object_iou(prediction: Maps, truth: Maps, *, average: Average = "image", weight: Weight = None) -> Value:
    """As `object_dice`, with the IoU of partners."""
    return _object("iou", prediction, truth, average, weight)


def object_hausdorff(
    prediction: Maps,
    truth: Maps,
    *,
    average: Average = "image",
    nearest: Nearest = "image",
    mpp: float | None = None,
    weight: Weight = None,
) -> Value:
    """As `object_dice`, with the exact Hausdorff distance of all pixels of partners; pixels, or micrometres by mpp.

    Args:
        prediction: instance maps.
        truth: instance maps.
        average: as for `object_dice`.
        nearest: partner of an instance without overlap, by the least Hausdorff distance: of all in the `image` (the
            contest's definition; without any, the image's diagonal), or of those in a `window` of 50 px to each side
            of its centre, doubled up to 400 (what some code does; none found: 1,000 px).
        mpp: micrometres a pixel.
        weight: of images, [n] or [draws, n].
    """
    value = _object("hausdorff", prediction, truth, average, weight, nearest)
    return value if mpp is None or np.isnan(value).all() else value * mpp


@dataclass(frozen=True, eq=False)
class Matches:
    """Instances of one image with their overlaps; row i is the i-th number of the truth, column j of the prediction.

    Attributes:
        truth, prediction: instance maps with numbers from 1 on, none missing.
    """

    truth: Int[np.ndarray, "h w"]
    prediction: Int[np.ndarray, "h w"]

    @cached_property
    def overlap(self) -> Float[np.ndarray, "g s"]:
        """Pixels in common."""
        rows, columns = int(self.truth.max()) + 1, int(self.prediction.max()) + 1
        counts = np.bincount((self.truth * columns + self.prediction).ravel(), minlength=rows * columns)
        return counts.reshape(rows, columns)[1:, 1:].astype(np.float64)

    @cached_property
    def areas(self) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "s"]]:
        """Pixels of each true and each predicted instance."""
        true, predicted = (np.bincount(m.ravel())[1:].astype(np.float64) for m in (self.truth, self.prediction))
        return true, predicted

    @cached_property
    def points(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Row and column of the pixels of each true and each predicted instance."""
        true, predicted = (_points(m) for m in (self.truth, self.prediction))
        return true, predicted

    def swapped(self) -> "Matches":
        """Truth and prediction in each other's place."""
        return Matches(self.prediction, self.truth)


def match(prediction: np.ndarray, truth: np.ndarray) -> Matches:
    """The instances of one image, numbered anew in the order of their numbers."""
    return Matches(_numbered(truth, "Truth"), _numbered(prediction, "Prediction"))


def aji_terms(m: Matches, unmatched: Unmatched = "own_area") -> tuple[float, float, float]:
    """Numerator and denominator of the AJI, and the number of true instances."""
    (true, predicted), overlap = m.areas, m.overlap
    if not (len(true) and len(predicted)):
        return 0.0, float(true.sum() + predicted.sum()), float(len(true))
    union = true[:, None] + predicted[None] - overlap
    best = (overlap / union).argmax(1)
    row = np.arange(len(true))
    hit = overlap[row, best] > 0
    if unmatched == "first":
        hit = np.ones_like(hit)
    together = np.where(hit, union[row, best], true).sum()
    never = np.setdiff1d(np.arange(len(predicted)), best[hit])
    return float(overlap[row, best].sum()), float(together + predicted[never].sum()), float(len(true))


def object_terms(m: Matches, what: str, nearest: Nearest = "image") -> tuple[float, float, float, float]:
    """Sums weighed by area and total areas: of the true instances, then of the predicted ones."""
    of_true, of_predicted = _sided(m, what, nearest), _sided(m.swapped(), what, nearest)
    return (*of_true, *of_predicted)


def object_of(sums: Float[np.ndarray, "d 4"], what: str) -> Float[np.ndarray, "d"]:
    """The metric of sums of `object_terms`; NaN without a true instance.

    Where nothing is predicted, that side counts 0 for Dice and IoU, and for the distance as much as the true side (0
    would be the best of distances).
    """
    true, predicted = ratio(sums[:, 0], sums[:, 1]), ratio(sums[:, 2], sums[:, 3])
    nothing = true if what == "hausdorff" else np.zeros_like(true)
    return (true + np.where(np.isnan(predicted), nothing, predicted)) / 2


def image_aji(terms: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    """Terms of the mean over images of the AJI, from those of `aji_terms`."""
    return mean_terms(np.where(terms[:, 2] > 0, ratio(terms[:, 0], terms[:, 1]), np.nan))


def _sided(m: Matches, what: str, nearest: Nearest) -> tuple[float, float]:
    """Sum over true instances of area times value, and their total area."""
    (true, predicted), overlap = m.areas, m.overlap
    if not len(true):
        return 0.0, 0.0
    if what == "hausdorff":
        return float(true @ _distances(m, nearest)), float(true.sum())
    if not len(predicted):
        return 0.0, float(true.sum())
    partner = overlap.argmax(1)
    common, both = overlap[np.arange(len(true)), partner], true + predicted[partner]
    value = 2 * common / both if what == "dice" else common / (both - common)
    return float(true @ value), float(true.sum())


def _distances(m: Matches, nearest: Nearest) -> Float[np.ndarray, "g"]:
    """Hausdorff distance of each true instance to its partner, in pixels."""
    places, others = find_objects(m.truth), find_objects(m.prediction)
    low, high = _corners(others)
    height, width = m.truth.shape
    nobody = FAR if nearest == "window" else float(np.hypot(height - 1, width - 1))
    out = np.full(len(places), nobody)
    for i, place in enumerate(places):
        # each side of the smallest box is touched: two sets are at least as far apart as their boxes' sides
        apart = np.maximum(abs(low - [a.start for a in place]), abs(high - [a.stop for a in place])).max(1)
        if m.overlap[i].any():
            partner = int(m.overlap[i].argmax())
            out[i] = _between(m, i, partner, place, others[partner])
            continue
        near = nearest == "image"
        candidates = np.argsort(apart, kind="stable") if near else _in_window(m.truth == i + 1, m.prediction)
        for j in candidates:
            if apart[j] < out[i]:
                out[i] = min(out[i], _between(m, i, int(j), place, others[j]))
    return out


def _corners(boxes: list[tuple[slice, ...]]) -> tuple[Int[np.ndarray, "s 2"], Int[np.ndarray, "s 2"]]:
    """First row and column of each box, and the ones after its last."""
    low = [[axis.start for axis in box] for box in boxes]
    high = [[axis.stop for axis in box] for box in boxes]
    return np.asarray(low, np.int64).reshape(-1, 2), np.asarray(high, np.int64).reshape(-1, 2)


def _between(m: Matches, i: int, j: int, here: tuple[slice, ...], there: tuple[slice, ...]) -> float:
    """Hausdorff distance of true instance i and predicted instance j, whose boxes are known."""
    a, b = m.points[0][i], m.points[1][j]
    if len(a) * len(b) <= FEW:
        pairwise = cdist(a, b)
        return float(max(pairwise.min(1).max(), pairwise.min(0).max()))
    window = tuple(slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(here, there, strict=True))
    return farthest(m.truth[window] == i + 1, m.prediction[window] == j + 1)


def _points(image: Int[np.ndarray, "h w"]) -> list[np.ndarray]:
    """Row and column of the pixels of each instance, [p, 2]."""
    places = np.argwhere(image)
    number = image[image > 0]
    order = np.argsort(number, kind="stable")
    return np.split(places[order], np.flatnonzero(np.diff(number[order])) + 1)


def _in_window(one: Bool[np.ndarray, "h w"], others: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "k"]:
    """Instances of `others` (counted from 0) in the first window around the centre of `one` that holds any."""
    y, x = (int(v) for v in np.argwhere(one).mean(0))
    for half in WINDOWS:
        found = np.unique(others[max(0, y - half) : y + half, max(0, x - half) : x + half])
        if found[-1:].any():
            return found[found > 0] - 1
    return np.zeros(0, np.int64)


def _object(
    what: str, prediction: Maps, truth: Maps, average: Average, weight: Weight, nearest: Nearest = "image"
) -> Value:
    terms = np.asarray([object_terms(m, what, nearest) for m in _matches(prediction, truth)])
    if average == "pooled":
        return finish(object_of(summed(terms, weight), what), weight, NO_OBJECT)
    return mean_of(mean_terms(object_of(terms, what)), weight, NO_OBJECT)


def _matches(prediction: Maps, truth: Maps) -> list[Matches]:
    return [match(p, t) for p, t in pairs(prediction, truth)]


def _numbered(image: np.ndarray, what: str) -> Int[np.ndarray, "h w"]:
    values = as_instances(image, what)
    if values.max() > 4 * values.size:  # ids that are no counts: a table of them would not fit
        found, number = np.unique(values, return_inverse=True)
        return number.reshape(image.shape) + (found[0] != 0)
    present = np.bincount(values.ravel()) > 0
    present[0] = False
    return present.cumsum()[values]
