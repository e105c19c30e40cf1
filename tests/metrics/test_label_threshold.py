"""The cut that labels of images choose: worked by hand."""

import math

import numpy as np
import pytest

from milkit.errors import DataError
from milkit.metrics.segmentation.label_threshold import (
    ALL_ALIKE,
    NO_BETTER,
    NO_IMAGES,
    label_threshold,
    level_counts,
    threshold_of_counts,
)


def flat(*levels: int) -> np.ndarray:
    """A map of one row whose pixels have these levels of 256."""
    return (np.array([levels]) + 0.5) / 256


def labels(*values: int) -> np.ndarray:
    return np.array(values)


def test_one_label_takes_the_middle_of_the_cuts_that_get_all_images_right():
    # share .25 of 4 pixels: more than one pixel must be called. Positive images: second highest 100 and 140, so a cut
    # up to 100 calls both; negative: second highest 40, so a cut above 40 calls it not. Best: 41 to 100, middle 70.5,
    # of which 71 is nearer .5
    maps = [flat(0, 90, 100, 200), flat(0, 0, 140, 141), flat(0, 10, 40, 255)]
    found = label_threshold(maps, labels(1, 1, 0), share=0.25)
    assert found.threshold == 71 / 256
    assert (found.lowest, found.highest) == (41 / 256, 100 / 256)
    assert (found.balanced_accuracy, found.images, found.note) == (1.0, 3, "")


def test_the_share_is_exceeded_not_reached():
    # two of four pixels are .5: with share .5 not called at any cut that leaves the other two out
    maps = [flat(10, 10, 200, 200), flat(10, 10, 10, 10)]
    assert label_threshold(maps, labels(1, 0), share=0.5).note == NO_BETTER
    found = label_threshold(maps, labels(1, 0), share=0.49)
    assert (found.lowest, found.highest) == (11 / 256, 200 / 256)


def test_balanced_accuracy_decides_not_accuracy():
    # one negative (5) and three positives (3, 3, 9): accuracy would be 3/4 for a cut of 1 to 3 (all called), and 2/4
    # for 6 to 9; balanced: (1 + 0) / 2 = 1/2 against (1/3 + 1) / 2 = 2/3
    maps = [flat(5, 5), flat(3, 3), flat(3, 3), flat(9, 9)]
    found = label_threshold(maps, labels(0, 1, 1, 1), share=0.1)
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert (found.lowest, found.highest) == (6 / 256, 9 / 256)
    assert found.threshold == 8 / 256


def test_two_labels_bound_the_area_from_both_sides():
    # images of 4 pixels, share .25: foreground needs 2 called, background 2 not called.
    # A both: 50 60 180 190: background right from 61 on, foreground up to 180
    # B foreground only: 120 150 200 200; background is wrongly said from 151 on; foreground right up to 200
    # C background only: 20 20 30 140; foreground wrongly said up to 30; background right from 21 on
    # all right: 61 to 150, middle 105.5 -> 106
    maps = [flat(50, 60, 180, 190), flat(120, 150, 200, 200), flat(20, 20, 30, 140)]
    found = label_threshold(maps, labels(1, 1, 0), labels(1, 0, 1), share=0.25)
    assert found.balanced_accuracy == 1.0
    assert (found.lowest, found.highest, found.threshold) == (61 / 256, 150 / 256, 106 / 256)
    # by foreground alone the cut is free up to 180
    assert label_threshold(maps, labels(1, 1, 0), share=0.25).highest == 180 / 256


def test_a_label_that_all_images_share_takes_no_part():
    maps = [flat(50, 60, 180, 190), flat(120, 150, 200, 200)]
    found = label_threshold(maps, labels(1, 1), labels(1, 0), share=0.25)
    assert (found.lowest, found.highest, found.balanced_accuracy) == (61 / 256, 150 / 256, 1.0)


def test_of_two_plateaus_the_longer_then_the_one_nearer_the_middle():
    # positives 100 and 30, negatives 60 and 10 (one pixel each): cuts 11-30: sensitivity 1, specificity 1/2; 61-100:
    # 1/2 and 1
    maps = [flat(100), flat(30), flat(60), flat(10)]
    found = label_threshold(maps, labels(1, 1, 0, 0), share=0.0)
    assert (found.lowest, found.highest, found.balanced_accuracy) == (61 / 256, 100 / 256, 0.75)
    maps = [flat(80), flat(30), flat(60), flat(10)]  # 11-30 and 61-80: as long; the second is nearer 128
    assert label_threshold(maps, labels(1, 1, 0, 0), share=0.0).lowest == 61 / 256


def test_a_map_of_zeros_and_ones_keeps_one_half():
    found = label_threshold([flat(255, 0), flat(0, 0)], labels(1, 0), share=0.1)
    assert found.threshold == 0.5
    assert (found.lowest, found.highest) == (1 / 256, 255 / 256)


@pytest.mark.parametrize(
    ("maps", "label", "note"),
    [([], (), NO_IMAGES), ([flat(3), flat(9)], (1, 1), ALL_ALIKE), ([flat(9), flat(3)], (0, 1), NO_BETTER)],
)
def test_where_labels_cannot_choose_it_is_one_half_and_says_so(maps, label, note):
    found = label_threshold(maps, np.array(label, int), share=0.0)
    assert (found.threshold, found.note) == (0.5, note)
    assert math.isnan(found.balanced_accuracy)


def test_counts_are_all_it_needs_and_sizes_may_differ():
    maps = [flat(0, 90, 100, 200), np.tile(flat(0, 0, 140, 141), (7, 1)), flat(0, 10, 40, 255)]
    counts = np.stack([level_counts(m) for m in maps])
    assert counts.sum(1).tolist() == [4, 28, 4]
    assert counts[1, 140] == 7
    by_counts = threshold_of_counts(counts, labels(1, 1, 0), share=0.25)
    assert by_counts == label_threshold(maps, labels(1, 1, 0), share=0.25)


def test_what_does_not_fit():
    with pytest.raises(DataError, match="one label a map"):
        label_threshold([flat(1)], labels(1, 0))
    with pytest.raises(DataError, match="one label a map"):
        label_threshold([flat(1)], labels(2))
    with pytest.raises(DataError, match="less than 1"):
        label_threshold([flat(1)], labels(1), share=1.0)
