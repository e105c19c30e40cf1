"""GlaS and UCSB breast as bags of embedded tiles, with their patients and groups."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from milkit.bag import Bag
from milkit.data.datasets.bagset import BagSet, given_roles
from milkit.data.datasets.folders import bytes_of, find
from milkit.data.datasets.records import absent, record_of
from milkit.data.formats.header import opened
from milkit.data.memory import MemorySource
from milkit.data.study import GivenSplit, Study, Unit
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields
from milkit.task import Task

ENCODER = "EfficientNet-Lite0 (ImageNet)"
MPP = {"glas": 0.62005, "ucsb_breast": None}
"""Micrometres a pixel: GlaS' as Sirinukunwattana et al. (2017) state it; UCSB's is not published with the images."""
COLUMNS = {"glas": ("name", "patient ID", "grade (GlaS)"), "ucsb_breast": ("image", "slide", "label")}
"""Columns of image, patient (or group) and label in the tables."""
NEAR_CEILING = "these features are near the ceiling: they show that a pipeline works, and do not rank models"


@dataclass(frozen=True)
class TissueFeatures:
    """An image of tissue is a bag, its tiles embedded by EfficientNet-Lite0 are the instances; label benign, malignant.

    `glas`: 165 images of 16 patients; the official split (training, tests A and B) is given, but 11 patients stand on
    both sides of it: `GivenFolds` refuses it unless allow_patient_overlap=True, `KFold` keeps patients together.
    `read().instance_labels(i)` is the share of each tile that is gland. `ucsb_breast`: 58 images in 10 groups.

    Labels belong to images: experiments need `unit="slide"`.

    References:
        Sirinukunwattana et al. Medical Image Analysis 35 (2017) 489-502; Gelasca et al. ICIP 2008.
    """

    name: Literal["glas", "ucsb_breast"]
    verify: bool = True
    """Compare the files with their known digests; False takes features of your own in the same layout."""

    def __post_init__(self) -> None:
        check_fields(self, "data")

    def read(self) -> BagSet:
        """Features, labels, patients, and (GlaS) the official split.

        Raises:
            DataError: a file is absent, another one, or not as it should be.
        """
        record = record_of(self.name)
        if not all(find(file) for file in record.files):
            raise absent(record)
        instead = f"from {record.where}; for features of your own set verify=False"
        path, _ = bytes_of(record.files[0], self.verify, instead)
        table_path, table = bytes_of(record.files[1], self.verify, instead)
        rows = _rows(table_path, table, COLUMNS[self.name])
        bags, shares = _bags(path, MPP[self.name])
        lacking = sorted(set(bags) - set(rows))
        if lacking or not bags:
            raise DataError(f"{table_path} has no row for {lacking[:3]} of {path}.")
        ids = tuple(bags)
        patient, grade = (np.array([rows[name][i] for name in ids], np.str_) for i in (0, 1))
        wrong = sorted(set(grade.tolist()) - set(record.classes))
        if wrong:
            raise DataError(f"{table_path}: label {wrong[0]!r}; expected one of {', '.join(record.classes)}.")
        tile_px = bags[ids[0]][1]
        mpp = MPP[self.name]
        source = MemorySource(
            ids=ids,
            lengths=np.array([len(bag.x) for bag, _ in bags.values()], np.int64),
            features=bags[ids[0]][0].x.shape[1],
            provenance={
                "encoder": ENCODER, "mpp": mpp, "tile_um": None if mpp is None else mpp * tile_px, "tile_px": tile_px,
                "file": path.name,
            },
            bags={name: bag for name, (bag, _) in bags.items()},
        )  # fmt: skip
        given, notes = _official(ids) if self.name == "glas" else ((), ())
        return BagSet(
            name=self.name,
            source=source,
            classes=record.classes,
            labels=(grade == record.classes[1]).astype(np.int64),
            digest=_digest(path, table),
            file=table_path.name,
            columns={"patient_id": patient},
            given=given,
            notes=(*notes, NEAR_CEILING),
            slide_labels=True,
            instances=(lambda i: shares[ids[i]]) if shares else None,
        )

    def load(self, task: Task | None = None, unit: Unit = "patient") -> Study:
        """The study of a task.

        Raises:
            ConfigError: the unit is the patient, whose images have different labels.
        """
        if unit == "patient":
            raise ConfigError(f"{self.name}: labels belong to images, and a patient has several; set unit='slide'.")
        return self.read().study(task, unit)


def _rows(path: Path, content: bytes, columns: tuple[str, str, str]) -> dict[str, tuple[str, str]]:
    """Patient and label by image."""
    table = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "replace")))
    lacking = [column for column in columns if column not in (table.fieldnames or ())]
    if lacking:
        raise DataError(f"{path} lacks the column {lacking[0]!r}; it has {table.fieldnames}.")
    return {row[columns[0]].strip(): (row[columns[1]].strip(), row[columns[2]].strip()) for row in table}


def _bags(path: Path, mpp: float | None) -> tuple[dict[str, tuple[Bag, int]], dict[str, np.ndarray]]:
    """Each image's bag with its tile width in pixels, and the share of gland in its tiles where it is there."""
    bags: dict[str, tuple[Bag, int]] = {}
    shares: dict[str, np.ndarray] = {}
    with opened(path) as file:
        for name in sorted(file):
            group = file[name]
            if not isinstance(group, h5py.Group) or "features" not in group or "coords" not in group:
                raise DataError(f"{path}: {name!r} is no group with 'features' and 'coords'.")
            x, coords = group["features"][()], group["coords"][()].astype(np.int64)
            tile_px = int(group["coords"].attrs.get("patch_size", 0))
            if x.ndim != 2 or coords.shape != (len(x), 2) or tile_px < 1:
                raise DataError(f"{path}: {name!r} has features {x.shape} and coords {coords.shape} of {tile_px} px.")
            um = None if mpp is None else (coords * mpp).astype(np.float32)
            bags[name] = (Bag(name, x, um, coords, None if mpp is None else tile_px * mpp, mpp), tile_px)
            if "mask_fraction" in group:
                shares[name] = group["mask_fraction"][()]
    if len({tile_px for _, tile_px in bags.values()}) > 1:
        raise DataError(f"{path}: tiles of several widths; expected one.")
    return bags, shares if len(shares) == len(bags) else {}


def _official(ids: tuple[str, ...]) -> tuple[tuple[GivenSplit, ...], tuple[str, ...]]:
    """GlaS' own split, which is in the names of its images."""
    role = np.array(["train" if name.startswith("train") else "test" for name in ids])
    note = "the official split has 11 of 16 patients on both sides; report a patient-grouped one (KFold) beside it"
    return given_roles(role), (note,)


def _digest(path: Path, table: bytes) -> str:
    return hashlib.sha256(path.read_bytes() + table).hexdigest()
