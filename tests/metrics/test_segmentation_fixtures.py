"""Segmentation metrics against what published code gave on the same masks."""

import json

import numpy as np
import pytest

from milkit.metrics import segmentation as seg
from milkit.metrics.segmentation.distance import distance
from milkit.metrics.segmentation.pixels import dice_of, iou_of


def fixture(shared, name):
    return np.load(shared / "parity" / "pixel" / name, allow_pickle=False)


def test_f1_of_sa_mil(shared):
    f = fixture(shared, "f1_samil.npz")
    probability = [f[f"in/prob{i:02d}"] for i in range(16)]
    label = [f[f"in/label{i:02d}"] for i in range(16)]
    each = dice_of(seg.confusions(probability, label))
    # their scores are 0 where a class is neither in the label nor called
    np.testing.assert_allclose(np.nan_to_num(each[:, 1]), f["out64/f1_pos"], rtol=1e-12)
    np.testing.assert_allclose(np.nan_to_num(each[:, 0]), f["out64/f1_neg"], rtol=1e-12)
    positive = np.array([y.any() for y in label])
    assert seg.f1_pos(probability, label) == pytest.approx(f["out64/f1_pos"][positive].mean(), rel=1e-12)
    assert seg.f1_neg(probability, label) == pytest.approx(f["out64/f1_neg"][~positive].mean(), rel=1e-12)


@pytest.mark.parametrize(("name", "classes"), [("binary", 2), ("four", 4), ("absent", 5)])
def test_iou_and_dice_of_oeem(shared, name, classes):
    f = fixture(shared, "segmentation_metrics_oeem.npz")
    predicted, truth = f[f"in/{name}/pred"], f[f"in/{name}/label"]
    matrix = seg.confusions(predicted, truth, classes=classes, ignore=255)
    hit = np.diagonal(matrix, axis1=1, axis2=2)
    areas = np.stack([hit, matrix.sum(1) + matrix.sum(2) - hit, matrix.sum(1), matrix.sum(2)], 1)
    np.testing.assert_array_equal(areas, f[f"out/{name}/areas"])
    settings = {"classes": classes, "ignore": 255}
    for label in range(classes):
        own = seg.iou(predicted, truth, label=label, **settings), seg.dice(predicted, truth, label=label, **settings)
        np.testing.assert_allclose(own, [f[f"out64/{name}/{m}"][label] for m in ("iou", "dice")], rtol=1e-12)
    assert seg.miou(predicted, truth, **settings) == pytest.approx(float(f[f"out64/{name}/miou_nanmean"]), rel=1e-12)
    assert seg.accuracy(predicted, truth, **settings) == pytest.approx(float(f[f"out64/{name}/all_acc"]), rel=1e-12)
    # their F1 for training does not ignore 255: as a class of its own; their divisor is 1e-7 larger
    unseen = seg.confusions(predicted, np.where(truth == 255, classes, truth), classes=classes + 1)
    f1 = np.nan_to_num(dice_of(unseen.sum(0, keepdims=True))[0, :classes]).mean()
    assert f1 == pytest.approx(float(f[f"out64/{name}/cls_f1"]), rel=1e-9)


def test_their_mean_iou_of_validation_counts_absent_classes_as_zero(shared):
    f = fixture(shared, "segmentation_metrics_oeem.npz")
    matrix = seg.confusions(f["in/binary/pred"], f["in/binary/label"]).sum(0, keepdims=True)
    assert iou_of(matrix).mean() == pytest.approx(float(f["out64/binary/cls_valid_miou"]), rel=1e-9)


def masks(f, i: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = f["in/shape"][i]
    first, second = (np.unpackbits(f[f"in/{side}{i:02d}"])[: height * width].reshape(height, width) for side in "ab")
    return first.astype(bool), second.astype(bool)


def test_contours_are_those_of_opencv(shared):
    f = fixture(shared, "hausdorff_samil.npz")
    for i in range(len(f["in/shape"])):
        for mask, side in zip(masks(f, i), "ab", strict=True):
            found = seg.contours(mask)
            points = np.concatenate(found) if found else np.zeros((1, 2), int)
            np.testing.assert_array_equal(points, f[f"in/c{side}{i:02d}"])


@pytest.mark.parametrize(
    ("mode", "key"),
    [
        ("exact", "hausdorff_foreground_pixels"),
        ("exact_border", "hausdorff_border_pixels"),
        ("hd95", "hd95_max_of_directed"),
        ("hd95_pooled", "hd95_pooled"),
        ("opencv_rank", "rule_unsorted_point_K"),
    ],
)
def test_hausdorff_of_sa_mil(shared, mode, key):
    f = fixture(shared, "hausdorff_samil.npz")
    pairs = [masks(f, i) for i in range(len(f["in/shape"]))]
    found = [float(seg.hausdorff(a, b, mode=mode)) for a, b in pairs]
    np.testing.assert_allclose(found, f[f"out64/{key}"], rtol=1e-12)
    if mode == "opencv_rank":
        np.testing.assert_allclose(found, f["out/authors"], rtol=1e-6)
        np.testing.assert_allclose(found, f["out/authors_swapped"], rtol=1e-6)


def test_opencv_rank_at_other_ranks(shared):
    f = fixture(shared, "hausdorff_samil.npz")
    for i in (1, 2, 14, 25, 36, 37):
        a, b = masks(f, i)
        found = [distance(a, b, "opencv_rank", rank=float(r)) for r in f["in/rank_proportion"]]
        np.testing.assert_allclose(found, f["out/authors_by_rank_proportion"][i], rtol=1e-6)


def test_metrics_of_nuclei(shared):
    f = fixture(shared, "weak_nuclei_metrics.npz")
    assert f["in/metric_names"].tolist()[4:] == ["p_iou", "aji", "dice", "iou", "haus"]
    for i in range(10):
        predicted, truth = (f[f"in/{side}{i}"].astype(np.int64) for side in ("pred", "gt"))
        assert seg.iou(predicted > 0, truth > 0) == pytest.approx(f["out64/metrics"][i, 4], rel=1e-12)
        predicted, truth = seg.instances(predicted), seg.instances(truth)  # as their code does
        found = [
            seg.aji(predicted, truth, unmatched="first"),
            seg.object_dice(predicted, truth),
            seg.object_iou(predicted, truth),
            seg.object_hausdorff(predicted, truth, nearest="window"),
        ]
        np.testing.assert_allclose(found, f["out64/metrics"][i, 5:], rtol=1e-12, atol=1e-14)


def test_curves_of_the_oracle_file(shared):
    """Scores as 1 x n maps: exact where no two scores share a level, within the stated bounds where some do."""
    cases = json.loads((shared / "parity" / "pixel" / "metrics_oracle.json").read_text())["cases"]
    checked = 0
    for case in cases:
        if case["kind"] != "binary" or case["weight"] is not None or case["expected"]["auroc"] is None:
            continue
        score, y = np.asarray(case["score"], np.float64)[None], np.asarray(case["y"])[None]
        if score.min() < 0 or score.max() > 1:
            continue
        expected = case["expected"]
        low, high = seg.auroc_bounds(seg.histograms(score, y))
        assert low - 1e-12 <= expected["auroc"] <= high + 1e-12
        ranks = np.unique(score, return_inverse=True)[1].reshape(score.shape) / 1024  # the same order, no lost ties
        assert seg.pixel_auroc(ranks, y, bins=1024) == pytest.approx(expected["auroc"], rel=1e-12)
        assert seg.pixel_auprc(ranks, y, bins=1024) == pytest.approx(expected["average_precision"], rel=1e-12)
        checked += 1
    assert checked >= 5
