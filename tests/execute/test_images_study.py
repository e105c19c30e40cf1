"""A study of images from a folder and a table: trained pixel by pixel, predicted with maps, reported."""

import csv
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from milkit import ABMIL, Adam, Binary, Classic, Experiment, GivenFolds, ImageCohort, KFold, Train, api
from milkit.errors import ConfigError
from milkit.predictions import Predictions
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
        table.writerow(["image", "patient_id", "label"])
        for i in range(24):
            height = 16 if i % 3 else 12
            x = rng.integers(100, 150, (height, 16, 3)).astype(np.uint8)
            truth = np.zeros((height, 16), bool)
            if i % 2:
                row, column = rng.integers(0, height - 5), rng.integers(0, 11)
                truth[row : row + 5, column : column + 5] = True
                x[truth] = [230, 40, 40]
            Image.fromarray(x).save(folder / f"{i:02d}.png")
            squares[f"{i:02d}.png"] = truth
            table.writerow([f"{i:02d}.png", f"p{i}", i % 2])
    return folder, squares


def test_a_folder_of_images_becomes_a_report_with_maps(cohort, tmp_path):
    folder, squares = cohort
    experiment = Experiment(
        data=ImageCohort(str(folder / "table.csv")),
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
    right, all_ = 0, 0
    for i, bag in enumerate(tested.bag.tolist()):
        with Image.open(out / tested.map[i]) as image:
            seen = np.asarray(image)
        assert seen.shape == squares[bag].shape  # the image's own size, not the canvas's
        # the highest pixel is the image's probability, to the byte
        assert seen.max() == min(255, int(tested.score[i, 1] * 256))
        if squares[bag].any():
            right, all_ = right + int(squares[bag][np.unravel_index(seen.argmax(), seen.shape)]), all_ + 1
    assert right == all_ == 24  # labels of images only, and the red square is found in each
    assert "squares" in (out / "report.md").read_text()


def test_images_and_bags_are_not_taken_for_each_other(cohort, tmp_path):
    folder, _ = cohort
    images, table = ImageCohort(str(folder / "table.csv")), Train(epochs=1)
    with pytest.raises(ConfigError, match="ABMIL reads bags of features, but 'table' holds images"):
        api.run(
            Experiment(data=images, task=Binary(), protocol=KFold(2), model=ABMIL(), train=table, unit="slide"),
            out=tmp_path / "im",
        )
    musk = Experiment(data=Classic("musk1"), task=Binary(), protocol=GivenFolds(), model=Brightest(), train=table)
    with pytest.raises(ConfigError, match=r"Brightest reads images, pixel by pixel, but .* holds bags of features"):
        api.run(musk, out=tmp_path / "musk")
