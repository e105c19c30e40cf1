"""Real sets as `milkit check` is given them: bags, a table and folds; for planting defects in."""

import csv
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from milkit.bag import Bag
from milkit.check import Checked, check_cohort
from milkit.data.memory import MemorySource

CLASSIC = ("musk1", "musk2", "fox", "tiger", "elephant", "ucsb_breast_features", "web1")
EMBEDDED = ("glas", "ucsb_breast")


@dataclass
class Cohort:
    """A set as `milkit check` is given it: bags, rows of the table, and folds as (fold, role, slide id)."""

    name: str
    bags: dict[str, np.ndarray]
    rows: list[dict[str, str]]
    folds: list[tuple[int, str, str]]
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def role(self, fold: int) -> dict[str, str]:
        """Role of each slide in a fold."""
        return {slide: role for number, role, slide in self.folds if number == fold}

    @property
    def y(self) -> dict[str, str]:
        """Label of each slide."""
        return {row["slide_id"]: row["label"] for row in self.rows}

    def copy(self) -> "Cohort":
        """One that may be spoilt."""
        return replace(
            self, bags=dict(self.bags), rows=[dict(r) for r in self.rows], folds=list(self.folds), facts={}, labels={}
        )


class Labelled(MemorySource):
    """A source whose files state labels."""

    labels: dict[str, str]


def data_folder() -> Path:
    """$MILKIT_DATA, else `../shared/data` beside the project."""
    return Path(os.environ.get("MILKIT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def load(name: str) -> Cohort:
    """A set with its labels, patients and folds."""
    if name in EMBEDDED:
        return _embedded(name)
    own = Path(__file__).resolve().parents[1] / "milkit" / "data" / "packaged" / f"{name}.npz"
    with np.load(own if own.is_file() else data_folder() / "mil_classic" / f"{name}.npz") as z:
        x, o, y = z["X"].astype(np.float32), z["offsets"], z["y"].astype(int)
        train = z["train_folds"][0] if "train_folds" in z else None
    ids = [f"{name}-{i:03d}" for i in range(1, len(y) + 1)]
    rows = [{"slide_id": s, "patient_id": s.replace(name, "P"), "label": str(c)} for s, c in zip(ids, y, strict=True)]
    bags = {s: x[a:b] for s, a, b in zip(ids, o[:-1], o[1:], strict=True)}
    if train is None:
        return Cohort(name, bags, rows, drawn(rows))
    folds = [(f, "train" if t else "test", s) for f, part in enumerate(train) for t, s in zip(part, ids, strict=True)]
    return Cohort(name, bags, rows, folds)


def _embedded(name: str) -> Cohort:
    import h5py

    if name == "glas":
        with (data_folder() / "glas" / "Grade.csv").open(encoding="utf-8-sig", newline="") as file:
            told = [{k.strip(): v.strip() for k, v in row.items()} for row in csv.DictReader(file)]
        key = {row["name"]: (row["patient ID"], row["grade (GlaS)"]) for row in told}
    else:
        with (data_folder() / "ucsb_breast" / "labels.csv").open(encoding="utf-8-sig", newline="") as file:
            key = {Path(row["image"]).stem: (row["slide"], row["label"]) for row in csv.DictReader(file)}
    with h5py.File(data_folder() / "features_efflite0" / f"{name}.h5", "r", locking=False) as file:
        bags = {slide: file[slide]["features"][:].astype(np.float32) for slide in file}
    rows = [{"slide_id": s, "patient_id": key[s][0], "label": key[s][1]} for s in bags]
    return Cohort(name, bags, rows, drawn(rows))


def drawn(rows: list[dict[str, str]], folds: int = 5) -> list[tuple[int, str, str]]:
    """Stratified folds that keep patients whole: patients are dealt in the order of their labels."""
    rng = np.random.default_rng(0)
    patients: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        patients.setdefault(row["patient_id"], []).append(row)
    order = sorted(patients, key=lambda p: (sorted(r["label"] for r in patients[p]), rng.random()))
    tested = {row["slide_id"]: i % folds for i, p in enumerate(order) for row in patients[p]}
    return [(f, "test" if t == f else "train", s) for f in range(folds) for s, t in tested.items()]


def run(c: Cohort, **options: Any) -> Checked:
    """Write the table and the folds, and check them with the features."""
    with tempfile.TemporaryDirectory() as folder:
        table, folds = Path(folder) / "cohort.csv", Path(folder) / "folds.csv"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(c.rows[0]))
            writer.writeheader()
            writer.writerows(c.rows)
        with folds.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["repeat", "fold", "inner", "role", "bag"])
            out.writerows([0, fold, 0, role, slide] for fold, role, slide in c.folds)
        ids = tuple(c.bags)
        source = Labelled(
            ids, np.array([len(c.bags[i]) for i in ids], np.int64), next(iter(c.bags.values())).shape[1], {},
            {i: Bag(i, c.bags[i], **c.facts.get(i, {})) for i in ids},
        )  # fmt: skip
        object.__setattr__(source, "labels", c.labels)
        return check_cohort(table, source, folds, **options)
