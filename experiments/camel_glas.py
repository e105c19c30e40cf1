"""CAMEL on crops of GlaS: from "does this crop hold any gland" to a segmentation network, in eight stages.

    MILKIT_DATA=... python -m experiments.camel_glas --out runs/camel_glas          # or --epochs 2 for a first look

GlaS' official split, whose patients overlap; validation images are a fifth of the training patients'. Crops of 128 px
at a quarter of the resolution, cut into 4 x 4 cells. Labels of crops are made of masks of training and validation
images (crop-label supervision); masks of test images are opened by the last stage only. A finished stage is not run
again.
"""

import argparse
import json
from pathlib import Path

from milkit import Adam, Binary, Experiment, GivenFolds, ImageCrops, KnownImages, Train
from milkit.pixel import CAMEL, UNet
from milkit.stages.camel import CamelStudy
from milkit.train.config import Augment

DOWNSAMPLE = 4


def study(epochs: int = 20, downsample: int = DOWNSAMPLE) -> CamelStudy:
    """The study at a number of epochs, the same in all of its trainings."""
    images = KnownImages("glas", split="official", validation_folds=5, downsample=downsample)
    size = 128 // downsample
    experiment = Experiment(
        data=ImageCrops(images, size=size, stride=size, test_crops=True),
        protocol=GivenFolds(allow_patient_overlap=True, allow_single_class=True),
        model=CAMEL.from_scratch(lattice=4),
        train=Train(Adam(1e-3), epochs=epochs, batch_bags=32, augment=Augment()),
        task=Binary(class_weights="balanced"),  # one crop in eight holds no gland
        unit="slide",
    )
    return CamelStudy(
        experiment,
        instances=Train(Adam(1e-3), epochs=epochs, batch_bags=64, select="last", augment=Augment()),
        segmentation=UNet.from_scratch(width=(16, 32, 64)),
        segmentation_train=Train(Adam(1e-3), epochs=epochs, batch_bags=32, augment=Augment()),
    )


def main() -> None:
    """Run or resume the study and write its scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/camel_glas")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--downsample", type=int, default=DOWNSAMPLE)
    parser.add_argument("--result", default="", help="a JSON file for the scores and what each stage said")
    given = parser.parse_args()
    found = study(given.epochs, given.downsample).run(given.out)
    said = json.loads((Path(given.out) / "stages.json").read_text())["finished"]
    metrics = {name: values["metrics"] for name, values in found.items() if "metrics" in values}
    for name, values in metrics.items():
        print(
            name, {metric: round(value["value"], 3) for metric, value in values.items() if value["value"] is not None}
        )
    if given.result:
        result = {"epochs": given.epochs, "downsample": given.downsample, "stages": said, "scores": metrics}
        Path(given.result).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
