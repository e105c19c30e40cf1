"""Maps scored at points: values by hand, scikit-learn as a second opinion."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from milkit.errors import DataError
from milkit.metrics import segmentation as seg
from milkit.metrics.intervals import bootstrap_counts, percentile_interval
from milkit.metrics.segmentation.points import values_at

MAP = np.array([[0.1, 0.2, 0.9], [0.4, 0.6, 0.8]])


def test_a_point_reads_the_pixel_it_lies_in():
    # x to the right, y down; (3, 2) is the lower right corner of the last pixel
    xy = np.array([[0.0, 0.0], [1.99, 0.5], [2.0, 0.99], [0.2, 1.0], [3.0, 2.0]])
    assert values_at(MAP, xy).tolist() == [0.1, 0.2, 0.9, 0.4, 0.8]
    with pytest.raises(DataError, match=r"Point \(3.1, 1\) of image 4 is outside its map of 3 x 2 pixels"):
        values_at(MAP, np.array([[3.1, 1.0]]), index=4)


def test_a_radius_takes_the_mean_around_it():
    wide = np.arange(25, dtype=float).reshape(5, 5) / 25
    assert values_at(wide, np.array([[2.5, 2.5]]), 1)[0] == pytest.approx(wide[1:4, 1:4].mean())
    # edges are repeated: rows 0 0 1 and columns 0 0 1
    assert values_at(wide, np.array([[0.5, 0.5]]), 1)[0] == pytest.approx(wide[[0, 0, 1]][:, [0, 0, 1]].mean())


def test_one_image_by_hand():
    # .1 no, .2 yes, .9 yes, .4 no, .6 no. AUROC: .9 is above three of three, .2 above one of three: 4 / 6
    xy = np.array([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5]])
    yes = np.array([False, True, True, False, False])
    found = seg.at_points([[MAP]], [(xy, yes)], draws=10)
    value = {name: e.value for name, e in found.items()}
    assert value["auroc"] == value["auroc_per_image"] == pytest.approx(4 / 6)
    assert value["auprc"] == pytest.approx((1 / 1 + 2 / 4) / 2)  # the yes come first and fourth
    assert (
        value["f1"] == value["f1_per_image"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    )  # .9 right, .6 wrong, .2 missed
    assert value["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert value["prevalence"] == pytest.approx(2 / 5)
    lower = seg.at_points([[MAP]], [(xy, yes)], threshold=0.2, draws=10)
    assert lower["balanced_accuracy"].value == pytest.approx((2 / 2 + 1 / 3) / 2)


@pytest.fixture(scope="module")
def many():
    """Maps of two runs and points of six images, the last two without a point of foreground; levels of 8 bits."""
    rng = np.random.default_rng(0)
    points, maps = [], [[], []]
    for i in range(6):
        k = int(rng.integers(20, 40))
        truth = rng.random(k) < (0.4 if i < 4 else 0.0)
        xy = np.stack([np.arange(k) % 7, np.arange(k) // 7], 1) + 0.5
        for run, noise in zip(maps, (0.8, 1.2), strict=True):
            score = np.clip(0.3 + 0.3 * truth + noise * (rng.random(k) - 0.5), 0, 0.999)
            image = np.zeros((6, 7))
            image.ravel()[:k] = (np.floor(score * 256) + 0.5) / 256
            run.append(image)
        points.append((xy, truth))
    return maps, points


def read(run, points, images):
    """Probabilities and truths of the points of some images, one after the other."""
    return [np.concatenate([p.ravel()[: len(points[i][1])] for i, p in enumerate(run) if i in images])], [
        np.concatenate([points[i][1] for i in images])
    ]


def test_against_scikit_learn(many):
    maps, points = many
    found = seg.at_points(maps[:1], points, draws=10)
    (score,), (truth,) = read(maps[0], points, range(6))
    assert found["auroc"].value == pytest.approx(roc_auc_score(truth, score))
    assert found["auprc"].value == pytest.approx(average_precision_score(truth, score))
    assert found["f1"].value == pytest.approx(f1_score(truth, score >= 0.5))
    assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, score >= 0.5))
    own = [read(maps[0], points, [i]) for i in range(4)]  # the others have one kind only
    assert found["auroc_per_image"].value == pytest.approx(np.mean([roc_auc_score(t[0], s[0]) for s, t in own]))
    assert found["f1_per_image"].value == pytest.approx(np.mean([f1_score(t[0], s[0] >= 0.5) for s, t in own]))
    assert found["balanced_accuracy_per_image"].value == pytest.approx(
        np.mean([balanced_accuracy_score(t[0], s[0] >= 0.5) for s, t in own])
    )


def test_intervals_draw_patients_with_all_their_images_and_average_runs(many):
    maps, points = many
    patient = np.array(["a", "a", "b", "b", "c", "c"])
    found = seg.at_points(maps, points, patient=patient, draws=100, seed=2)["f1"]
    drawn = []
    for weight in bootstrap_counts(3, 100, 2)[:, [0, 0, 1, 1, 2, 2]].astype(int):
        values = []
        for run in maps:
            score = np.concatenate([np.tile(run[i].ravel()[: len(points[i][1])], weight[i]) for i in range(6)])
            truth = np.concatenate([np.tile(points[i][1], weight[i]) for i in range(6)])
            called = score >= 0.5
            both = 2 * (called & truth).sum()
            values.append(both / (called.sum() + truth.sum()))
        drawn.append(np.mean(values))
    interval, _ = percentile_interval(np.array(drawn), found.value)
    assert tuple(found.sampling) == pytest.approx(tuple(interval))
    assert found.procedure is None


def test_a_threshold_a_run(many):
    maps, points = many
    both = seg.at_points(maps, points, threshold=[0.4, 0.6], draws=10)
    alone = [seg.at_points([m], points, threshold=t, draws=10) for m, t in zip(maps, (0.4, 0.6), strict=True)]
    assert both["f1"].value == pytest.approx(np.mean([a["f1"].value for a in alone]))
    with pytest.raises(DataError, match="thresholds of 1"):
        seg.at_points(maps, points, threshold=[0.4])
    with pytest.raises(DataError, match="but 5 maps"):
        seg.at_points([maps[0][:5]], points)
