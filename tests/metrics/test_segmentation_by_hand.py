"""Segmentation metrics: values worked by hand, empties, bad input."""

import math

import numpy as np
import pytest

from milkit.errors import DataError
from milkit.metrics import segmentation as seg
from milkit.metrics.draws import why
from milkit.metrics.segmentation.contours import contours
from milkit.metrics.segmentation.statistics import Wanted


def mask(*rows: str) -> np.ndarray:
    """`mask(".#", "##")`: # is foreground."""
    return np.array([[c == "#" for c in row] for row in rows])


def numbers(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row.replace(".", "0")] for row in rows])


# tp 2, fp 1, fn 1, tn 5: Dice 4/6, IoU 2/4, background IoU 5/7
ONE = mask("##.", "#..", "..."), mask("##.", "...", "..#")
# tp 1, fp 0, fn 3, tn 0: Dice 2/5, IoU 1/4
TWO = mask("#.", ".."), mask("##", "##")


def test_one_image():
    predicted, truth = ONE
    assert seg.dice(predicted, truth) == pytest.approx(4 / 6)
    assert seg.iou(predicted, truth) == pytest.approx(2 / 4)
    assert seg.iou(predicted, truth, label=0) == pytest.approx(5 / 7)
    assert seg.miou(predicted, truth) == pytest.approx((2 / 4 + 5 / 7) / 2)
    assert seg.accuracy(predicted, truth) == pytest.approx(7 / 9)
    assert seg.confusions(predicted, truth).tolist() == [[[5.0, 1.0], [1.0, 2.0]]]


def test_pooled_is_not_the_mean_over_images():
    predicted, truth = [ONE[0], TWO[0]], [ONE[1], TWO[1]]
    assert seg.dice(predicted, truth, average="image") == pytest.approx((4 / 6 + 2 / 5) / 2)
    assert seg.dice(predicted, truth) == pytest.approx(2 * 3 / (2 * 3 + 1 + 4))
    assert seg.iou(predicted, truth, average="image") == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert seg.iou(predicted, truth) == pytest.approx(3 / 8)


def test_weights_are_copies_of_images_and_draws_come_first():
    predicted, truth = [ONE[0], TWO[0]], [ONE[1], TWO[1]]
    weight = np.array([[2.0, 1.0], [0.0, 1.0]])
    twice = seg.dice([ONE[0], *predicted], [ONE[1], *truth])
    assert seg.dice(predicted, truth, weight=weight) == pytest.approx([twice, 2 / 5])
    assert seg.f1_pos(predicted, truth, weight=weight) == pytest.approx([(4 / 6 * 2 + 2 / 5) / 3, 2 / 5])


def test_f1_of_positive_and_of_negative_images():
    nothing = mask("..", "..")
    predicted, truth = [ONE[0], nothing, mask("#.", "..")], [ONE[1], nothing, nothing]
    assert seg.f1_pos(predicted, truth) == pytest.approx(4 / 6)
    # the third: 3 of 4 background pixels found, none wrongly: 6 / 7
    assert seg.f1_neg(predicted, truth) == pytest.approx((1 + 6 / 7) / 2)
    assert seg.f1_pos(nothing, mask("#.", "..")) == 0.0
    assert seg.f1_neg(mask("##", "##"), nothing) == 0.0


def test_a_probability_at_the_threshold_is_foreground():
    probability = np.array([[0.5, 0.49], [0.3, 0.9]], np.float32)
    assert seg.dice(probability, mask("#.", ".#")) == 1.0
    assert seg.dice(probability, mask("##", "##"), threshold=0.3) == 1.0


def test_empty_masks_give_a_reason_or_the_stated_value():
    nothing, all_ = mask("..", ".."), mask("##", "##")
    for metric in (seg.dice, seg.iou):
        assert why(metric(nothing, nothing)) == "the class is in no truth mask and in no prediction"
        assert metric(nothing, nothing, average="image") == 1.0
        assert math.isnan(metric(nothing, nothing, average="image", empty=math.nan))
        assert metric(all_, nothing) == metric(nothing, all_) == 0.0
    assert "no image has a positive pixel" in why(seg.f1_pos(nothing, nothing))
    assert "no image is without" in why(seg.f1_neg(all_, all_))
    assert seg.miou(nothing, nothing) == 1.0  # of background alone: foreground is neither true nor called
    assert "only one class among the pixels" in why(seg.pixel_auroc(np.zeros((2, 2)), nothing))


def test_classes_and_what_is_ignored():
    predicted, truth = numbers("012", "012"), np.array([[0, 1, 1], [0, 255, 255]])
    assert seg.iou(predicted, truth, classes=3, ignore=255) == pytest.approx(1 / 2)
    assert seg.iou(predicted, truth, label=2, classes=3, ignore=255) == 0.0
    assert seg.miou(predicted, truth, classes=4, ignore=255) == pytest.approx((1 + 1 / 2 + 0) / 3)  # class 3 left out
    assert seg.accuracy(predicted, truth, classes=3, ignore=255) == pytest.approx(3 / 4)


def test_auroc_and_average_precision_of_pixels():
    probability = np.array([[0.9, 0.8, 0.3, 0.1]])
    truth = mask("#.#.")
    assert seg.pixel_auroc(probability, truth) == pytest.approx(3 / 4)
    assert seg.pixel_auprc(probability, truth) == pytest.approx((1 + 2 / 3) / 2)
    assert seg.pixel_prevalence(truth) == 0.5
    # two levels: .9 and .8 are ties, and so are .3 and .1
    assert seg.pixel_auroc(probability, truth, bins=2) == pytest.approx(1 / 2)
    assert seg.auroc_bounds(seg.histograms(probability, truth, bins=2)) == pytest.approx((1 / 4, 3 / 4))


def test_pooled_curves_compare_pixels_of_different_images():
    maps, truth = [np.array([[0.9, 0.8]]), np.array([[0.3, 0.1]])], [mask("#."), mask("#.")]
    assert seg.pixel_auroc(maps, truth, average="image") == 1.0
    assert seg.pixel_auroc(maps, truth) == pytest.approx(3 / 4)


def test_hausdorff_of_two_points_and_of_a_square():
    a, b = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    a[2, 3] = b[5, 7] = True
    for mode in ("exact", "exact_border", "hd95", "hd95_pooled", "opencv_rank"):
        assert seg.hausdorff(a, b, mode=mode) == pytest.approx(5.0)
    assert seg.hausdorff(a, b, mpp=0.5) == pytest.approx(2.5)
    a, b = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    a[0:11, 0:11] = b[0:11, 0:11] = True
    b[3:8, 3:8] = False
    # the hole is 5 wide: its centre, in a, is 3 from the nearest pixel of b; the hole's border runs 2 inside a's border
    assert seg.hausdorff(a, b) == 3.0
    assert seg.hausdorff(a, b, mode="exact_border") == 2.0


def test_hausdorff_without_foreground():
    nothing, some = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    some[1, 2] = True
    for mode in ("exact", "hd95"):
        assert "foreground" in why(seg.hausdorff(nothing, some, mode=mode))
        assert "foreground" in why(seg.hausdorff(nothing, nothing, mode=mode))
        assert seg.hausdorff(nothing, some, mode=mode, empty="diagonal") == pytest.approx(5.0)  # of 4 by 5 pixels
        assert "no image has foreground in its truth" in why(seg.hausdorff(some, nothing, mode=mode, empty="diagonal"))
    assert seg.hausdorff(nothing, nothing, mode="opencv_rank") == 0.0
    assert seg.hausdorff(nothing, some, mode="opencv_rank") == pytest.approx(math.hypot(1, 2))


def test_contours_keep_the_ends_of_runs():
    square = np.zeros((6, 7), bool)
    square[1:5, 2:6] = True
    assert [c.tolist() for c in contours(square)] == [[[2, 1], [2, 4], [5, 4], [5, 1]]]
    line, dot = mask("......", ".####.", "......"), mask("#")
    assert [c.tolist() for c in contours(line)] == [[[1, 1], [4, 1]]]
    assert [c.tolist() for c in contours(dot)] == [[[0, 0]]]
    assert contours(mask("..", "..")) == []
    ring = mask("#####", "##.##", "#####")  # the hole comes first: it was found last
    assert [c.tolist() for c in contours(ring)] == [
        [[1, 1], [2, 0], [3, 1], [2, 2]],
        [[0, 0], [0, 2], [4, 2], [4, 0]],
    ]


def test_instances_are_numbered_in_the_order_of_reading():
    # diagonal neighbours belong together; touching instances of different number do not
    assert seg.instances(mask("#.#", ".#.", "...", "#..")).tolist() == numbers("1.1", ".1.", "...", "2..").tolist()
    assert seg.instances(numbers("7733", "..3.", "7...")).tolist() == numbers("1122", "..2.", "3...").tolist()
    assert seg.instances(mask("...")).tolist() == [[0, 0, 0]]


# truth: 1 of 4 pixels, 2 of 3 pixels, 3 of 1; prediction: 1 of 4 (3 on truth 1), 2 of 2 on truth 2, 3 of 1 on nothing
TRUE = numbers("11.222", "11....", "....3.")
CALLED = numbers("11.22.", "1.....", "1.3...")


def test_aji():
    # 1: 3 / 5; 2: 2 / 3; 3: alone, 1; the predicted 3: 1
    assert seg.aji(CALLED, TRUE) == pytest.approx(5 / (5 + 3 + 1 + 1))
    # the true 3 takes the first predicted one: union 1 + 4
    assert seg.aji(CALLED, TRUE, unmatched="first") == pytest.approx(5 / (5 + 3 + 5 + 1))
    nothing = np.zeros_like(TRUE)
    assert seg.aji(nothing, TRUE) == 0.0
    assert "no image has an instance in its truth" in why(seg.aji(CALLED, nothing))
    assert seg.aji(CALLED, nothing, average="pooled") == 0.0
    assert seg.aji([CALLED, CALLED], [TRUE, nothing], average="pooled") == pytest.approx(5 / (10 + 7))


def test_object_dice_and_iou():
    first, second = 2 * 3 / 8, 2 * 2 / 5
    expected = (4 * first + 3 * second) / 8, (4 * first + 2 * second) / 7
    assert seg.object_dice(CALLED, TRUE) == pytest.approx(sum(expected) / 2)
    expected = (4 * 3 / 5 + 3 * 2 / 3) / 8, (4 * 3 / 5 + 2 * 2 / 3) / 7
    assert seg.object_iou(CALLED, TRUE) == pytest.approx(sum(expected) / 2)
    assert seg.object_dice(np.zeros_like(TRUE), TRUE) == 0.0
    assert "no image has an instance" in why(seg.object_dice(CALLED, np.zeros_like(TRUE)))


def test_object_hausdorff():
    # of the truth: 1 to 1: (1, 1) and (2, 0) are 1 from the other; 2 to 2: 1; 3 at (2, 4): to 3 at (2, 2) 2
    true = (4 * 1 + 3 * 1 + 1 * 2) / 8
    # of the prediction: 3 at (2, 2): nearest true 3 at (2, 4) is 2
    called = (4 * 1 + 2 * 1 + 1 * 2) / 7
    assert seg.object_hausdorff(CALLED, TRUE) == pytest.approx((true + called) / 2)
    assert seg.object_hausdorff(CALLED, TRUE, mpp=0.25) == pytest.approx((true + called) / 8)
    assert seg.object_hausdorff(CALLED, TRUE, nearest="window") == pytest.approx((true + called) / 2)
    # nothing called: the image's diagonal, not half of it
    assert seg.object_hausdorff(np.zeros_like(TRUE), TRUE) == pytest.approx(math.hypot(2, 5))


def test_pointing_game():
    truth = mask("#..", "...", "...")
    assert seg.pointing_game(np.array([[2.0, 1, 1], [0, 0, 0], [0, 0, 0]]), truth) == 1.0
    assert seg.pointing_game(np.array([[2.0, 2, 1], [0, 0, 0], [0, 0, 0]]), truth) == 0.5  # one of two highest
    late = np.array([[0.0, 0, 0], [0, 5, 0], [0, 0, 0]])
    assert seg.pointing_game([late, late], [truth, truth]) == 0.0
    assert seg.pointing_game(late, truth, tolerance=1.5) == 1.0
    assert "no image has a positive pixel" in why(seg.pointing_game(late, np.zeros((3, 3), bool)))


def test_auprc_of_instances():
    score, label = [np.array([0.9, 0.5]), np.array([0.2, 0.1, 0.05]), np.ones(2)], [[1, 0], [0, 1, 0], [0, 0]]
    label = [np.array(y) for y in label]
    assert seg.instance_auprc(score, label) == pytest.approx((1 + 1 / 2) / 2)  # the last bag has one kind only
    # falling: two 0s of score 1, then 1 (1/3), 0, 0, 1 (2/6), 0
    assert seg.instance_auprc(score, label, average="pooled") == pytest.approx((1 / 3 + 2 / 6) / 2)
    assert seg.instance_auprc(score, label, average="pooled", weight=np.array([1.0, 0.0, 0.0])) == 1.0
    assert "scores are not finite" in why(seg.instance_auprc([np.array([np.nan, 1.0])], [np.array([0, 1])]))


def test_pointing_at_instances():
    score = [np.array([0.9, 0.5]), np.array([0.3, 0.3, 0.1]), np.ones(2), np.array([0.1, 0.8])]
    label = [np.array(y) for y in ([1, 0], [0, 1, 1], [0, 0], [1, 0])]
    assert seg.instance_pointing(score, label) == pytest.approx((1 + 1 / 2 + 0) / 3)  # the third bag is negative
    assert seg.instance_pointing(score, label, weight=np.array([1.0, 0.0, 5.0, 0.0])) == 1.0
    assert "no bag has a positive" in why(seg.instance_pointing(score[2:3], label[2:3]))
    with pytest.raises(DataError, match="differ in number"):
        seg.instance_pointing(score[:2], label[1:3])


def test_froc():
    # two images, three lesions; falling: .9 hits lesion 1 of the first; .8 a false positive; .7 hits lesion 1 of the
    # second; .6 lesion 1 again, which is found already; .5 a region that does not count; .4 and .3 false positives
    score = [np.array([0.9, 0.8, 0.6, 0.5]), np.array([0.7, 0.4, 0.3])]
    lesion = [np.array([1, 0, 1, -1]), np.array([1, 0, 0])]
    # false positives an image 0, .5, .5, 1, 1.5 at sensitivities 1/3, 1/3, 2/3, 2/3, 2/3
    assert seg.froc(score, lesion, [2, 1], rates=[0.25, 1.0]) == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert seg.froc(score, lesion, [2, 1], rates=[8.0]) == pytest.approx(2 / 3)
    assert seg.froc(score, lesion, [2, 1], rates=[0.5]) == pytest.approx(2 / 3)  # the better of two thresholds there
    weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    drawn = seg.froc(score, lesion, [2, 1], rates=[8.0], weight=weight)
    assert drawn == pytest.approx([1 / 2, 1.0, 2 / 3])
    empty = np.zeros(0)
    assert seg.froc([empty], [empty.astype(int)], [2]) == 0.0
    assert why(seg.froc(score, [np.zeros(4, int), np.zeros(3, int)], [0, 0])) == "no image has a lesion"
    with pytest.raises(DataError, match="Image 0 has 0 lesions"):
        seg.froc(score, lesion, [0, 1])


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "prediction is (2, 3), its truth (3, 2)"),
        (np.zeros((2, 2)), np.array([[0, 255], [0, 0]]), "holds 255"),
        (np.array([[0.0, 1.5]]), np.zeros((1, 2)), "Expected probabilities in [0, 1]"),
        (np.array([[0.0, np.nan]]), np.zeros((1, 2)), "Expected probabilities in [0, 1]"),
        (np.zeros((1, 2)), np.array([[0.5, 1.0]]), "holds fractions"),
        (np.zeros((1, 2)), np.array([[np.nan, 1.0]]), "fractions or NaN"),
        (np.zeros((1, 2)), np.array([[1e300, 1.0]]), "fractions or NaN"),
        (np.zeros((2, 1, 2)), np.zeros((1, 1, 2)), "2 predictions, but 1 truth masks"),
        (np.zeros(3), np.zeros(3), "image 0 has shape (3,)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "at least one pixel"),
    ],
)
def test_bad_input_is_told_what_was_found(predicted, truth, expected):
    with pytest.raises(DataError) as error:
        seg.dice(predicted, truth)
    assert expected in str(error.value)


def test_other_bad_input():
    some = mask("#.")
    with pytest.raises(DataError, match="mpp is 0"):
        seg.hausdorff(some, some, mpp=0.0)
    with pytest.raises(DataError, match="share of the contour points"):
        seg.hausdorff(some, some, mode="opencv_rank", rank=60.0)
    with pytest.raises(DataError, match="Class 2 of 2"):
        seg.dice(some, some, label=2)
    with pytest.raises(DataError, match="negative numbers"):
        seg.aji(np.array([[-1, 0]]), np.array([[1, 0]]))
    with pytest.raises(DataError, match="not probabilities"):
        seg.pixel_auroc(np.array([[200, 0]], np.uint8), np.array([[1, 0]]))
    with pytest.raises(DataError, match="not finite"):
        seg.pointing_game(np.array([[np.inf, 0.0]]), np.array([[1, 0]]))
    with pytest.raises(DataError, match="two classes"):
        Wanted(classes=3, instances=True)
