"""Epithelium from labels of whole images: does an image hold an epithelial nucleus? Scored at 22,444 nuclei.

    python -m experiments.colon_weak --out RUNS            # all rows, results/colon_weak.json
    milkit run experiments/colon_weak.py:samil --out RUN

100 images of 500 x 500 px, 51 with an epithelial nucleus; one label an image, nothing else. A map is scored where
somebody marked a nucleus: epithelial against the others. Nobody knows which images share a patient (they are of 9), so
folds cannot keep patients apart: every row is *patient-leaky*, and its intervals draw images.

References:
    Sirinukunwattana et al. (2016), IEEE Transactions on Medical Imaging 35:1196 (the images and nuclei).
"""

from dataclasses import replace

from experiments.weak_segmentation import LITE0, Row, study
from milkit import Adam, Augment, Binary, Experiment, KFold, KnownImages, Train
from milkit.pixel import CAM, DWSMIL, SAMIL, Baseline, StainThreshold

train = Train(Adam(1e-3), epochs=12, batch_bags=4, augment=Augment(stain=0.1))
samil = Experiment(
    data=KnownImages("colon", downsample=2),
    protocol=KFold(4, validation=0.2),
    model=SAMIL.pretrained(LITE0, trunk_rate=0.0),
    task=Binary(),
    unit="slide",
    train=train,
    name="samil",
)
ROWS = (
    Row("stain", replace(samil, model=StainThreshold(), train=Train(epochs=1, select="last", batch_bags=4))),
    Row("cam", replace(samil, model=CAM.pretrained(LITE0, trunk_rate=0.0))),
    Row("baseline", replace(samil, model=Baseline.pretrained(LITE0, trunk_rate=0.0)), against=("cam",)),
    Row("dwsmil", replace(samil, model=DWSMIL.pretrained(LITE0, trunk_rate=0.0)), against=("cam", "baseline")),
    Row("samil", samil, against=("cam", "stain", "baseline", "dwsmil")),
)

if __name__ == "__main__":
    study("colon_weak", __doc__ or "", ROWS, ("as stated",), metric="auroc")
