"""Glands from labels of crops, by OEEM's rule: crops of 112 px, a class is present if it covers more than 5 % of one.

    python -m experiments.glas_oeem --out RUNS            # all rows, results/glas_oeem.json; goes on where it stopped
    milkit run experiments/glas_oeem.py:samil --out RUN   # one row on the official split, with report and pictures

Each crop has two labels, gland and background, from the masks of training images. OEEM crops at every 56 px and so has
93 crops an image; here it is every 112 px, and the table says how many labels an image that makes. The official split
has 11 of 16 patients on both sides and stands there for the comparison with published numbers only; claims rest on the
patient-grouped split. Images are read, and scored, at half their resolution (about 1.24 um a pixel).

References:
    Li et al. (2022), Online easy example mining for weakly-supervised gland segmentation, MICCAI (OEEM).
"""

from dataclasses import replace

from experiments.weak_segmentation import LITE0, Row, study
from milkit import Adam, Augment, Binary, Experiment, GivenFolds, ImageCrops, KnownImages, MultiLabel, Train
from milkit.pixel import CAM, DCGN, DWSMIL, SAMIL, Baseline, StainThreshold, UNet

crops = ImageCrops(
    KnownImages("glas", split="official", validation_folds=4, downsample=2),
    size=56,
    stride=56,
    test_stride=28,
    test_crops=True,
)
train = Train(Adam(1e-3), epochs=4, batch_bags=16, augment=Augment(stain=0.1))
samil = Experiment(
    data=crops,
    protocol=GivenFolds(allow_single_class=True, allow_patient_overlap=True),  # as the official split has
    model=SAMIL.pretrained(LITE0, trunk_rate=0.0),
    task=MultiLabel(("foreground", "background")),
    unit="slide",
    train=train,
    name="samil",
)

# Floors learn no label and have one map.
floor = replace(samil, task=Binary(), train=Train(epochs=1, batch_bags=16, select="last"))

# The two U-Nets take ten times as long a crop: a quarter of the crops, and only the split that claims rest on.
GROUPED = ("patients",)
fewer = replace(crops, stride=112)
unet = replace(train, epochs=6, batch_bags=4)
dcgn = Train(Adam(5e-3), epochs=3, batch_bags=4, augment=Augment(), select="last", schedule="exponential")

# The methods on one frozen trunk, so that they differ in their heads alone.
ROWS = (
    Row("stain", replace(floor, model=StainThreshold(sigma_px=4.0))),
    Row("dcgn", replace(floor, model=DCGN.from_scratch(), data=fewer, train=dcgn), splits=GROUPED),
    Row("cam", replace(samil, model=CAM.pretrained(LITE0, trunk_rate=0.0)), against=("dcgn", "stain")),
    Row("baseline", replace(samil, model=Baseline.pretrained(LITE0, trunk_rate=0.0)), against=("cam",)),
    Row("dwsmil", replace(samil, model=DWSMIL.pretrained(LITE0, trunk_rate=0.0)), against=("cam", "baseline")),
    Row("samil", samil, against=("cam", "dcgn", "stain", "baseline", "dwsmil")),
    Row(
        "unet",
        replace(samil, model=UNet.from_scratch(), data=replace(fewer, pixel_masks=True), train=unet),
        against=("samil",),
        splits=GROUPED,
    ),
)

if __name__ == "__main__":
    study("glas_oeem", __doc__ or "", ROWS, ("patients", "official"), said="glas test")
