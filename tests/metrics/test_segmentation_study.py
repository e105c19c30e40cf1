"""Statistics of images, their sums over patients, and the intervals and paired tests that rest on them."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from milkit.errors import DataError
from milkit.metrics import segmentation as seg
from milkit.metrics.intervals import bootstrap_counts, corrected_resampled_t, percentile_interval

WANTED = seg.Wanted(distances=("exact", "hd95", "opencv_rank"), instances=True)
DRAWS = 40


def images(n: int, noise: float, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Soft predictions and truths of n images; each fifth truth has no foreground."""
    rng = np.random.default_rng(seed)
    truth = [gaussian_filter(rng.normal(size=(14, 17)), 2) > (9 if i % 5 == 4 else 0.05) for i in range(n)]
    soft = [np.clip(0.2 + 0.6 * t + noise * rng.normal(size=t.shape), 0, 1) for t in truth]
    return soft, truth


@pytest.fixture(scope="module")
def statistics() -> seg.ImageStatistics:
    return seg.image_statistics(*images(12, 0.2), WANTED)


def same(a: dict, b: dict) -> None:
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-10, err_msg=name)


def test_summary_is_what_the_functions_give(statistics):
    soft, truth = images(12, 0.2)
    found = seg.summarise(statistics)
    hard = [s >= 0.5 for s in soft]
    called, true = [seg.instances(h) for h in hard], [seg.instances(t) for t in truth]
    expected = {
        "iou": seg.iou(soft, truth),
        "dice": seg.dice(soft, truth),
        "miou": seg.miou(soft, truth),
        "accuracy": seg.accuracy(soft, truth),
        "auroc": seg.pixel_auroc(soft, truth),
        "auprc": seg.pixel_auprc(soft, truth),
        "prevalence": seg.pixel_prevalence(truth),
        "iou_per_image": seg.iou(soft, truth, average="image"),
        "dice_per_image": seg.dice(soft, truth, average="image"),
        "f1_pos": seg.f1_pos(soft, truth),
        "f1_neg": seg.f1_neg(soft, truth),
        "auroc_per_image": seg.pixel_auroc(soft, truth, average="image"),
        "auprc_per_image": seg.pixel_auprc(soft, truth, average="image"),
        "pointing_game": seg.pointing_game(soft, truth),
        "hausdorff": seg.hausdorff(soft, truth, empty="diagonal"),
        "hd95": seg.hausdorff(soft, truth, mode="hd95", empty="diagonal"),
        "hausdorff_opencv_rank": seg.hausdorff(soft, truth, mode="opencv_rank"),
        "aji": seg.aji(called, true, average="pooled"),
        "aji_per_image": seg.aji(called, true),
    }
    for name in ("object_dice", "object_iou", "object_hausdorff"):
        expected[name] = getattr(seg, name)(called, true, average="pooled")
        expected[f"{name}_per_image"] = getattr(seg, name)(called, true)
    same(found, expected)
    assert all(np.isfinite(v) for v in found.values())


def test_one_image_at_a_time_is_the_same(statistics):
    one_by_one = seg.stack([seg.image_statistics(s, t, WANTED) for s, t in zip(*images(12, 0.2), strict=True)])
    same(seg.summarise(one_by_one), seg.summarise(statistics))


def test_a_weight_is_a_copy(statistics):
    soft, truth = images(12, 0.2)
    rng = np.random.default_rng(1)
    weight = rng.integers(0, 3, (3, 12)).astype(float)
    drawn = seg.summarise(statistics, weight)
    for i, w in enumerate(weight.astype(int)):
        copies = [np.repeat(np.arange(12), w)][0]
        copied = seg.image_statistics([soft[j] for j in copies], [truth[j] for j in copies], WANTED)
        same({k: v[i] for k, v in drawn.items()}, seg.summarise(copied))


def test_patients_are_the_sums_of_their_images(statistics):
    patient = np.arange(12) % 5
    weight = np.random.default_rng(2).integers(0, 3, (4, 5)).astype(float) + np.eye(4, 5)
    patients = seg.per_patient(statistics, patient, 5)
    same(seg.summarise(patients, weight), seg.summarise(statistics, weight[:, patient]))


def test_classes_have_names_of_their_own():
    rng = np.random.default_rng(0)
    called, truth = rng.integers(0, 3, (2, 4, 8, 8))
    truth[0, 0] = 255
    found = seg.summarise(seg.image_statistics(called, truth, seg.Wanted(classes=3, ignore=255)))
    assert list(found)[:6] == ["iou:1", "dice:1", "iou:2", "dice:2", "miou", "accuracy"]
    assert found["dice:2"] == pytest.approx(seg.dice(called, truth, label=2, classes=3, ignore=255))
    assert found["iou_per_image:1"] == pytest.approx(seg.iou(called, truth, classes=3, ignore=255, average="image"))


def test_instance_maps_of_ones_own():
    """Touching nuclei have numbers that connected parts would not tell apart."""
    truth = np.zeros((6, 6), int)
    truth[1:5, 1:3], truth[1:5, 3:5] = 1, 2
    found = seg.summarise(
        seg.image_statistics(truth > 0, truth > 0, WANTED, predicted_instances=truth > 0, true_instances=truth)
    )
    assert found["object_dice"] == pytest.approx(seg.object_dice(truth > 0, truth))
    assert found["aji"] == pytest.approx(seg.aji(truth > 0, truth)) == pytest.approx((8 + 8) / (16 + 16))
    assert found["dice"] == 1.0


def test_micrometres():
    soft, truth = images(4, 0.2)
    in_px, in_um = (
        seg.summarise(seg.image_statistics(soft, truth, seg.Wanted(distances=("hd95",), instances=True, mpp=mpp)))
        for mpp in (None, 0.5)
    )
    for name in ("hd95", "object_hausdorff", "object_hausdorff_per_image"):
        assert in_um[name] == pytest.approx(in_px[name] / 2)
    assert in_um["object_dice"] == in_px["object_dice"]


def test_a_model_that_finds_nothing_stays_in_its_own_mean():
    _, truth = images(5, 0.0)
    found = seg.summarise(seg.image_statistics([np.zeros(t.shape) for t in truth], truth, WANTED))
    assert found["hausdorff"] == found["hd95"] == pytest.approx(math.hypot(13, 16))
    assert found["object_hausdorff_per_image"] == pytest.approx(math.hypot(13, 16))
    assert found["f1_pos"] == found["dice"] == found["aji"] == found["object_dice"] == 0.0
    assert found["f1_neg"] == 1.0


def runs(noise: float, seeds=(0,), wanted=WANTED) -> list[seg.SegmentationRun]:
    """Three splits of 8 images of 4 patients each; a patient's images lie together."""
    out = []
    for split in range(3):
        _, truth = images(8, 0.0, seed=split)
        for seed in seeds:
            rng = np.random.default_rng(100 * split + seed)
            soft = [np.clip(0.2 + 0.6 * t + noise * rng.normal(size=t.shape), 0, 1) for t in truth]
            patient = np.repeat(np.arange(4), 2) + 4 * split
            out.append(seg.SegmentationRun(seg.image_statistics(soft, truth, wanted), patient, split, 8))
    return out


PLAIN = seg.Wanted()


def test_both_intervals_by_a_plain_computation():
    """Second computation: image by image, draw by draw, with the functions of one metric."""
    found = seg.segmentation_estimates(runs(0.3), draws=DRAWS, seed=3)
    counts = bootstrap_counts(12, DRAWS, 3)
    for name, metric in (("dice", seg.dice), ("f1_pos", seg.f1_pos), ("auroc", seg.pixel_auroc)):
        values, drawn = [], np.full((3, DRAWS), np.nan)
        for split in range(3):
            _, truth = images(8, 0.0, seed=split)
            rng = np.random.default_rng(100 * split)
            soft = [np.clip(0.2 + 0.6 * t + 0.3 * rng.normal(size=t.shape), 0, 1) for t in truth]
            values.append(float(metric(soft, truth)))
            for d in range(DRAWS):
                copies = np.repeat(np.arange(8), counts[d, np.repeat(np.arange(4), 2) + 4 * split].astype(int))
                if len(copies):
                    drawn[split, d] = metric([soft[j] for j in copies], [truth[j] for j in copies])
        value = np.mean(values)
        assert found[name].value == pytest.approx(value)
        sampling, _ = percentile_interval(np.nanmean(drawn, 0), float(value))
        procedure, _ = corrected_resampled_t(np.asarray(values), 4, 8)
        assert found[name].sampling == pytest.approx(sampling.within((0.0, 1.0)))
        assert found[name].procedure == pytest.approx(procedure.within((0.0, 1.0)))


def test_copies_of_seeds_and_of_images_add_no_patients():
    once = seg.segmentation_estimates(runs(0.3, wanted=PLAIN), draws=DRAWS)
    seeds = seg.segmentation_estimates([r for r in runs(0.3, wanted=PLAIN) for _ in range(3)], draws=DRAWS)
    twice = [
        seg.SegmentationRun(seg.stack([r.images, r.images]), np.r_[r.patient, r.patient], r.split, 8)
        for r in runs(0.3, wanted=PLAIN)
    ]
    doubled = seg.segmentation_estimates(twice, draws=DRAWS)
    for name in once:
        for other in (seeds[name], doubled[name]):
            assert other.value == pytest.approx(once[name].value)
            assert other.sampling == pytest.approx(once[name].sampling)
            assert other.procedure == pytest.approx(once[name].procedure)


def test_intervals_say_why_there_is_none():
    one = runs(0.3, wanted=PLAIN)[:1]
    found = seg.segmentation_estimates(one, draws=DRAWS)["dice"]
    assert found.sampling is not None
    assert found.procedure is None
    assert "at least 2 splits" in found.procedure_note
    unknown = [seg.SegmentationRun(r.images, r.patient, r.split) for r in runs(0.3, wanted=PLAIN)]
    assert "training patients is not known" in seg.segmentation_estimates(unknown, draws=DRAWS)["dice"].procedure_note
    _, truth = images(4, 0.0)
    positive = seg.SegmentationRun(seg.image_statistics(truth, truth), np.arange(4))
    found = seg.segmentation_estimates([positive], draws=DRAWS)["f1_neg"]
    assert math.isnan(found.value)
    assert found.sampling is None
    assert "undefined in 40 of 40" in found.sampling_note


def test_a_model_against_itself_and_against_a_worse_one():
    good, bad = runs(0.2, wanted=PLAIN), runs(0.6, seeds=(5, 6), wanted=PLAIN)
    for difference in seg.compare_segmentations(good, good, draws=DRAWS).values():
        assert difference.sampling.difference == difference.procedure.difference == 0.0
        assert difference.sampling.verdict == difference.procedure.verdict == "indistinguishable"
    found = seg.compare_segmentations(good, bad, draws=200)
    a, b = (seg.segmentation_estimates(r, draws=DRAWS) for r in (good, bad))
    for name in ("dice", "f1_pos", "auroc", "miou"):
        assert found[name].sampling.difference == pytest.approx(a[name].value - b[name].value)
        assert found[name].procedure.difference == pytest.approx(a[name].value - b[name].value)
        assert found[name].sampling.verdict == "different"
        assert found[name].sampling.low > 0
    assert found["prevalence"].sampling.p == 1.0
    reverse = seg.compare_segmentations(bad, good, draws=200)["dice"].sampling
    forward = found["dice"].sampling
    assert (reverse.low, reverse.high, reverse.p) == pytest.approx((-forward.high, -forward.low, forward.p))


def test_a_comparison_needs_the_same_images():
    first, second = runs(0.2, wanted=PLAIN), runs(0.3, wanted=PLAIN)
    with pytest.raises(DataError, match="same splits"):
        seg.compare_segmentations(first, second[:2])
    r = second[0]
    other = seg.SegmentationRun(r.images, r.patient[::-1].copy(), r.split, 8)
    with pytest.raises(DataError, match="patients differ"):
        seg.compare_segmentations(first, [other, *second[1:]])
    soft, truth = images(8, 0.1, seed=17)
    other = seg.SegmentationRun(seg.image_statistics(soft, truth), r.patient, 0, 8)
    with pytest.raises(DataError, match="truths differ"):
        seg.compare_segmentations(first, [other, *second[1:]])


def test_bad_input_of_studies():
    r = runs(0.2, wanted=PLAIN)[0]
    with pytest.raises(DataError, match="Expected one an image"):
        seg.SegmentationRun(r.images, r.patient[:3])
    with pytest.raises(DataError, match="negative number"):
        seg.SegmentationRun(r.images, r.patient - 1)
    with pytest.raises(DataError, match="No runs"):
        seg.segmentation_estimates([])
    with pytest.raises(DataError, match="no images"):
        seg.stack([])
    with pytest.raises(DataError, match="differ in what was measured"):
        seg.stack([r.images, seg.image_statistics(*images(2, 0.1), WANTED)])
