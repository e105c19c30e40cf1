"""Segmentation metrics: what must hold for any masks, and SciPy's and scikit-learn's values."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from milkit.metrics import segmentation as seg
from milkit.metrics.segmentation.curves import levels

MODES = ("exact", "exact_border", "hd95", "hd95_pooled", "opencv_rank")


def blobs(seed: int, shape=(24, 31), level: float = 0.0) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > level


def framed(image: np.ndarray, by: tuple[int, int] = (9, 9)) -> np.ndarray:
    """The image within a larger empty one, its corner at `by`."""
    height, width = image.shape
    out = np.zeros((height + 18, width + 18), image.dtype)
    out[by[0] : by[0] + height, by[1] : by[1] + width] = image
    return out


SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_scipy_and_scikit_learn(seed):
    a, b = blobs(seed), blobs(seed + 50, level=0.05)
    points = np.argwhere(a), np.argwhere(b)
    both = directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0]
    assert seg.hausdorff(a, b) == pytest.approx(max(both), rel=1e-12)
    assert seg.dice(a, b) == pytest.approx(f1_score(b.ravel(), a.ravel()), rel=1e-12)
    assert seg.iou(a, b) == pytest.approx(jaccard_score(b.ravel(), a.ravel()), rel=1e-12)
    eight_bit = np.random.default_rng(seed).integers(0, 256, b.shape) / 255
    assert seg.pixel_auroc(eight_bit, b) == pytest.approx(roc_auc_score(b.ravel(), eight_bit.ravel()), rel=1e-12)
    ap = average_precision_score(b.ravel(), eight_bit.ravel())
    assert seg.pixel_auprc(eight_bit, b) == pytest.approx(ap, rel=1e-12)


def test_an_8_bit_map_loses_nothing_and_a_cut_at_a_half_is_a_level():
    values = np.arange(256)
    assert levels(values / 255).tolist() == values.tolist()
    assert levels(np.float32(values) / np.float32(255)).tolist() == values.tolist()
    floats = np.random.default_rng(0).uniform(size=(9, 9))
    assert ((levels(floats) >= 128) == (floats >= 0.5)).all()


def test_the_auroc_of_floats_lies_within_the_bounds_of_its_histogram():
    rng = np.random.default_rng(3)
    truth = blobs(1)
    saturated = (truth * 0.5 + rng.uniform(size=truth.shape)) * 0.01  # all in the lowest four of 256 levels
    exact = roc_auc_score(truth.ravel(), saturated.ravel())
    coarse, fine = (seg.auroc_bounds(seg.histograms(saturated, truth, bins=b)) for b in (256, 1 << 16))
    assert coarse.low <= exact <= coarse.high
    assert fine.low <= exact <= fine.high
    assert fine.high - fine.low < (coarse.high - coarse.low) / 10


@pytest.mark.parametrize("seed", SEEDS)
def test_dice_is_a_function_of_iou_where_pooled(seed):
    a, b = [blobs(seed), blobs(seed + 9)], [blobs(seed + 50), blobs(seed + 59)]
    weight = np.random.default_rng(seed).integers(1, 4, (6, 2)).astype(float)
    overlap = seg.iou(a, b, weight=weight)
    assert seg.dice(a, b, weight=weight) == pytest.approx(2 * overlap / (1 + overlap))
    assert seg.iou(a, b, average="image") <= seg.dice(a, b, average="image")


@pytest.mark.parametrize("seed", SEEDS)
def test_prediction_and_truth_in_each_others_place(seed):
    a, b = blobs(seed), blobs(seed + 50)
    metrics = [
        seg.dice,
        seg.iou,
        seg.miou,
        seg.accuracy,
        *(lambda p, t, m=m: seg.hausdorff(p, t, mode=m) for m in MODES),
    ]
    for metric in metrics:
        assert metric(a, b) == pytest.approx(metric(b, a), rel=1e-12)
    first, second = seg.instances(a), seg.instances(b)
    for metric in (seg.object_dice, seg.object_iou, seg.object_hausdorff):
        assert metric(first, second) == pytest.approx(metric(second, first), rel=1e-12)


def test_a_mask_and_itself():
    a = blobs(2)
    for metric in (seg.dice, seg.iou, seg.miou, seg.accuracy):
        assert metric(a, a) == 1.0
    assert [seg.hausdorff(a, a, mode=m) for m in MODES] == [0.0] * 5
    one = seg.instances(a)
    assert (seg.aji(one, one), seg.object_dice(one, one), seg.object_hausdorff(one, one)) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("shift", [(0, 1), (3, 4), (-5, 2)])
def test_the_distance_of_a_moved_point_and_square_is_the_shift(shift):
    for side in (1, 4):
        image = np.ones((side, side), bool)
        a, b = framed(image), framed(image, (9 + shift[0], 9 + shift[1]))
        for mode in ("exact", "opencv_rank") if side > 1 else MODES:
            expected = np.hypot(*shift)
            if side > 1 and mode == "opencv_rank":
                assert seg.hausdorff(a, b, mode=mode) <= expected + 1e-12  # of one corner, not of the farthest
            else:
                assert seg.hausdorff(a, b, mode=mode) == pytest.approx(expected)


@pytest.mark.parametrize("mode", MODES)
def test_where_the_pair_lies_does_not_matter(mode):
    a, b = blobs(5), blobs(55)
    # the frame makes borders of the image's edge ones against background, which they were before
    assert seg.hausdorff(framed(a), framed(b), mode=mode) == pytest.approx(seg.hausdorff(a, b, mode=mode))
    moved = seg.hausdorff(framed(a, (0, 18)), framed(b, (0, 18)), mode=mode)
    assert moved == pytest.approx(seg.hausdorff(a, b, mode=mode))


def test_turning_images_changes_no_distance_but_opencvs():
    a, b = blobs(6), blobs(56)
    for mode in MODES[:4]:
        for turned in (np.rot90, np.flipud, np.transpose):
            assert seg.hausdorff(turned(a), turned(b), mode=mode) == pytest.approx(seg.hausdorff(a, b, mode=mode))
    found = {round(float(seg.hausdorff(np.rot90(a, k), np.rot90(b, k), mode="opencv_rank")), 6) for k in range(4)}
    assert len(found) > 1  # its value depends on the order of points: it is no distance of the masks


def test_the_order_of_images_does_not_matter():
    predicted, truth = [blobs(i, level=0.02) for i in range(5)], [blobs(i + 50) for i in range(5)]
    truth[2] = np.zeros_like(truth[2])
    soft = [np.clip(p + np.random.default_rng(i).normal(size=p.shape) * 0.3, 0, 1) for i, p in enumerate(predicted)]
    wanted = seg.Wanted(distances=MODES, instances=True)
    forward, backward = (seg.summarise(seg.image_statistics(soft[::s], truth[::s], wanted)) for s in (1, -1))
    assert forward == pytest.approx(backward, rel=1e-12)


def test_other_numbers_for_the_same_instances_change_nothing():
    wide = (50, 60)
    predicted, truth = seg.instances(blobs(7, wide, level=0.1)), seg.instances(blobs(8, wide, level=0.08))
    assert min(predicted.max(), truth.max()) > 5
    rng = np.random.default_rng(0)
    for highest in (100, 200, 10**9):
        names = np.r_[0, highest + 1 - rng.permutation(np.arange(1, 100))[: predicted.max()]]
        other = np.r_[0, rng.permutation(np.arange(1, 200))[: truth.max()]]
        for metric in (seg.aji, seg.object_dice, seg.object_iou, seg.object_hausdorff):
            assert metric(names[predicted], other[truth]) == pytest.approx(metric(predicted, truth), rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_of_a_mask_and_of_a_map_of_values(seed):
    """Two ways to the same numbers: SciPy's labels for one value, a graph of equal neighbours for several."""
    mask = blobs(seed, (30, 40), level=0.1)
    beside = np.zeros((30, 2), int)
    beside[-1, -1] = 7  # a second value, in a corner of its own
    several = np.concatenate([mask.astype(int), beside], 1)
    found = seg.instances(several)
    assert found[-1, -1] == found.max()
    found[-1, -1] = 0
    np.testing.assert_array_equal(found[:, :40], seg.instances(mask))


@pytest.mark.parametrize("seed", SEEDS)
def test_object_distance_by_all_pairs(seed):
    """The partner of an instance without overlap is found by a bound on the distance; here by trying all."""
    predicted, truth = seg.instances(blobs(seed, level=0.15)), seg.instances(blobs(seed + 50, level=0.12))

    def one_side(a, b):
        total = 0.0
        for i in range(1, a.max() + 1):
            mine = np.argwhere(a == i)
            overlap = np.bincount(b[a == i], minlength=b.max() + 1)[1:]
            partners = [overlap.argmax() + 1] if overlap.any() else range(1, b.max() + 1)
            theirs = [np.argwhere(b == j) for j in partners]
            each = [max(directed_hausdorff(mine, t)[0], directed_hausdorff(t, mine)[0]) for t in theirs]
            total += len(mine) * min(each)
        return total / (a > 0).sum()

    expected = (one_side(truth, predicted) + one_side(predicted, truth)) / 2
    assert seg.object_hausdorff(predicted, truth) == pytest.approx(expected, rel=1e-12)


def test_padding_by_background_leaves_overlap_alone():
    a, b = blobs(8), blobs(58)
    assert seg.dice(framed(a), framed(b)) == seg.dice(a, b)
    assert seg.aji(framed(seg.instances(a)), framed(seg.instances(b))) == seg.aji(seg.instances(a), seg.instances(b))


def test_images_of_different_sizes_stand_beside_each_other():
    truth = [blobs(1, (8, 9)), blobs(2, (30, 5)), np.ones((1, 1), bool)]
    soft = [t * 0.8 for t in truth]
    assert seg.dice(soft, truth) == seg.f1_pos(soft, truth) == 1.0
    assert seg.hausdorff(soft, truth) == 0.0
    assert seg.pixel_auroc(soft, truth) == 1.0
