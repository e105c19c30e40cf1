"""A study of images from a folder and a table: trained pixel by pixel, predicted with maps, reported."""

import csv
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from milkit import ABMIL, Adam, Binary, Classic, Experiment, GivenFolds, ImageCohort, KFold, Train, api
from milkit.data.images import ImageCrops
from milkit.errors import ConfigError
from milkit.execute.search.family import rate_leaves
from milkit.predictions import Predictions
from milkit.report.image_maps import maps_of_tested
from milkit.report.results import recorded_columns
from milkit.train.config import Augment
from milkit.types import Images, Output


@dataclass(frozen=True)
class Brightest:
    """A pixel's probability from its channels; the image's from its highest pixel."""

    reads: ClassVar[str] = "images"

    def build(self, in_channels, out_features, *, rngs):
        return _Brightest(in_channels, out_features, rngs)


class _Brightest(nnx.Module):
    def __init__(self, c, out, rngs):
        self.head = nnx.Linear(c, out, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: Any = None) -> Output:
        logits, mask = self.head(images.x), images.mask[..., None]
        highest = jnp.max(jnp.where(mask, logits, -1e9), (1, 2))
        return Output(highest, extras={"maps": {"fused": jnp.where(mask, jax.nn.sigmoid(logits), 0.0)}})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """24 images of two sizes; every other one has a red square of 5 x 5 pixels."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    squares = {}
    with open(folder / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient_id", "label", "part"])
        (folder / "masks").mkdir()
        for i in range(24):
            height = 16 if i % 3 else 12
            x = rng.integers(100, 150, (height, 16, 3)).astype(np.uint8)
            truth = np.zeros((height, 16), bool)
            if i % 2:
                row, column = rng.integers(0, height - 5), rng.integers(0, 11)
                truth[row : row + 5, column : column + 5] = True
                x[truth] = [230, 40, 40]
            Image.fromarray(x).save(folder / f"{i:02d}.png")
            Image.fromarray(truth.astype(np.uint8) * 255).save(folder / "masks" / f"{i:02d}.png")
            squares[f"{i:02d}.png"] = truth
            table.writerow([f"{i:02d}.png", f"p{i}", i % 2, ("train", "train", "val", "test")[i // 6]])
    return folder, squares


@pytest.mark.slow
def test_a_folder_of_images_becomes_a_report_with_maps(cohort, tmp_path):
    folder, squares = cohort
    experiment = Experiment(
        data=ImageCohort(str(folder / "table.csv"), masks=str(folder / "masks"), split="-"),
        task=Binary(),
        protocol=KFold(folds=2, validation=0.25),
        model=Brightest(),
        train=Train(Adam(0.2), epochs=60, batch_bags=4, augment=Augment(colour=0.05)),
        unit="slide",
        seeds=2,
        name="squares",
    )
    out = tmp_path / "run"
    api.run(experiment, out=out)
    table = Predictions.read(out / "predictions.csv")
    tested = table.take((table.role == "test") & (table.selection == "validation"))
    assert len(tested) == 2 * 24  # each image once a seed
    right, all_, called = 0, 0, np.zeros((2, 2))
    for i, bag in enumerate(tested.bag.tolist()):
        with Image.open(out / tested.map[i]) as image:
            seen = np.asarray(image)
        assert seen.shape == squares[bag].shape  # the image's own size, not the canvas's
        # the highest pixel is the image's probability, to the byte
        assert seen.max() == min(255, int(tested.score[i, 1] * 256))
        for true in (0, 1):
            for said in (0, 1):
                called[true, said] += ((squares[bag] == true) & ((seen >= 128) == said)).sum()
        if squares[bag].any():
            right, all_ = right + int(squares[bag][np.unravel_index(seen.argmax(), seen.shape)]), all_ + 1
    assert right == all_ == 24  # labels of images only, and the red square is found in each
    found = json.loads((out / "results.json").read_text())["segmentation"]
    # one image a patient: pooled over the two folds' halves, each the mean of two seeds; all are nearly alike
    dice = 2 * called[1, 1] / (2 * called[1, 1] + called[0, 1] + called[1, 0])
    assert found["metrics"]["dice"]["value"] == pytest.approx(dice, abs=0.02)
    assert len({row["image"] for row in found["images"]}) == 24
    assert "## Segmentation" in (out / "report.md").read_text()
    assert (out / "figures" / "segmentation.png").exists()


def test_crops_learn_from_crop_labels_and_are_stitched_to_the_images(cohort, tmp_path):
    folder, squares = cohort
    whole = ImageCohort(str(folder / "table.csv"), masks=str(folder / "masks"), split="part")
    experiment = Experiment(
        data=ImageCrops(whole, size=8, stride=4, test_crops=True),
        task=Binary(),
        protocol=GivenFolds(allow_single_class=True),
        model=Brightest(),
        train=Train(Adam(0.2), epochs=15, batch_bags=16),
        unit="slide",
        name="crops",
    )
    out = tmp_path / "run"
    api.run(experiment, out=out)
    found = json.loads((out / "results.json").read_text())["segmentation"]
    tested = [f"{i:02d}.png" for i in range(18, 24)]
    assert sorted(row["image"] for row in found["images"]) == tested
    # by hand: the last images' crops laid over each other agree with the mask where the model does
    table = Predictions.read(out / "predictions.csv")
    table = table.take((table.role == "test") & (table.selection == "validation"))
    columns = recorded_columns(out / "columns.csv")
    for image in maps_of_tested(out, table, columns):
        assert image.map.shape == squares[image.image].shape
        assert ((image.map >= 0.5) == squares[image.image]).mean() > 0.95
    (folder / "masks").rename(folder / "gone")
    api.report(out)
    (folder / "gone").rename(folder / "masks")
    lost = json.loads((out / "results.json").read_text())["segmentation"]
    assert "masks" in lost["reason"]
    assert "could not be measured" in (out / "report.md").read_text()


def test_images_and_bags_are_not_taken_for_each_other(cohort, tmp_path):
    folder, _ = cohort
    images, table = ImageCohort(str(folder / "table.csv"), split="-"), Train(epochs=1)
    with pytest.raises(ConfigError, match="ABMIL reads bags of features, but 'table' holds images"):
        api.run(
            Experiment(data=images, task=Binary(), protocol=KFold(2), model=ABMIL(), train=table, unit="slide"),
            out=tmp_path / "im",
        )
    musk = Experiment(data=Classic("musk1"), task=Binary(), protocol=GivenFolds(), model=Brightest(), train=table)
    with pytest.raises(ConfigError, match=r"Brightest reads images, pixel by pixel, but .* holds bags of features"):
        api.run(musk, out=tmp_path / "musk")


def test_a_search_looks_at_a_model_of_images_with_images():
    assert rate_leaves(Brightest(), Brightest(), 3, 1, 0, (8, 8)) == ()
