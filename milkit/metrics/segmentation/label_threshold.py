"""Where to cut maps, chosen by labels of validation images alone: no mask is looked at.

The rule is the definition of the label turned round. An image is labelled `foreground` if more than a share of it is
foreground; so with the right cut, more than that share of its map is called foreground, and not more in an image
without the label. The cut that gets most labels right (balanced accuracy) is taken. Labels of background, where
there are any, are the same rule on the other side: alone, a label of foreground bounds the called area from one side in
each image, together they bound it from both.

What it cannot do: a label says whether the area is above a share, not where it ends. A map that tells images apart may
be too wide or too narrow around each object at every cut that labels allow, and cuts between which no label changes
are alike to the rule. Labels that are all the same say nothing; the cut is then .5, and the note says so.

The labels must be of the foreground that masks show. A grade (benign, malignant) says nothing of where glands are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from milkit.errors import DataError
from milkit.metrics.draws import mean_of_defined, ratio
from milkit.metrics.segmentation.curves import BINS, levels
from milkit.metrics.segmentation.masks import as_probability

DEFAULT = 0.5
"""The cut where labels cannot choose one."""
ANY_SHARE = 0.01
"""For labels that mean *any* foreground. By the definition it would be 0, but then a single pixel decides about an
image and the cut is the highest noise of the negative ones; a hundredth of the image is no noise."""

NO_IMAGES = "there are no validation images with maps; the cut is 0.5"
ALL_ALIKE = "all validation images have the same labels, which cannot choose a cut; it is 0.5"
NO_BETTER = "no cut tells validation images apart better than chance; it is 0.5"


@dataclass(frozen=True)
class LabelThreshold:
    """A cut and how it was found.

    Attributes:
        threshold: pixels from here on are foreground; a multiple of 1 / 256, 0 to 1.
        balanced_accuracy: of image labels on the validation part at the cut; NaN where labels chose nothing.
        lowest, highest: ends of the plateau: cuts that do as well and lie next to it; how loosely labels hold it.
        images: validation images that it was chosen on.
        note: why it is .5; "" where labels chose it.
    """

    threshold: float
    balanced_accuracy: float
    lowest: float
    highest: float
    images: int
    note: str = ""


def label_threshold(
    maps: Sequence[np.ndarray],
    foreground: Shaped[np.ndarray, "_"],
    background: Shaped[np.ndarray, "_"] | None = None,
    *,
    share: float = ANY_SHARE,
) -> LabelThreshold:
    """The cut on probabilities under which the labels of images agree best with their maps.

    Args:
        maps: probability of foreground of each validation image (crop), [h, w] in [0, 1], of any sizes; where there
            is a map of each label, foreground's share of the two.
        foreground: 1 where an image is labelled as having foreground, else 0.
        background: likewise of background (OEEM's two labels); None where images have one label.
        share: an image has a class if more than this share of its pixels do, [0, 1): the `min_share` that labels of
            crops were made with; `ANY_SHARE` where a label means any foreground.

    Raises:
        DataError: other numbers of maps and labels, a label other than 0 and 1, a share outside [0, 1), no probability.
    """
    counts = [level_counts(one, i) for i, one in enumerate(maps)]
    return threshold_of_counts(np.array(counts, np.int64).reshape(-1, BINS), foreground, background, share=share)


def level_counts(map_: Shaped[np.ndarray, "h w"], index: int = 0) -> Int[np.ndarray, "256"]:
    """Pixels of a map at each of the 256 levels, floor(256 p): all that the choice needs of an image."""
    return np.bincount(levels(as_probability(map_, index)).ravel(), minlength=BINS)


def threshold_of_counts(
    counts: Int[np.ndarray, "n 256"],
    foreground: Shaped[np.ndarray, "_"],
    background: Shaped[np.ndarray, "_"] | None = None,
    *,
    share: float = ANY_SHARE,
) -> LabelThreshold:
    """As `label_threshold`, of images whose pixels were counted by `level_counts`.

    Of the cuts i / 256 with the highest balanced accuracy (of two labels: the mean of both's) the middle of the longest
    unbroken run is taken; of runs as long, the one nearest .5.
    """
    given = [foreground] if background is None else [foreground, background]
    labels = [_checked(label, len(counts)) for label in given]
    if not 0 <= share < 1:
        raise DataError(f"share is {share}; expected 0 or more, and less than 1.")
    if not len(counts):
        return _undecided(NO_IMAGES, 0)
    if (counts.sum(1) <= 0).any():
        raise DataError("A validation map has no pixel.")
    reached = counts[:, ::-1].cumsum(1)[:, ::-1] / counts.sum(1, keepdims=True)  # share of pixels at level i or above
    called = [reached > share, 1 - reached > share]
    scores = [balanced_accuracy(c, y) for c, y in zip(called, labels, strict=False) if 0 < y.sum() < len(y)]
    if not scores:
        return _undecided(ALL_ALIKE, len(counts))
    score = mean_of_defined(scores)
    best = float(score.max())
    if best <= 0.5 + 1e-12:
        return _undecided(NO_BETTER, len(counts))
    low, high = _plateau(score >= best - 1e-12)
    middle = min(((low + high) // 2, -(-(low + high) // 2)), key=lambda i: abs(i - BINS // 2))
    return LabelThreshold(middle / BINS, best, low / BINS, high / BINS, len(counts))


def balanced_accuracy(called: Bool[np.ndarray, "n t"], label: Bool[np.ndarray, "n"]) -> np.ndarray:
    """Mean of sensitivity and specificity of images at each cut, [t]; NaN for one class."""
    positive, negative = label.sum().astype(np.float64), (~label).sum().astype(np.float64)
    right = called[label].sum(0).astype(np.float64), (~called[~label]).sum(0).astype(np.float64)
    cuts = np.ones(called.shape[1])
    return (ratio(right[0], positive * cuts) + ratio(right[1], negative * cuts)) / 2


def _plateau(best: Bool[np.ndarray, "t"]) -> tuple[int, int]:
    """First and last level of the longest run of best ones; of runs as long, the one nearest the middle."""
    edges = np.flatnonzero(np.diff(np.r_[0, best.astype(np.int8), 0]))
    runs = [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
    return min(runs, key=lambda run: (run[0] - run[1], abs(run[0] + run[1] - BINS)))


def _checked(label: np.ndarray, n: int) -> Bool[np.ndarray, "n"]:
    if label.shape != (n,) or not np.isin(label, (0, 1)).all():
        raise DataError(f"{n} maps with labels of shape {label.shape}: expected one label a map, 0 or 1.")
    return label.astype(bool)


def _undecided(note: str, images: int) -> LabelThreshold:
    return LabelThreshold(DEFAULT, float("nan"), DEFAULT, DEFAULT, images, note)
