"""What a protocol yields: for every split, which bags train, validate and test."""

import csv
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from milkit.data.study import Study
from milkit.errors import ProtocolError

GroupedBy = Literal["patient", "site", "none"]
ROLES = ("train", "validation", "test")
COLUMNS = ("repeat", "fold", "inner", "role", "bag", "patient", "grouped_by")


@dataclass(frozen=True, eq=False)
class Split:
    """One fit: who trains, who decides (early stopping, thresholds), who is predicted once at the end.

    Attributes:
        repeat: number of the repetition, from 0.
        fold: number of the fold in it, from 0.
        inner: number of the inner fold, from 0; always 0 unless the protocol is nested.
        train: rows of the study, int64 [.], rising.
        validation: rows of the study, int64 [.], rising; empty where the protocol has no validation part.
        test: rows of the study, int64 [.], rising.
        labels: 0 for all of the training part; else a label budget, patients of each class (`LabelBudget`).
        draw: which subset of that budget, from 1; 0 for all of the training part.
    """

    repeat: int
    fold: int
    inner: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: int = field(default=0, kw_only=True)
    draw: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        for role in ROLES:
            rows = np.sort(np.array(getattr(self, role), dtype=np.int64))
            rows.setflags(write=False)  # a split that changes under a running study would go unnoticed
            object.__setattr__(self, role, rows)

    @property
    def key(self) -> tuple[int, int, int]:
        """(repeat, fold, inner): unique in a plan."""
        return (self.repeat, self.fold, self.inner)

    def __str__(self) -> str:
        few = f", {self.labels} a class, draw {self.draw}" if self.labels else ""
        return f"repeat {self.repeat}, fold {self.fold}" + (f", inner fold {self.inner}" if self.inner else "") + few


@dataclass(frozen=True, eq=False)
class Plan:
    """All splits of a study, in the order of (repeat, fold, inner).

    Attributes:
        splits: one a fit; seeds and models do not change them.
        grouped_by: what the bootstrap resamples: patients, or sites where folds keep sites whole. "none"
            comes only from a folds file that says so.
        marks: what every number of the run carries, such as "patients in two roles".
        notes: what a reader of the report should know, such as a poor balance over sites or few positives in
            a fold.
    """

    splits: tuple[Split, ...]
    grouped_by: GroupedBy
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_validation(self) -> bool:
        """Whether every split has a validation part, so that something can be selected on it."""
        return all(len(split.validation) > 0 for split in self.splits)

    def digest(self) -> str:
        """SHA-256 of the splits and of what they are grouped by; depends on the order of the study's bags."""
        sha = hashlib.sha256(self.grouped_by.encode())
        for split in self.splits:
            sha.update(np.array(split.key, "<i8").tobytes())
            for role in ROLES:
                rows = getattr(split, role)
                sha.update(np.array([len(rows)], "<i8").tobytes() + rows.astype("<i8").tobytes())
        return sha.hexdigest()

    def save(self, path: str | Path, study: Study) -> None:
        """Write the plan as a table that people and `SavedFolds` can read: one row for each bag with a role.

        The file appears whole or not at all: it is written under a temporary name beside it, then renamed.

        Args:
            path: the CSV to write; an older one is replaced.
            study: the study that the plan was made for.

        Raises:
            ProtocolError: the file cannot be written (no folder, no permission, a full disk).
        """
        path = Path(path)
        try:
            _write_whole(path, self._table(study))
        except OSError as error:
            raise ProtocolError(
                f"The folds could not be written to {path}: {error.strerror or error}. "
                "Give a folder that exists, may be written to and has room."
            ) from error

    def _table(self, study: Study) -> Iterable[tuple[object, ...]]:
        yield COLUMNS
        for split in self.splits:
            for role in ROLES:
                for row in getattr(split, role):
                    yield (*split.key, role, study.bag[row], study.patient[row], self.grouped_by)


def _write_whole(path: Path, table: Iterable[tuple[object, ...]]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a table of folds is for sharing
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: leave no half file behind
        Path(temporary).unlink(missing_ok=True)
        raise
