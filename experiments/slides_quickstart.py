"""From slide files to a trained model and heat maps, in one command.

    milkit run experiments/slides_quickstart.py          # about 5 minutes on two cores

165 small H&E images of colon glands (GlaS; benign or malignant, 16 patients) stand for labelled slides, and two real
slides, which have no label, are asked about when the study is done. Everything is asked for in micrometres, so that
images of .62 and slides of .25 to .5 um a pixel see the same encoder. It writes

    runs/slides_quickstart.h5       features of all tiles, and runs/slides_quickstart.tiles, where they lie
    runs/quickstart                 the study: predictions, report
    runs/quickstart/heatmaps        attention over two test images and over the two slides

docs/slides.md walks through it. The data are found by $MILKIT_DATA.

What it shows is that the way from pixels to maps holds, not a result: the images are crops of few patients, and the two
slides are of other organs, where a model of colon glands has nothing to say.
"""

import os
from pathlib import Path

from milkit import ABMIL, AdamW, Binary, Cohort, Experiment, KFold, SlideCohort, Train

DATA = Path(os.environ.get("MILKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
SLIDES = ("cmu-1-small-region", "tcga-cr-7395-01a-01-ts1")

quickstart = Experiment(
    data=SlideCohort(
        # one row an image: its name, patient and grade
        cohort=Cohort(
            str(DATA / "glas" / "Grade.csv"),
            "runs/slides_quickstart.h5",
            slide="name",
            patient="patient ID",
            slide_labels=True,  # images of one patient may differ in grade
        ),
        slides=(str(DATA / "glas" / "images"), *(str(DATA / "wsi" / f"{name}.svs") for name in SLIDES)),
        encoder="efficientnet_lite0",
        weights=str(DATA / "weights" / "efficientnet_lite0_imagenet_f16.npz"),
        tile_um=64.0,
        tile_px=224,
        tissue=0.25,
        saturation=15.0,  # most of GlaS's images hold no glass to set a threshold by
        # GlaS's images do not say how large their pixels are, its paper does; neither does the TCGA slide, whose value
        # is set here by eye: on a study of your own, ask who scanned it
        mpp=(("test[AB]_*", 0.62), ("train_*", 0.62), ("tcga-*", 0.5)),
        heatmaps=("testA_1", "train_1", *SLIDES),
    ),
    task=Binary("grade (GlaS)", positive="malignant"),
    unit="slide",
    protocol=KFold(folds=4, validation=0.25),
    model=ABMIL(encoder=(128,), attention=64),
    train=Train(AdamW(1e-3, weight_decay=1e-2), epochs=30, batch_bags=8, standardise=True),
)
