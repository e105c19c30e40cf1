"""CAMEL's stages: selection, dropping and painting by hand, and the whole study on images with a square."""

import csv
import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from milkit import Adam, Binary, Experiment, GivenFolds, ImageCohort, Train
from milkit.errors import ConfigError, DataError, RunFolderError
from milkit.nn.images import Conv
from milkit.pixel import CAMEL, ResNet, UNet
from milkit.pixel.conv_norm import Trunk
from milkit.predictions import Predictions
from milkit.stages.camel import CamelStudy, _check_chosen
from milkit.stages.folder import stages
from milkit.stages.instances import instance_logits
from milkit.stages.lattice import collected, cut, named, painted

LOGITS = np.array(
    [
        [[1.0, -2.0], [3.0, -1.0]],  # positive: the highest is cell 2
        [[-1.0, -2.0], [-3.0, -4.0]],  # positive, and nothing predicts 1: dropped by both
        [[-1.0, -5.0], [-2.0, -5.0]],  # negative: highest 0; lowest 1, the first of two equal ones
        [[2.0, -1.0], [0.5, 0.0]],  # negative: highest 0 predicts 1, dropped; lowest 1
        [[2.0, 0.0], [0.5, 1.0]],  # negative: a logit of 0 predicts 1: dropped by both
    ]
)
LABEL = np.array([1, 1, 0, 0, 0])


def test_what_a_criterion_names_by_hand():
    cell, agree = named(LOGITS, LABEL, "max_max")
    assert cell.tolist() == [2, 0, 0, 0, 0]
    assert agree.tolist() == [True, False, True, False, False]
    cell, agree = named(LOGITS, LABEL, "max_min")
    assert cell.tolist() == [2, 0, 1, 1, 1]
    assert agree.tolist() == [True, False, True, True, False]


def test_what_is_collected_by_hand():
    chosen = collected({"max_max": LOGITS, "max_min": LOGITS}, LABEL)
    assert list(zip(chosen.bag.tolist(), chosen.cell.tolist(), chosen.label.tolist(), chosen.by, strict=True)) == [
        (0, 2, 1, "max_max+max_min"),
        (2, 0, 0, "max_max"),
        (2, 1, 0, "max_min"),
        (3, 1, 0, "max_min"),
    ]
    assert chosen.dropped == {"max_max": 3, "max_min": 2}
    with pytest.raises(DataError, match="learnt too little"):
        _check_chosen(collected({"max_max": LOGITS[1:]}, LABEL[1:]), "train")


def test_cells_and_paint_by_hand():
    """5 x 7 pixels in 2 x 2 cells: rows 0-1 and 2-4, columns 0-2 and 3-6, as the model has them."""
    image = np.arange(105, dtype=np.uint8).reshape(5, 7, 3)
    np.testing.assert_array_equal(cut(image, 1, 2), image[:2, 3:])
    np.testing.assert_array_equal(cut(image, 2, 2), image[2:, :3])
    want = np.array([[0] * 3 + [255] * 4] * 2 + [[255] * 3 + [0] * 4] * 3)
    np.testing.assert_array_equal(painted(np.array([[False, True], [True, False]]), 5, 7), want)


def test_a_stage_runs_once(tmp_path):
    ran = []

    def work(folder):
        ran.append(folder.name)
        return {"n": len(ran)}

    def fails(folder):
        raise DataError("no")

    with stages(tmp_path / "a", {"x": 1}, lambda _: None) as folder:
        assert folder.stage("one", work) == {"n": 1}
        with pytest.raises(DataError):
            folder.stage("two", fails)
    with stages(tmp_path / "a", {"x": 1}, lambda _: None) as folder:
        assert folder.stage("one", work) == {"n": 1}
        assert folder.stage("two", work) == {"n": 2}
    assert ran == ["one", "two"]
    with pytest.raises(RunFolderError, match="x differ"), stages(tmp_path / "a", {"x": 2}):
        pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("")
    with pytest.raises(RunFolderError, match="not empty"), stages(tmp_path / "b", {}):
        pass


def write_squares(folder, count=12, side=32):
    """Grey images of noise; every other one holds a red square, on cells of 8 px. Only test masks can be read."""
    rng = np.random.default_rng(0)
    rows = []
    (folder / "masks").mkdir()
    for i in range(count):
        role = "test" if i >= count - 2 else "val" if i >= count - 4 else "train"
        image = rng.integers(100, 130, (side, side, 3))
        mask = np.zeros((side, side), np.uint8)
        if i % 2 == 0:
            top, left = rng.integers(0, 3, 2) * 8
            mask[top : top + 16, left : left + 16] = 255
            image[mask > 0] += np.array([90, -60, -60])
        Image.fromarray(image.astype(np.uint8)).save(folder / f"i{i}.png")
        if role == "test":
            Image.fromarray(mask).save(folder / "masks" / f"i{i}.png")
        else:
            (folder / "masks" / f"i{i}.png").write_bytes(b"closed")
        rows.append(f"i{i}.png,{1 - i % 2},p{i},{role}\n")
    (folder / "labels.csv").write_text("image,label,patient,split\n" + "".join(rows))


class OneConv(ResNet):
    """A backbone of one convolution, which compiles at once; colours are all that there is to see."""

    def build(self, in_channels, *, rngs):
        return OneConvTrunk(in_channels, self.width, rngs=rngs)


class OneConvTrunk(Trunk):
    def __init__(self, in_channels, width, *, rngs):
        self.stages = nnx.List([Conv(in_channels, width, 1, rngs=rngs)])

    def stage(self, stage, x, mask, *, deterministic=True):
        return nnx.relu(self.stages[stage](x, mask)), mask


@pytest.fixture
def study(tmp_path):
    write_squares(tmp_path)
    data = ImageCohort(str(tmp_path / "labels.csv"), masks=str(tmp_path / "masks"))
    model = CAMEL(lattice=4, backbone=OneConv(18, width=4, stages=1))
    train = Train(Adam(3e-2), epochs=15, batch_bags=4)
    return CamelStudy(
        Experiment(data, GivenFolds(), model, train),
        instances=Train(Adam(3e-2), epochs=15, batch_bags=8, select="last"),
        segmentation=UNet(width=(4,), norm="none"),
        segmentation_train=Train(Adam(3e-2), epochs=15, batch_bags=4),
    )


def test_squares_are_found_from_image_labels(study, tmp_path, monkeypatch):
    monkeypatch.setattr("milkit.api.write_report", lambda out: None)  # pages have tests of their own
    out, heard = tmp_path / "out", []
    found = study.run(out, heard.append)
    assert set(found) == {"max_max", "max_min", "segmentation"}
    said = json.loads((out / "stages.json").read_text())["finished"]
    assert said["bags"] == {"train": 8, "validation": 2, "test": 2, "positive": "1"}
    assert said["cells"]["train_1"] >= 2
    # painted masks are of training and validation images, and only positive ones hold anything
    with (out / "bags" / "table.csv").open(newline="") as file:
        rows = {row["bag"]: row for row in csv.DictReader(file)}
    masks = {path.stem: np.asarray(Image.open(path)) for path in (out / "painted").iterdir()}
    assert set(masks) == {bag for bag, row in rows.items() if row["split"] != "test"}
    assert not any(mask.any() for bag, mask in masks.items() if rows[bag]["label"] == "0")
    # chance: all of the image called foreground; a square is a quarter of its image, and half of the images have one
    chance = found["segmentation"]["everything_foreground"]["metrics"]["dice"]["value"]
    assert chance == pytest.approx(2 * 256 / (256 + 2048))
    dice = found["segmentation"]["metrics"]["dice"]["value"]
    assert dice > chance + 0.3, (dice, said)
    assert found["segmentation"]["supervision"]["kind"].startswith("image")
    # kept weights say of validation images what the run itself said
    one = study.classifier(out, "max_min")
    images = one.data.load(one.task, "slide")
    rows_of = one.protocol.plan(images, one.task).splits[0].validation
    logits = instance_logits(out / "max_min", one, images, rows_of, 4)
    table = Predictions.read(out / "max_min" / "predictions.csv")
    own = table.take((table.role == "validation") & (table.selection == "validation"))
    score = dict(zip(own.bag.tolist(), own.score[:, -1].tolist(), strict=True))
    highest = 1 / (1 + np.exp(-logits.max((1, 2))))
    np.testing.assert_allclose(highest, [score[str(images.bag[i])] for i in rows_of], atol=1e-5)
    # nothing runs twice
    heard.clear()
    assert study.run(out, heard.append) == found
    assert all(line.endswith("finished before") for line in heard)


def test_the_page(root):
    """Its study can be made as written; nothing is read."""
    block = (root / "docs" / "camel.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(block, names)
    assert isinstance(names["study"], CamelStudy)


def test_refused(study):
    with pytest.raises(ConfigError, match="CAMEL"):
        CamelStudy(Experiment(study.experiment.data, GivenFolds(), UNet()))
    with pytest.raises(ConfigError, match="select"):
        CamelStudy(study.experiment, instances=Train(select="loss"))
    assert Binary() == study.experiment.task
