"""A folder of images and a table, through `milkit run`'s defaults, to a kept model and its masks."""

import csv

import numpy as np
import pytest
from PIL import Image

from milkit import GivenFolds, KFold, api
from milkit.commands.own_images import made
from milkit.errors import CohortError, ConfigError, RunFolderError
from milkit.keep.image_facts import map_threshold
from milkit.metrics.segmentation.label_threshold import ALL_ALIKE, LabelThreshold
from milkit.pixel import SAMIL
from milkit.predictions import Predictions


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """16 images; half of them with a dark square, whose place is the same in a file of masks."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    (folder / "slides").mkdir()
    rows = [["image", "finding", "site"]]
    for i in range(16):
        x = rng.integers(200, 250, (24, 20 + i % 3, 3)).astype(np.uint8)
        if i % 2:
            x[6:14, 4:12] = [90, 40, 130]
        Image.fromarray(x).save(folder / "slides" / f"{i:02d}.png")
        rows.append([f"{i:02d}.png", "yes" if i % 2 else "no", "s"])
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def defaults(home, *more, table="labels.csv"):
    return made(home / table, ["--images", str(home / "slides"), *more])


def table_of(home, name, rows):
    with open(home / name, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return name


def test_defaults(home):
    own = defaults(home, "--seeds", "2")
    study = own.experiment
    assert isinstance(study.model, SAMIL)
    assert study.model == SAMIL.from_scratch()
    assert study.protocol == KFold(4, validation=0.2)  # 8 of each class
    assert study.task.label == "finding"  # the only column that is nothing else
    assert (study.unit, study.name, study.data.downsample) == ("slide", "labels", 1)
    assert study.train.augment is not None
    # 16 x 3/4 x 0.8 = 9.6 images: 2 a step, 400 x 2 / 9.6 = 84 epochs
    assert (study.train.batch_bags, study.train.epochs) == (2, 84)
    assert own.overrides == ["--seeds", "2"]


def test_large_images_are_made_smaller(home, tmp_path):
    Image.fromarray(np.zeros((30, 1300, 3), np.uint8)).save(tmp_path / "large.png")
    rows = [["image", "label"], *[[f"{i:02d}.png", i % 2] for i in range(6)], ["large.png", 1]]
    for i in range(6):
        Image.open(home / "slides" / f"{i:02d}.png").save(tmp_path / f"{i:02d}.png")
    table = tmp_path / table_of(tmp_path, "t.csv", rows)
    assert made(table, []).experiment.data.downsample == 6  # 1300 / 256 rounded up
    assert any("downsample: 6" in line for line in made(table, []).said)
    assert made(table, ["--downsample", "1"]).experiment.data.downsample == 1


def test_given_splits_are_used(home):
    rows = [["image", "label", "split"]]
    rows += [[f"{i:02d}.png", i % 2, "test" if i > 11 else "train"] for i in range(16)]
    study = defaults(home, table=table_of(home, "split.csv", rows)).experiment
    assert study.protocol == GivenFolds(validation=0.2)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--model", "SAMILL"], ConfigError, "no such model of images. Did you mean SAMIL?"),
        (["--model", "FCN8s", "--weights", "w.npz"], ConfigError, "FCN8s has no preset"),
        (["--label", "findings"], CohortError, "no column 'findings'.*Did you mean 'finding'"),
        (["--crop", "8"], ConfigError, "labelled by the masks.*--masks"),
        (["--downsample", "two"], ConfigError, "invalid int"),
    ],
)
def test_wrong_options(home, more, error, message):
    with pytest.raises(error, match=message):
        defaults(home, *more)


def test_too_few_of_one_class(home):
    rows = [["image", "label"], *[[f"{i:02d}.png", int(i < n)] for n in (1,) for i in range(8)]]
    with pytest.raises(CohortError, match=r"one class of column 'label' has 1 patient\(s\) only.*Label more"):
        defaults(home, table=table_of(home, "few.csv", rows))
    rows = [["image", "label"], *[[f"{i:02d}.png", 1] for i in range(8)]]
    with pytest.raises(CohortError, match=r"holds 1 class\(es\) \(1\).*Give images of both kinds"):
        defaults(home, table=table_of(home, "all.csv", rows))


@pytest.fixture(scope="module")
def finished(home, make_run):
    """A run of a floor that takes no training to speak of, downsampled, and its ensemble."""
    own = defaults(home, "--model", "StainThreshold", "--downsample", "2")
    from dataclasses import replace

    train = replace(own.experiment.train, epochs=1, patience=None, select="last")
    make_run(replace(own.experiment, train=train, protocol=KFold(2, validation=0.2)), home / "run")
    return home / "run"


def test_from_a_run_to_masks(home, finished, tmp_path):
    # maps of one level: of run 1 labels are told apart from 41 to 160 of 256, of run 2 from 61 to 240
    table = Predictions.read(finished / "predictions.csv")
    for i in np.flatnonzero(table.role == "validation"):
        low, high = (40, 160) if "f0" in table.run[i] else (60, 240)
        level = high if table.target[i, 0] == 1 else low
        Image.fromarray(np.full((12, 11), level, np.uint8)).save(finished / table.map[i])
    facts = api.finalize(finished, tmp_path / "model")
    assert facts["images"]["map_threshold"]["value"] == (101 + 150) / 2 / 256  # the middles that are nearest 128
    assert facts["images"]["reading"]["downsample"] == 2
    assert facts["images"]["canvas"] == [12, 11]
    assert "milkit predict model IMAGES" in (tmp_path / "model" / "README.md").read_text()
    header, *rows = api.predict_images(tmp_path / "model", home / "slides", tmp_path / "out")
    assert len(rows) == 16
    assert {row[header.index("in_training")] for row in rows} == {"yes"}
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "01.png"))
    assert mask.shape == (24, 21)
    truth = np.zeros(mask.shape, bool)
    truth[6:14, 4:12] = True
    assert (mask[truth] == 255).all()
    assert int(rows[1][header.index("foreground_px")]) == (mask == 255).sum()


def test_where_kept_maps_are_cut():
    """At the mean of the cuts that labels chose: a half that stands for no choice does not count."""
    cuts = [LabelThreshold(t, 0.9, t, t, 4) for t in (0.25, 0.75, 0.875)]
    undecided = LabelThreshold(0.5, float("nan"), 0.5, 0.5, 4, ALL_ALIKE)
    assert map_threshold(cuts) == {
        "value": 0.625,
        "from": "the cut that labels of validation images choose, mean over 3 runs",
    }
    found = map_threshold([*cuts, undecided])
    assert found["value"] == 0.625
    assert "those 3 of 4 runs that have one" in found["from"]
    assert map_threshold([undecided])["value"] == 0.5
    assert "have the same labels, which cannot choose a cut" in map_threshold([undecided])["from"]
    assert map_threshold([]) == {
        "value": 0.5,
        "from": "a pixel that is as likely foreground as not: the study has no validation maps",
    }


def test_a_store_is_no_folder(home, finished, tmp_path):
    with pytest.raises(RunFolderError, match="is a run folder"):
        api.predict_images(finished, home / "slides", tmp_path / "out")
