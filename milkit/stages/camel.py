"""CAMEL (Xu et al., ICCV 2019) from image labels to a segmentation network, in one folder.

Stages, each in a folder of its own:
    bags          the images and their table, with the split: what all later stages read
    max_max       an experiment: the classifier of cells by the highest one
    max_min       an experiment: likewise, by the highest of positive images and the lowest of negative ones
    cells         of training and validation images the cells that they name, less those that contradict the label
    instances     an experiment: a classifier of single cells, supervised by them
    painted       every cell of training and validation images labelled by it; masks of these cells
    segmentation  an experiment: a segmentation network, trained on the painted masks
    scores        both classifiers and the network against real masks of test images; the first time that one is opened

No mask is opened before `scores`, except by data whose image labels are made of masks (`ImageCrops`), which opens those
of training and validation images for that alone. Test images are predicted by the experiments and named nowhere else.

Deviations:
    - The optional image-level term of the instance classifier's loss is left out.
    - What the paper does not say here: a cell named by both criteria counts once; the instance classifier trains all of
      its epochs, and is measured on the cells of validation images; in images whose label is 0 nothing is painted
      (`known_negatives`), since that label says it; the segmentation network is a U-Net (the paper: DeepLabv2, U-Net).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from milkit import api
from milkit.config import members, to_json
from milkit.data.images import ImageSet
from milkit.data.protocol import GivenFolds, Split
from milkit.data.study import Study
from milkit.errors import ConfigError, DataError
from milkit.execute.folder import read_json, write_json
from milkit.experiment import AnyModel, Experiment
from milkit.pixel import CAMEL, UNet
from milkit.pixel.camel import Criterion
from milkit.stages.folder import stages
from milkit.stages.images import FILE, TABLE, cohort, pixels, write_image, write_study, write_table
from milkit.stages.instances import instance_logits
from milkit.stages.lattice import Chosen, collected, cut, painted
from milkit.stages.scores import score
from milkit.task import Binary
from milkit.train.config import Adam, Train

CRITERIA: tuple[Criterion, ...] = ("max_max", "max_min")


@dataclass(frozen=True)
class CamelStudy:
    """CAMEL as a study of several experiments; `run(folder)` runs or resumes it."""

    experiment: Experiment
    """Of the two classifiers: images with one split that has a validation part, a `CAMEL`, its training, and `Binary`.
    The model's `criterion` is set by the study; its network is that of the instance classifier too."""
    instances: Train = Train(Adam(1e-3), epochs=20, batch_bags=32, select="last")
    """Training of the instance classifier; a bag is a cell."""
    segmentation: AnyModel = UNet.from_scratch()
    """A network for masks."""
    segmentation_train: Train = Train(Adam(1e-3), epochs=20, batch_bags=8)
    """Its training, on painted masks; validation images have painted masks too."""
    known_negatives: bool = True
    """Nothing is painted in images whose label is 0; False paints what the instance classifier says."""

    def __post_init__(self) -> None:
        one, model = self.experiment, self.experiment.model
        for fine, found, expected in (
            (isinstance(model, CAMEL), f"model is {model!r}", "CAMEL(...)"),
            (isinstance(one.task, Binary), f"task is {one.task!r}", "Binary()"),
            (isinstance(one.data, members(ImageSet)), f"data are {type(one.data).__name__}", "images"),
            (not getattr(one.data, "pixel_masks", False), "data hand out masks (pixel_masks)", "data without them"),
            (one.seeds == 1, f"seeds is {one.seeds}", "one; repeat the study in folders of their own, with other seed"),
            (
                one.labels is None and one.search is None and one.optimistic is None,
                "labels, search or optimistic is set",
                "none of them",
            ),
        ):
            if not fine:
                raise ConfigError(f"The experiment's {found}, but a CamelStudy needs {expected}.")
        if self.instances.select != "last":
            raise ConfigError(
                f"instances.select is {self.instances.select!r}, but cells of validation images measure the instance "
                "classifier and select nothing; write Train(..., select='last')."
            )

    def run(self, out: str | Path, tell: Callable[[str], None] = print) -> dict[str, Any]:
        """Run all stages that have not finished yet.

        Args:
            out: the study's folder.
            tell: progress in words.

        Returns:
            What the stage `scores` found: metrics by stage, as in the segmentation section of `results.json`.

        Raises:
            MilkitError: anything the user can mend; finished stages are kept.
        """
        out = Path(out)
        with stages(out, to_json(self), tell) as folder:
            folder.stage("bags", self._bags)
            for criterion in CRITERIA:
                folder.stage(criterion, partial(_run, self.classifier(out, criterion)))
            folder.stage("cells", partial(self._cells, out))
            folder.stage("instances", partial(_run, self.instance_classifier(out)))
            folder.stage("painted", partial(self._painted, out))
            folder.stage("segmentation", partial(_run, self.segmenter(out)))
            folder.stage("scores", partial(self._scores, out))
        found: dict[str, Any] = read_json(out / "scores" / "scores.json")
        return found

    def classifier(self, out: Path, criterion: Criterion) -> Experiment:
        """The experiment of a criterion."""
        model = replace(self._model, criterion=criterion)
        return replace(
            self.experiment,
            data=cohort(out / "bags"), protocol=self._protocol, model=model, task=self._task, unit="slide",
            name=criterion,
        )  # fmt: skip

    def instance_classifier(self, out: Path) -> Experiment:
        """The experiment of single cells: those of training images train, those of validation images measure."""
        return replace(
            self.classifier(out, "max_max"),
            data=cohort(out / "cells"), protocol=replace(self._protocol, allow_single_class=True),
            model=replace(self._model, lattice=1), train=self.instances, name="instances",
        )  # fmt: skip

    def segmenter(self, out: Path) -> Experiment:
        """The experiment of the segmentation network."""
        return replace(
            self.classifier(out, "max_max"),
            data=cohort(out / "bags", masks=str(out / "painted"), pixel_masks=True), model=self.segmentation,
            train=self.segmentation_train, name="segmentation",
        )  # fmt: skip

    @property
    def _model(self) -> CAMEL:
        assert isinstance(self.experiment.model, CAMEL)
        return self.experiment.model

    @property
    def _task(self) -> Binary:
        """As stated, of labels that are written as 0 and 1."""
        assert isinstance(self.experiment.task, Binary)
        return replace(self.experiment.task, label="label", positive="1")

    @property
    def _protocol(self) -> GivenFolds:
        """The split as it was written, with the leaks that the experiment's protocol allowed."""
        given, names = self.experiment.protocol, ("allow_patient_overlap", "allow_single_class")
        return GivenFolds(validation=0.0, **{name: bool(getattr(given, name, False)) for name in names})

    def _bags(self, folder: Path) -> dict[str, Any]:
        one = self.experiment
        study = one.data.load(one.task, one.unit)
        splits = one.protocol.plan(study, one.task).splits
        if len(splits) != 1 or not len(splits[0].validation):
            raise ConfigError(
                f"The protocol draws {len(splits)} splits{'' if len(splits) > 1 else ' without a validation part'}; a "
                "CamelStudy needs one, with a validation part: Holdout(...), or GivenFolds of data with one split."
            )
        return {**write_study(study, splits[0], folder), "positive": str(study.targets.names[1])}

    def _learnt(self, out: Path) -> tuple[Study, Split]:
        """The images of all stages and their split."""
        one = self.classifier(out, "max_max")
        study = one.data.load(one.task, one.unit)
        return study, one.protocol.plan(study, one.task).splits[0]

    def _cells(self, out: Path, folder: Path) -> dict[str, Any]:
        study, split = self._learnt(out)
        n = self._model.lattice
        said: dict[str, Any] = {}
        rows: list[list[object]] = []
        for role, bags in (("train", split.train), ("validation", split.validation)):
            logits: dict[str, np.ndarray] = {
                c: instance_logits(out / c, self.classifier(out, c), study, bags, n) for c in CRITERIA
            }
            chosen = collected(logits, np.asarray(study.targets.values)[bags])
            _check_chosen(chosen, role)
            does = "test" if role == "validation" else role
            entries = zip(
                bags[chosen.bag].tolist(), chosen.cell.tolist(), chosen.label.tolist(), chosen.by, strict=True
            )
            for bag, cell, label, by in entries:
                name = f"{study.bag[bag]}_{cell:05d}"
                write_image(folder / f"{name}.png", cut(pixels(study, bag), cell, n))
                rows.append([name, label, study.patient[bag], does, cell // n, cell % n, by])
            said |= {f"{role}_0": int((chosen.label == 0).sum()), f"{role}_1": int(chosen.label.sum())}
            said |= {f"{role}_dropped_{c}": count for c, count in chosen.dropped.items()}
        write_table(folder / TABLE, (FILE, "label", "patient", "split", "row", "column", "named_by"), rows)
        return said

    def _painted(self, out: Path, folder: Path) -> dict[str, Any]:
        study, split = self._learnt(out)
        bags = np.concatenate([split.train, split.validation])
        label = np.asarray(study.targets.values)[bags]
        logits = instance_logits(out / "instances", self.instance_classifier(out), study, bags, self._model.lattice)
        found = logits >= 0
        overruled = found & (label == 0)[:, None, None] & self.known_negatives
        positive = found & ~overruled
        assert study.sizes is not None
        for bag, cells in zip(bags.tolist(), positive, strict=True):
            write_image(folder / f"{study.bag[bag]}.png", painted(cells, *study.sizes[bag].tolist()))
        return {
            "images": len(bags),
            "share_positive": round(float(positive[label == 1].mean()), 4),
            "overruled": int(overruled.sum()),
            "positive_images_without_cell": int((~positive[label == 1].any((1, 2))).sum()),
        }

    def _scores(self, out: Path, folder: Path) -> dict[str, Any]:
        found = {name: score(out / name, self.experiment.data) for name in (*CRITERIA, "segmentation")}
        folder.mkdir(exist_ok=True)
        write_json(folder / "scores.json", found)
        return {
            f"{name}_{metric}": values["metrics"][metric]["value"]
            for name, values in found.items()
            for metric in ("dice", "iou")
            if "metrics" in values
        }


def _run(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Run or resume an experiment; which epoch's weights speak."""
    return {"selection": api.run(experiment, folder, resume=True)["selection"]}


def _check_chosen(chosen: Chosen, role: str) -> None:
    """Refuse to go on with cells of one label."""
    found = sorted(set(chosen.label.tolist()))
    if found != [0, 1] and (role == "train" or not found):
        raise DataError(
            f"Of {role} images only cells of label {found} agree with their image (dropped: {chosen.dropped}), so no "
            "instance classifier can be trained: the classifiers of cells have learnt too little. Train longer, or "
            "take another lattice."
        )
