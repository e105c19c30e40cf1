"""Two models' maps of the same images: numbers by hand and by plain loops."""

import numpy as np
import pytest
import scipy.stats

from milkit.errors import DataError
from milkit.metrics import segmentation as seg
from milkit.metrics.intervals import bootstrap_counts, percentile_interval


def counts(*images: tuple[int, int, int, int]) -> np.ndarray:
    """tp, fp, fn, tn of each image -> [true, called]."""
    return np.array([[[tn, fp], [fn, tp]] for tp, fp, fn, tn in images], float)


A = counts((6, 2, 2, 10), (4, 0, 4, 12), (0, 0, 0, 20))
B = counts((8, 0, 0, 12), (2, 2, 6, 10), (0, 5, 0, 15))
PATIENT = np.array(["x", "y", "y"])


def test_values_by_hand():
    found = seg.paired([seg.from_confusion(A)], [seg.from_confusion(B)], PATIENT, draws=50)
    # pooled Dice: 20 / (20 + 2 + 6) and 20 / (20 + 7 + 6)
    assert (found["dice"].first, found["dice"].second) == (pytest.approx(20 / 28), pytest.approx(20 / 33))
    assert found["dice"].difference == pytest.approx(20 / 28 - 20 / 33)
    # means over images: (3/4 + 2/3 + 1) / 3 and (1 + 1/3 + 0) / 3
    assert found["dice_per_image"].difference == pytest.approx((3 / 4 + 2 / 3 + 1 - 1 - 1 / 3) / 3)
    assert found["f1_pos"].difference == pytest.approx((3 / 4 + 2 / 3 - 1 - 1 / 3) / 2)
    # mIoU: foreground 10/18, background 42/50; foreground 10/23, background 37/50
    assert found["miou"].difference == pytest.approx((10 / 18 + 42 / 50) / 2 - (10 / 23 + 37 / 50) / 2)
    assert list(found) == ["dice", "dice_per_image", "iou", "miou", "f1_pos", "f1_neg"]
    assert (found["dice"].patients, found["dice"].splits) == (2, 1)
    assert found["dice"].json()["procedure"]["p"] is None


def dice(c: np.ndarray, weight: np.ndarray) -> float:
    _, fp, fn, tp = np.einsum("n,nij->ij", weight, c).ravel()
    return 2 * tp / (2 * tp + fp + fn)


def many(seed: int, images: int = 12) -> np.ndarray:
    """Counts of images with 40 pixels of foreground and 60 of background."""
    rng = np.random.default_rng(seed)
    tp, fp = rng.integers(20, 40, images), rng.integers(0, 20, images)
    return counts(*zip(tp.tolist(), fp.tolist(), (40 - tp).tolist(), (60 - fp).tolist(), strict=True))


def test_both_models_are_in_the_same_draws_of_patients():
    patient = np.repeat(np.arange(6), 2)
    first, second = many(0), [many(1), many(2)]
    found = seg.paired([seg.from_confusion(first)], [seg.from_confusion(s) for s in second], patient, draws=200, seed=4)
    draws = bootstrap_counts(6, 200, 4)[:, patient]
    plain = [dice(first, w) - np.mean([dice(s, w) for s in second]) for w in draws]
    interval, _ = percentile_interval(np.array(plain), found["dice"].difference)
    assert (found["dice"].sampling.low, found["dice"].sampling.high) == pytest.approx(tuple(interval))
    assert found["dice"].second_runs == pytest.approx(tuple(dice(s, np.ones(12)) for s in second))


def test_splits_give_the_corrected_test():
    patients = [np.repeat(np.arange(4), 3) + 4 * split for split in range(3)]
    models = [[many(10 * m + split) for split in range(3)] for m in range(2)]
    found = seg.paired(
        *([seg.from_confusion(c) for c in model] for model in models),
        patients,
        splits=([0, 1, 2], [0, 1, 2]),
        train_patients=8,
        draws=50,
    )["dice"]
    d = np.array([dice(a, np.ones(12)) - dice(b, np.ones(12)) for a, b in zip(*models, strict=True)])
    error = np.sqrt(d.var(ddof=1) * (1 / 3 + 4 / 8))
    assert found.procedure.p == pytest.approx(2 * scipy.stats.t.sf(abs(d.mean()) / error, 2))
    half = scipy.stats.t.ppf(0.975, 2) * error
    assert (found.procedure.low, found.procedure.high) == pytest.approx((d.mean() - half, d.mean() + half))
    assert (found.patients, found.splits) == (12, 3)


def test_whole_statistics_and_counts_agree():
    rng = np.random.default_rng(0)
    truth = rng.random((4, 6, 6)) > 0.5
    soft = np.clip(truth * 0.5 + rng.random(truth.shape) * 0.5, 0, 1)
    statistics = seg.image_statistics(list(soft), list(truth))
    worse = seg.image_statistics(list(rng.random(truth.shape)), list(truth))
    whole = seg.paired([statistics], [worse], np.arange(4), draws=50)
    counted = seg.paired(
        [seg.from_confusion(statistics.confusion)], [seg.from_confusion(worse.confusion)], np.arange(4), draws=50
    )
    assert list(whole) == [*counted, "auroc", "auprc"]
    for name, row in counted.items():
        assert whole[name].json() == row.json()


def test_what_cannot_be_paired():
    one = seg.from_confusion(A)
    with pytest.raises(DataError, match="at least one run"):
        seg.paired([], [one], PATIENT)
    with pytest.raises(DataError, match="same images"):
        seg.paired([one], [seg.from_confusion(B[::-1])], PATIENT)
    with pytest.raises(DataError, match="one array a split"):
        seg.paired([one], [one], [PATIENT, PATIENT])
    with pytest.raises(DataError, match="hold none of auroc"):
        seg.paired([one], [one], PATIENT, metrics=("auroc",))
