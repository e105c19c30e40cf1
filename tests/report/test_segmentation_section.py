"""Maps in a report and in a comparison: a run folder written by hand, with every number worked out beside it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from milkit.config import to_json
from milkit.data.images import ImageCohort, ImageCrops
from milkit.metrics.segmentation.label_threshold import ALL_ALIKE
from milkit.predictions import Predictions, concat
from milkit.report.comparison import compare
from milkit.report.sections.segmentation import _what
from milkit.report.segmentation import segmentation
from milkit.report.segmentation_runs import cut_of, share_of
from milkit.task import Binary, MultiLabel

SIDE = 8
TRUTH = np.zeros((SIDE, SIDE), bool)
TRUTH[:4, :4] = True  # 16 of 64 pixels, in every positive image


def level_map(inside: int, outside: int) -> np.ndarray:
    return np.where(TRUTH, inside, outside).astype(np.uint8)


def write_map(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def rows(task, names, folder, run, seed, role, ids, target, maps):
    files = []
    for image, pixels in zip(ids, maps, strict=True):
        files.append(f"maps/{run}/{role}/{image}.png")
        write_map(folder / files[-1], pixels)
    logits = np.zeros((len(ids), len(names) if isinstance(task, MultiLabel) else 1))
    return Predictions.of(
        task, names, logits, np.asarray(target), experiment="x", run=run, repeat=0, fold=0, seed=seed,
        selection="validation", role=role, bag=ids, patient=[f"p{i}" for i in ids], map=files,
    )  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """Six test images, two of them without foreground; the last has no mask."""
    with (tmp_path / "t.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient_id", "label"])
        for i in range(6):
            Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{i}.png")
            table.writerow([f"{i}.png", f"p{i}", int(i < 4)])
    (tmp_path / "masks").mkdir()
    for i in range(5):
        Image.fromarray((TRUTH * (i < 4)).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{i}.png")
    return ImageCohort(str(tmp_path / "t.csv"), masks=str(tmp_path / "masks"))


def write_study(folder, data, inside, outside, seeds=(0, 1)):
    """Maps of two levels, as high in validation as in test; labels of validation images: two with, two without."""
    task, parts = Binary(), []
    ids = [f"{i}.png" for i in range(6)]
    for seed in seeds:
        run = f"r0f0s{seed}"
        shift = 10 * seed
        found, empty = level_map(inside - shift, outside), np.full((SIDE, SIDE), outside, np.uint8)
        own = (task, ("0", "1"), folder, run, seed)
        parts.append(rows(*own, "test", ids, [1, 1, 1, 1, 0, 0], [found] * 4 + [empty] * 2))
        parts.append(rows(*own, "validation", ["a", "b", "c", "d"], [1, 1, 0, 0], [found] * 2 + [empty] * 2))
    predictions = concat(parts)
    predictions.write(folder / "predictions.csv")
    experiment = {"data": to_json(data), "task": {"type": "Binary", "label": "label"}, "train": {"select": "loss"}}
    config = {"format": 1, "experiment": experiment, "unit": "slide", "measured": "slide", "aggregate": "mean"}
    (folder / "config.json").write_text(json.dumps(config))
    return config, predictions


def measured(folder, config, predictions, **more):
    return segmentation(folder, config, predictions, "validation", {}, {(0, 0): 20.0}, 50, **more)


def test_both_cuts_the_floor_and_what_is_left_out(images, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    # inside 100 and 90 (of 256): nothing is called at .5. Labels: cuts 41 to 100, and 41 to 90, the middles nearer .5
    found = measured(folder, *write_study(folder, images, 100, 40))
    assert found["threshold"] == 0.5
    assert found["metrics"]["dice"]["value"] == 0.0
    cut = found["label_threshold"]
    assert [run["threshold"] for run in cut["runs"]] == [71 / 256, 66 / 256]
    assert (cut["lowest"], cut["highest"], cut["undecided"]) == (66 / 256, 71 / 256, 0)
    assert cut["mean"] == pytest.approx(68.5 / 256)
    assert cut["metrics"]["dice"]["value"] == cut["metrics"]["f1_neg"]["value"] == 1.0
    # 4 masks of 16 pixels among 5 images of 64: Dice 2 * 64 / (320 + 64), each positive image 32 / 80
    floor = found["everything_foreground"]["metrics"]
    assert floor["dice"]["value"] == pytest.approx(128 / 384)
    assert floor["f1_pos"]["value"] == pytest.approx(32 / 80)
    assert floor["dice_per_image"]["value"] == pytest.approx((4 * 32 / 80 + 0) / 5)
    assert floor["dice"]["sampling"][0] < floor["dice"]["value"] < floor["dice"]["sampling"][1]
    assert found["test_images_without_truth"] == 1
    assert len(found["images"]) == 5
    assert found["supervision"] == {"kind": "image labels", "labels_per_image": 1, "said": ""}
    assert "1 test image has none and is left out" in _what(found)


def test_labels_that_are_all_alike_leave_one_half(images, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    _, table = write_study(folder, images, 100, 40, seeds=(0,))
    positive = table.take((table.role == "validation") & (table.target[:, 0] == 1))
    found = cut_of(folder, positive, 0.01)
    assert (found.threshold, found.note) == (0.5, ALL_ALIKE)


def test_two_labels_use_foregrounds_share_and_both_labels(tmp_path):
    # OEEM's maps stand side by side; foreground's share of .3 and .1 is .75 inside, of .1 and .3 is .25 outside
    task, names = MultiLabel(("foreground", "background")), ("foreground", "background")
    both = np.concatenate([level_map(77, 25), level_map(25, 77)], 1)
    none = np.concatenate([np.full((SIDE, SIDE), 25), np.full((SIDE, SIDE), 77)], 1).astype(np.uint8)
    table = rows(task, names, tmp_path, "r", 0, "validation", ["a", "b"], [[1, 1], [0, 1]], [both, none])
    found = cut_of(tmp_path, table, 0.05)
    assert found.balanced_accuracy == 1.0  # the label of background is 1 twice and takes no part
    inside, outside = (int(256 * x / (x + y)) for x, y in ((77.5, 25.5), (25.5, 77.5)))
    assert (found.lowest, found.highest) == ((outside + 1) / 256, inside / 256)


def test_the_share_is_what_crops_were_labelled_with(images):
    crops = to_json(ImageCrops(images, size=4, stride=4, min_share=0.2))
    assert share_of(crops, {"type": "MultiLabel", "labels": ["foreground", "background"]}) == 0.2
    assert share_of(crops, {"type": "Binary", "label": "foreground"}) == 0.2
    assert share_of(crops, {"type": "Binary", "label": "label"}) == 0.01  # any foreground
    assert share_of(to_json(images), {"type": "Binary", "label": "label"}) == 0.01


@pytest.mark.parametrize(
    ("more", "marks"),
    [
        ({}, []),
        ({"marks": ["patients in two roles"]}, ["patient-leaky"]),
        ({"flow": {"notes": ["patient-leaky: nobody knows whose images they are"]}}, ["patient-leaky"]),
        (
            {"flow": {"notes": ["pixel supervision: training and selection read the masks of 3 images"]}},
            ["pixel supervision", "mask-selected"],
        ),
    ],
)
def test_marks(images, tmp_path, more, marks):
    folder = tmp_path / "run"
    folder.mkdir()
    assert measured(folder, *write_study(folder, images, 200, 40, seeds=(0,)), **more)["marks"] == marks


def test_two_studies_are_compared_by_their_maps(images, tmp_path):
    folders = [tmp_path / "sharp", tmp_path / "dull"]
    for folder, inside in zip(folders, (200, 100), strict=True):
        folder.mkdir()
        write_study(folder, images, inside, 40)
    found = {row.metric: row for row in compare(folders, draws=50).rows}
    assert found["dice"].values == (1.0, 0.0)
    assert found["dice"].found.difference == 1.0
    assert found["dice"].test == "paired bootstrap"  # one split
    # mIoU of nothing called: foreground 0, background 256 / 320
    assert found["miou"].values == (1.0, pytest.approx(256 / 320 / 2))
    # where labels choose the cut the two are equal
    assert found["dice_label_cut"].values == (1.0, 1.0)
    assert found["dice_label_cut"].verdict == "indistinguishable"
    only = compare(folders, metrics=("miou",), draws=50)
    assert [row.metric for row in only.rows] == ["miou"]
