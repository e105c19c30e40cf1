"""Hausdorff distances of two masks: exact, 95th percentile, and what OpenCV's extractor computes.

| mode | points | value |
|---|---|---|
| `exact` | all pixels of foreground | the greatest distance from a pixel of one mask to the other mask |
| `exact_border` | border pixels | the same of the borders |
| `hd95` | border pixels | 95th percentile of the distances in each direction, the larger of the two |
| `hd95_pooled` | border pixels | 95th percentile of the distances of both directions together |
| `opencv_rank` | contour points | distance of the contour point at 60 % of the list, the larger of the two directions |

A border pixel is one of foreground with a 4-neighbour in the background or outside the image. `opencv_rank` is no
Hausdorff distance: OpenCV means to sort the distances, but sorts rows of one element each, so that the value is that of
an arbitrary point (its place in the contour list). It is here to compare with tables that were made with it.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from milkit.errors import DataError
from milkit.metrics.draws import Value, Weight
from milkit.metrics.segmentation.contours import contours
from milkit.metrics.segmentation.masks import Maps, as_classes, as_mask, pairs
from milkit.metrics.segmentation.terms import mean_of, mean_terms

Mode = Literal["exact", "exact_border", "hd95", "hd95_pooled", "opencv_rank"]
Empty = Literal["undefined", "diagonal"]

NO_PAIR = "no image has foreground both in its truth and in its prediction"
NO_TRUTH = "no image has foreground in its truth"


def hausdorff(
    prediction: Maps,
    truth: Maps,
    *,
    mode: Mode = "exact",
    mpp: float | None = None,
    threshold: float = 0.5,
    empty: Empty = "undefined",
    rank: float = 0.6,
    weight: Weight = None,
) -> Value:
    """Hausdorff distance of each image's prediction and truth, mean over images. Symmetric; 0 or more.

    Args:
        prediction: masks of 0 and 1, or probabilities.
        truth: masks of 0 and 1.
        mode: which distance; the module's text defines each.
        mpp: micrometres a pixel, which makes the distance one in micrometres; None leaves it in pixels.
        threshold: probabilities from here on are foreground.
        empty: `undefined` leaves out an image where either mask has no foreground. `diagonal` leaves out an image only
            where the truth has none, and gives the image's diagonal, the greatest distance there can be, to one where
            nothing was found: so finding nothing does not take an image out of a model's mean. `opencv_rank` has a
            rule of its own: a mask without foreground is the point (0, 0), so two of them have distance 0.
        rank: `opencv_rank` only: the place in the list of points, as a share of it.
        weight: of images, [n] or [draws, n].

    Raises:
        DataError: sizes that differ, values other than 0 and 1, or an mpp that is not positive.

    References:
        Huttenlocher et al. (1993), Comparing images using the Hausdorff distance. `opencv_rank`: Li et al. (2023),
        Qian et al. (2022) report it.
    """
    if mpp is not None and not 0 < mpp < math.inf:
        raise DataError(f"mpp is {mpp}. Expected micrometres a pixel, above 0.")
    values = [
        distance(as_mask(p, threshold, f"Prediction {i}"), as_classes(t, 2, f"Truth {i}") == 1, mode, empty, rank)
        for i, (p, t) in enumerate(pairs(prediction, truth))
    ]
    reason = NO_PAIR if empty == "undefined" else NO_TRUTH
    return mean_of(mean_terms(np.asarray(values) * (mpp or 1.0)), weight, reason)


def distance(
    prediction: Bool[np.ndarray, "h w"],
    truth: Bool[np.ndarray, "h w"],
    mode: Mode = "exact",
    empty: Empty = "undefined",
    rank: float = 0.6,
) -> float:
    """The distance of one image in pixels; NaN where it is undefined (see `hausdorff`)."""
    return distances(prediction, truth, (mode,), empty, rank)[0]


def distances(
    prediction: Bool[np.ndarray, "h w"],
    truth: Bool[np.ndarray, "h w"],
    modes: Sequence[Mode],
    empty: Empty = "undefined",
    rank: float = 0.6,
) -> list[float]:
    """Several distances of one image, for little more than the price of one.

    Raises:
        DataError: a mode that does not exist, or a rank outside 0 to 1.
    """
    for mode in modes:
        if mode not in get_args(Mode):
            raise DataError(f"There is no Hausdorff mode {mode!r}: choose of {', '.join(get_args(Mode))}.")
    if not 0 <= rank <= 1:
        raise DataError(f"rank is {rank}. Expected a share of the contour points, 0 to 1.")
    if prediction.any() and truth.any():
        ways = _Ways.of(prediction, truth) if set(modes) - {"opencv_rank"} else None
        return [ways.value(m) if m != "opencv_rank" and ways else _opencv_rank(prediction, truth, rank) for m in modes]
    missed = empty == "diagonal" and bool(truth.any())
    nothing = math.hypot(truth.shape[0] - 1, truth.shape[1] - 1) if missed else math.nan
    return [_opencv_rank(prediction, truth, rank) if m == "opencv_rank" else nothing for m in modes]


def border(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels of foreground with a 4-neighbour in the background or outside the image."""
    framed = np.pad(mask, 1)
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~inside


def farthest(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """Hausdorff distance of all pixels of two masks that both have some."""
    return _Ways.of(a, b).value("exact")


class _Ways(NamedTuple):
    """Distances of the border pixels of each mask to the other's border, and of its pixels to the other mask."""

    borders: tuple[Float[np.ndarray, "p"], Float[np.ndarray, "q"]]
    pixels: tuple[Float[np.ndarray, "P"], Float[np.ndarray, "Q"]]

    @classmethod
    def of(cls, a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> "_Ways":
        either = a | b
        rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # cut first, but borders before that: the window's edge is not the image's
        p, q, a, b = border(a)[window], border(b)[window], a[window], b[window]
        to_a, to_b = distance_transform_edt(~p), distance_transform_edt(~q)
        # from outside a mask, its nearest pixel is one of its border
        return cls((to_b[p], to_a[q]), (np.where(b, 0.0, to_b)[a], np.where(a, 0.0, to_a)[b]))

    def value(self, mode: str) -> float:
        if mode == "exact":
            return float(max(d.max() for d in self.pixels))
        if mode == "exact_border":
            return float(max(d.max() for d in self.borders))
        if mode == "hd95_pooled":
            return float(np.percentile(np.concatenate(self.borders), 95))
        return float(max(np.percentile(d, 95) for d in self.borders))


def _opencv_rank(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"], rank: float) -> float:
    first, second = _points(a), _points(b)
    return max(_at_rank(first, second, rank), _at_rank(second, first, rank))


def _points(mask: Bool[np.ndarray, "h w"]) -> np.ndarray:
    found = contours(mask)
    return np.concatenate(found) if found else np.zeros((1, 2), np.int64)


def _at_rank(points: np.ndarray, others: np.ndarray, rank: float) -> float:
    """Distance to the nearest of `others` of one point: number int(rank * (n - 1)), rank a float32 as OpenCV has it."""
    place = int(float(np.float32(rank)) * (len(points) - 1))
    return float(cKDTree(others).query(points[place])[0])
