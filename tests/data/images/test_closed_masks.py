"""Training sees no mask: with masks that cannot be read a study trains and predicts, and only its scoring fails."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from milkit import Adam, Experiment, ImageCohort, KFold, Train, api
from milkit.predictions import Predictions
from milkit.types import Images, Output


@dataclass(frozen=True)
class Brightest:
    """A probability a pixel from its channels; the image's is the highest."""

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


def test_a_study_trains_with_masks_that_cannot_be_read(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    rows = ["image,label,patient"]
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
        (tmp_path / "masks" / f"{i}.png").write_bytes(b"nobody may open this")
        rows.append(f"{i}.png,{i % 2},p{i}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    experiment = Experiment(
        data=ImageCohort(str(tmp_path / "t.csv"), masks=str(tmp_path / "masks")),
        protocol=KFold(2, validation=0.5),
        model=Brightest(),
        train=Train(Adam(0.1), epochs=1, batch_bags=2),
    )
    api.run(experiment, out=tmp_path / "run")
    table = Predictions.read(tmp_path / "run" / "predictions.csv")
    assert sorted(table.bag[(table.role == "test") & (table.selection == "validation")].tolist()) == [
        f"p{i}"
        for i in range(8)  # a bag is called after its patient, who has one image
    ]
    scored = json.loads((tmp_path / "run" / "results.json").read_text())["segmentation"]
    assert "0.png" in scored["reason"]
    assert "no image that can be read" in scored["reason"]
