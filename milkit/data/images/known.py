"""Known sets of whole images, read where `MILKIT_DATA` says: GlaS, UCSB breast, the colon images."""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from milkit.data.datasets.folders import find, roots
from milkit.data.images.decode import Reading, stem_of
from milkit.data.images.masks import MaskFolder, Masks
from milkit.data.images.opened import OpenImages, image_study
from milkit.data.images.truth import with_pixel_masks
from milkit.data.study import GivenSplit, Study, Unit
from milkit.data.table import CohortTable, table_of
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Task

OVERLAP = "the official split has 11 of 16 patients on both sides; report a patient-grouped one beside it"
LEAKY = (
    "patient-leaky: the images are from 9 patients, but no file says which is whose, so folds cannot keep a patient's "
    "images together; results are better than on new patients"
)


@dataclass(frozen=True)
class _Files:
    """Where a set's table and images are, under `MILKIT_DATA`, and which columns hold image, patient and label."""

    table: str
    images: str
    image: str
    patient: str
    label: str
    masks: str = ""


_FILES = {
    "glas": _Files("glas/Grade.csv", "glas/images", "name", "patient ID", "grade (GlaS)", "glas/masks"),
    "ucsb_breast": _Files("ucsb_breast/labels.csv", "ucsb_breast/images", "image", "slide", "label"),
    "colon": _Files("colon_crchisto/nuclei_classified.csv", "colon_crchisto/images", "image", "", "type"),
}


@dataclass(frozen=True)
class KnownImages:
    """Whole images of a known set; nothing is copied. Column `label` is the class of the image.

    `glas`: 165 images of 16 patients, benign or malignant, with masks of glands; training 85, test 60 (A) and 20 (B).
    `ucsb_breast`: 58 images in 10 groups, benign or malignant. `colon`: 100 images, 1 where a nucleus is epithelial.

    Labels belong to images: experiments need `unit="slide"`.

    References:
        Sirinukunwattana et al. Medical Image Analysis 35 (2017) 489-502 (GlaS), IEEE TMI 35 (2016) 1196-1206 (colon);
        Gelasca et al. ICIP 2008 (UCSB).
    """

    name: Literal["glas", "ucsb_breast", "colon"]
    split: Literal["none", "official", "patients"] = "none"
    """The split that is given: GlaS' official one; or one of `folds` in which no patient stands on both sides, drawn
    without chance: patients with the most images first, each to the fold with the fewest."""
    fold: int = 0
    """Of split="patients": whose images are test images, from 0."""
    folds: int = 4
    """Of split="patients"."""
    validation_folds: int = 0
    """Patients of the training images in so many folds, as in `folds`, the first of which is the validation part of the
    given split; 0 leaves that to the protocol. Crops need it beside split="official": a protocol that lets patients
    overlap would draw crops of one image into both parts."""
    downsample: int = 1
    """Side of the blocks of pixels whose mean becomes one pixel; masks follow."""
    max_gib: float = 0.0
    """The most memory that pixels may take; 0 is a quarter of the machine's."""
    pixel_masks: bool = False
    """Hand out the masks of training and validation images, for supervised upper bounds: the study is then one of pixel
    supervision, which its flow says. Needs one given split (and `GivenFolds`); masks of test images stay closed."""

    slide_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(
            self, "data", fold="[0, inf)", folds="[2, inf)", validation_folds="[0, inf)", downsample="[1, 1024]",
            max_gib="[0, inf)",
        )  # fmt: skip
        if self.split == "official" and self.name != "glas":
            raise ConfigError(f"{self.name!r} has no official split; take split='patients' or split='none'.")
        if self.split == "patients" and self.name == "colon":
            raise ConfigError("No file says whose the colon images are; take split='none' (and mark it patient-leaky).")
        if self.validation_folds == 1:
            raise ConfigError("data.validation_folds is 1, which leaves nobody to train on; take 2 or more, or 0.")
        if self.fold >= self.folds:
            raise ConfigError(f"data.fold is {self.fold}; folds are counted from 0 to {self.folds - 1}.")

    def load(self, task: Task, unit: Unit = "patient") -> Study:
        """Decode the images and make the study. No mask is opened, unless `pixel_masks`.

        Raises:
            DataError: files that are absent or not as they should be.
            ConfigError: the unit is the patient, who has several images; see `pixel_masks`.
        """
        opened = self.open()
        study = image_study(opened, task, unit, pixel_masks=self.pixel_masks)
        return with_pixel_masks(study, opened, task) if self.pixel_masks else study

    def masks_of(self, study: Study) -> Masks:
        """The masks of a study that was loaded from it, for scoring.

        Raises:
            DataError: the set has none.
        """
        if not _FILES[self.name].masks:
            raise DataError(f"The set {self.name!r} has no masks.")
        return self.open().masks_of(study)

    def open(self) -> OpenImages:
        """The table and the files; no image or mask is read.

        Raises:
            DataError: files that are absent or not as they should be.
        """
        files = _FILES[self.name]
        content = _found(files.table).read_bytes()
        rows = _rows(files, content)
        table = _table(files, rows, hashlib.sha256(content).hexdigest())
        paths = {stem_of(path.name): path for path in sorted(_found(files.images).iterdir())}
        lacking = [i for i in table.slide.tolist() if i not in paths]
        if lacking:
            raise DataError(f"{_found(files.images)} lacks the image {lacking[0]!r} of {files.table}.")
        folder = MaskFolder.of(_found(files.masks)) if files.masks else None
        masks = {i: folder.of_image(i) for i in table.slide.tolist()} if folder else {}
        given, notes = self._given(table)
        return OpenImages(
            name=self.name,
            table=table,
            files={i: paths[i] for i in table.slide.tolist()},
            masks={i: path for i, path in masks.items() if path is not None},
            reading=Reading(self.downsample),
            split="-",
            max_gib=self.max_gib,
            given=given,
            notes=notes,
        )

    def _given(self, table: CohortTable) -> tuple[tuple[GivenSplit, ...], tuple[str, ...]]:
        leaky = (LEAKY,) if self.name == "colon" else ()
        if self.split == "none":
            return (), leaky
        if self.split == "official":
            role = np.array(["train" if name.startswith("train") else "test" for name in table.slide.tolist()], "U10")
            number, notes = 0, [OVERLAP]
        else:
            role = np.where(patient_folds(table.patient, self.folds) == self.fold, "test", "train").astype("U10")
            number, notes = (
                self.fold,
                [f"patients in {self.folds} folds by numbers of images; fold {self.fold} is tested"],
            )
        if self.validation_folds:
            train = np.flatnonzero(role == "train")
            held = train[patient_folds(table.patient[train], self.validation_folds) == 0]
            role[held] = "validation"
            notes.append(
                f"validation: {len(held)} images, the first of {self.validation_folds} folds of training patients"
            )
        return (GivenSplit(0, number, role),), tuple(notes)


def patient_folds(patient: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each image: patients with the most images first, each to the fold with the fewest images so far.

    Raises:
        DataError: fewer patients than folds.
    """
    names, counts = np.unique(patient, return_counts=True)
    if len(names) < folds:
        raise DataError(f"{len(names)} patients cannot be put into {folds} folds; take fewer folds.")
    filled = np.zeros(folds, np.int64)
    fold = {}
    for k in np.lexsort((names, -counts)):
        fold[str(names[k])] = int(filled.argmin())
        filled[filled.argmin()] += counts[k]
    return np.array([fold[str(name)] for name in patient], np.int64)


def _found(file: str) -> Path:
    path = find(file)
    if path is None:
        places = " or ".join(map(str, roots()))
        raise DataError(f"{file} is not in {places}; set MILKIT_DATA to the folder that holds it (docs/images.md).")
    return path


def _rows(files: _Files, content: bytes) -> Mapping[str, tuple[str, str]]:
    """Patient and label of each image, in the order of the table."""
    table = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "replace")))
    lacking = [c for c in (files.image, files.patient, files.label) if c and c not in (table.fieldnames or ())]
    if lacking:
        raise DataError(f"{files.table} lacks the column {lacking[0]!r}; it has {table.fieldnames}.")
    rows: dict[str, tuple[str, str]] = {}
    for row in table:
        image = (row[files.image] or "").strip()
        if files.patient:
            rows[image] = ((row[files.patient] or "").strip(), (row[files.label] or "").strip())
        else:  # a row a nucleus
            seen = rows.get(image, (image, "0"))[1] == "1" or row[files.label] == "epithelial"
            rows[image] = (image, str(int(seen)))
    return rows


def _table(files: _Files, rows: Mapping[str, tuple[str, str]], digest: str) -> CohortTable:
    cells = {
        "image": np.array(list(rows), np.str_),
        "patient": np.array([patient for patient, _ in rows.values()], np.str_),
        "label": np.array([label for _, label in rows.values()], np.str_),
    }
    return table_of(Path(files.table).name, cells, np.arange(len(rows)), digest=digest, line_word="row")
