"""A supervised bound as a study: it learns from masks, selects by the loss on them, and sees none of a test image."""

import csv
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from milkit import Adam, Experiment, GivenFolds, ImageCohort, Train, api
from milkit.pixel.supervised import output_of_pixels, supervised_loss
from milkit.predictions import Predictions
from milkit.train.config import Augment
from milkit.types import Images, Output


@dataclass(frozen=True)
class PixelByPixel:
    """A logit a pixel from its channels."""

    reads: ClassVar[str] = "images"
    learns_from_pixels: ClassVar[bool] = True

    def build(self, in_channels, out_features, *, rngs):
        return _PixelByPixel(in_channels, out_features, rngs)

    def objective(self, output, batch, bag_loss):
        return supervised_loss(output, batch, bag_loss)


class _PixelByPixel(nnx.Module):
    def __init__(self, c, out, rngs):
        self.head = nnx.Linear(c, out, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: Any = None) -> Output:
        assert set(vars(images)) == {"x", "mask"}  # a model is given pixels, never what they are
        return output_of_pixels(self.head(images.x), images.mask, 4.0)


def test_a_bound_learns_from_masks_and_test_masks_stay_closed(tmp_path):
    """Labels of images say nothing, since each image holds a red square; only masks tell where it is."""
    rng, squares = np.random.default_rng(0), {}
    (tmp_path / "masks").mkdir()
    rows = ["image,label,patient,split"]
    for i in range(12):
        name, role = f"{i:02d}.png", ("train", "train", "val", "test")[i // 3]
        truth = np.zeros((8, 10 if i % 2 else 7), bool)
        row, column = rng.integers(0, 4, 2)
        truth[row : row + 4, column : column + 4] = True
        x = rng.integers(100, 150, (*truth.shape, 3)).astype(np.uint8)
        x[truth] = [230, 40, 40]
        Image.fromarray(x).save(tmp_path / name)
        Image.fromarray(truth.astype(np.uint8) * 255).save(tmp_path / "masks" / name)
        if role == "test":
            (tmp_path / "masks" / name).write_bytes(b"nobody may open this")
        squares[name] = truth
        rows.append(f"{name},{i % 2},p{i},{role}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    experiment = Experiment(
        data=ImageCohort(str(tmp_path / "t.csv"), masks=str(tmp_path / "masks"), pixel_masks=True),
        protocol=GivenFolds(),
        model=PixelByPixel(),
        train=Train(Adam(0.1), epochs=10, batch_bags=2, augment=Augment(scale=(0.9, 1.1))),
        unit="slide",
        seeds=2,
    )
    out = tmp_path / "run"
    api.run(experiment, out=out)
    table = Predictions.read(out / "predictions.csv")
    table = table.take(table.selection == "validation")
    losses: dict[str, list[float]] = {}
    for bag, run, role, file in zip(
        table.bag.tolist(), table.run.tolist(), table.role.tolist(), table.map, strict=True
    ):
        with Image.open(out / file) as image:
            p = (np.asarray(image) + 0.5) / 256
        assert ((p > 0.5) == squares[bag]).mean() > 0.95
        if role == "validation":
            each = -np.where(squares[bag], np.log(p), np.log(1 - p))
            losses.setdefault(run, []).append(float(each.mean()))
    assert len(losses) == 2
    with open(out / "runs.csv", newline="") as file:
        said = {row["run"]: float(row["best_validation_loss"]) for row in csv.DictReader(file)}
    for run, own in losses.items():
        assert said[run] == pytest.approx(np.mean(own), abs=5e-3)  # maps are in steps of 1/256
        assert said[run] < 0.5  # a loss of image labels would be above log 2, as they cannot be told
    assert json.loads((out / "config.json").read_text())["experiment"]["data"]["pixel_masks"] is True
    assert any("pixel supervision" in note for note in json.loads((out / "cohort.json").read_text())["flow"]["notes"])
    scored = json.loads((out / "results.json").read_text())["segmentation"]
    assert "no image that can be read" in scored["reason"]
