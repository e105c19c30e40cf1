"""Glands from one label a crop: does it hold any gland? Crops of 64 and of 128 px, without overlap.

    python -m experiments.glas_weak --out RUNS            # all rows, results/glas_weak.json; the folder of glas_oeem
    milkit run experiments/glas_weak.py:samil_64 --out RUN

Few crops hold no gland at all: 3,240 of 15,306 at 64 px, 466 of 3,792 at 128 px (all images; tests/data/images). A crop
is positive as soon as it holds one pixel of a gland, so a map is told where there is none, and little about how far a
gland reaches. Labels of crops are from the masks of training images: the table says how many an image. Images are read,
and scored, at half their resolution (about 1.24 um a pixel); claims rest on the patient-grouped split.
"""

from dataclasses import replace
from typing import Any

from experiments import glas_oeem
from experiments.weak_segmentation import LITE0, Row, study
from milkit import Adam, Augment, Binary, Experiment, GivenFolds, ImageCrops, KnownImages, Train
from milkit.pixel import CAM, DWSMIL, SAMIL, Baseline

crops_64 = ImageCrops(
    KnownImages("glas", split="official", validation_folds=4, downsample=2),
    size=32,
    stride=32,
    test_stride=24,
    test_crops=True,
)
crops_128 = replace(crops_64, size=64, stride=64, test_stride=48)
train = Train(Adam(1e-3), epochs=4, batch_bags=16, augment=Augment(stain=0.1))
samil_64 = Experiment(
    data=crops_64,
    protocol=GivenFolds(allow_single_class=True, allow_patient_overlap=True),  # as the official split has
    model=SAMIL.pretrained(LITE0, trunk_rate=0.0),
    task=Binary(),
    unit="slide",
    train=train,
    name="samil_64",
)
samil_128 = replace(samil_64, data=crops_128, name="samil_128")
# There are a quarter as many crops of 128 px as of 64 px: twice the epochs are half as many steps.
longer = replace(train, epochs=8)


def rows_of(base: Experiment, size: int) -> tuple[Row, ...]:
    """The methods on crops of one size, on one frozen trunk."""

    def named(name: str) -> str:
        return f"{name}_{size}"

    models: dict[str, Any] = {
        "cam": CAM.pretrained(LITE0, trunk_rate=0.0),
        "baseline": Baseline.pretrained(LITE0, trunk_rate=0.0),
        "dwsmil": DWSMIL.pretrained(LITE0, trunk_rate=0.0),
        "samil": base.model,
    }
    against = {
        "cam": ("stain", "dcgn"),
        "baseline": (named("cam"),),
        "dwsmil": (named("cam"), named("baseline")),
        "samil": (named("cam"), "stain", "dcgn", named("baseline"), named("dwsmil")),
    }
    return tuple(Row(named(name), replace(base, model=model), against[name]) for name, model in models.items())


# What reads no label of a crop is the same in both studies, and trained once where they share a folder.
shared = {row.name: row for row in glas_oeem.ROWS}
ROWS = (
    shared["stain"],
    shared["dcgn"],
    *rows_of(samil_64, 64),
    *(row for row in rows_of(replace(samil_128, train=longer), 128) if row.name in ("cam_128", "samil_128")),
    replace(shared["unet"], against=("samil_64",)),
)

if __name__ == "__main__":
    study("glas_weak", __doc__ or "", ROWS, ("patients",))
