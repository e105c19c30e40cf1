"""Risks or probabilities that were published with another paper, as a prediction table.

A CSV (UTF-8; commas, semicolons or tabs) with one row a patient, or one a patient and fold, repeat or seed. Names are
recognised whatever their case, with blanks and hyphens read as underscores:

    patient   patient, patient_id, case, case_id             needed
    survival  time, event, risk                              time >= 0, event 1 = seen, higher risk = earlier
    binary    target, prob                                   target 0 or 1, prob of class 1 between 0 and 1
    fold, repeat, seed                                       whole numbers; 0 where there is no such column
    site                                                     text
    slide     slide, slide_id, bag, bag_id                   several rows a patient, which become one as in a study
    split     train, validation (val, valid), test           only test rows are compared; all rows where there is none

Other columns are passed over and named in a note.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.errors import RunFolderError
from milkit.predictions import Kind, Predictions

COLUMNS: dict[str, tuple[str, ...]] = {
    "patient": ("patient", "patient_id", "case", "case_id"),
    "slide": ("slide", "slide_id", "bag", "bag_id"),
    "site": ("site",),
    "split": ("split",),
    "fold": ("fold",),
    "repeat": ("repeat",),
    "seed": ("seed",),
    "time": ("time",),
    "event": ("event",),
    "risk": ("risk",),
    "target": ("target",),
    "prob": ("prob",),
}
_ROLES = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
_EXPECTED = (
    "expected a patient column (patient, patient_id, case or case_id) and either time, event, risk or target, prob; "
    "or a predictions.csv as milkit writes it"
)


@dataclass(frozen=True, eq=False)
class Foreign:
    """A foreign table as predictions, and what to say about how it was read."""

    predictions: Predictions
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Cells by role, and the line of each row."""

    path: Path
    cells: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, role: str, expected: str, fine=math.isfinite) -> np.ndarray:
        """A column of numbers.

        Raises:
            RunFolderError: a cell is no number, or not a fine one.
        """
        out = np.empty(len(self))
        for i, cell in enumerate(self.cells[role]):
            try:
                out[i] = float(cell)
            except ValueError:
                out[i] = math.nan
            if not fine(float(out[i])):
                self.refuse(i, role, cell, expected)
        return out

    def whole(self, role: str) -> np.ndarray:
        """A column of whole numbers from 0 on; zeros where there is none."""
        if role not in self.cells:
            return np.zeros(len(self), np.int64)
        found = self.numbers(role, "a whole number from 0 on", lambda x: math.isfinite(x) and x >= 0 and x == int(x))
        return found.astype(np.int64)

    def text(self, role: str, default: Sequence[str]) -> np.ndarray:
        """A column of text."""
        return np.array(self.cells.get(role, list(default)), np.str_)

    def refuse(self, row: int, role: str, cell: str, expected: str) -> None:
        """Say which cell is wrong."""
        raise RunFolderError(
            f"{self.path}, line {self.lines[row]}, column {role}: found {cell!r}, expected {expected}."
        )


def is_native(path: Path) -> bool:
    """Whether a CSV has the header of milkit's own `predictions.csv`."""
    header, _, _ = _parse(path)
    return {"experiment", "run", "selection", "role"} <= set(header)


def read_foreign(path: Path) -> Foreign:
    """Read a published table.

    Raises:
        RunFolderError: it cannot be read, lacks a column, holds a cell that is not what its column holds, or a patient
            twice in one fold, repeat and seed without slides to tell the rows apart.
    """
    rows, notes = _rows(path)
    survival = "risk" in rows.cells
    kind: Kind = "Survival" if survival else "Binary"
    patient = rows.text("patient", ())
    slide = rows.text("slide", rows.cells["patient"])
    repeat, fold, seed = (rows.whole(role) for role in ("repeat", "fold", "seed"))
    _refuse_twice(rows, list(zip(repeat, fold, seed, slide, _role(rows), strict=True)))
    blank = np.full(len(rows), "", np.str_)
    run = np.array([f"r{r}f{f}s{s}" for r, f, s in zip(repeat, fold, seed, strict=True)], np.str_)
    score = rows.numbers("risk", "a finite number")[:, None] if survival else _probabilities(rows)
    predictions = Predictions(
        kind=kind,
        names=("risk",) if survival else ("0", "1"),
        experiment=np.full(len(rows), path.stem),
        run=run,
        repeat=repeat,
        fold=fold,
        seed=seed,
        selection=np.full(len(rows), "last"),
        role=_role(rows),
        bag=slide,
        slide=slide,
        patient=patient,
        site=rows.text("site", blank.tolist()),
        cohort=blank,
        target=_truth(rows, survival),
        logits=score[:, -1:],
        score=score,
        selected_epoch=np.full(len(rows), -1, np.int64),
        threshold=np.full((len(rows), 1), np.nan),
    )
    return Foreign(predictions, notes)


def _truth(rows: _Rows, survival: bool) -> np.ndarray:
    zero_or_one = ("0 or 1", lambda x: x in (0, 1))
    if not survival:
        return rows.numbers("target", *zero_or_one)[:, None]
    time = rows.numbers("time", "a number from 0 on", lambda x: math.isfinite(x) and x >= 0)
    return np.stack([time, rows.numbers("event", *zero_or_one)], 1)


def _probabilities(rows: _Rows) -> np.ndarray:
    p = rows.numbers("prob", "a probability from 0 to 1", lambda x: 0 <= x <= 1)
    return np.stack([1 - p, p], 1)


def _role(rows: _Rows) -> np.ndarray:
    out = []
    for i, cell in enumerate(rows.cells.get("split", ["test"] * len(rows))):
        if cell.lower() not in _ROLES:
            rows.refuse(i, "split", cell, "train, validation (val, valid) or test")
        out.append(_ROLES[cell.lower()])
    return np.array(out, np.str_)


def _refuse_twice(rows: _Rows, keys: list[tuple]) -> None:
    first: dict[tuple, int] = {}
    for i, key in enumerate(keys):
        if key in first:
            raise RunFolderError(
                f"{rows.path}, line {rows.lines[i]}: {rows.cells['patient'][i]!r} was already given in line "
                f"{rows.lines[first[key]]} for the same fold, repeat and seed; add the column fold, repeat, seed or "
                "slide that tells the rows apart, or remove one."
            )
        first[key] = i


def _rows(path: Path) -> tuple[_Rows, tuple[str, ...]]:
    """Columns by role, and notes on what was not read."""
    header, body, lines = _parse(path)
    plain = [re.sub(r"[\s\-]+", "_", name.strip().lower()) for name in header]
    cells: dict[str, list[str]] = {}
    used: set[int] = set()
    for role, names in COLUMNS.items():
        places = [i for i, name in enumerate(plain) if name in names]
        if len(places) > 1:
            both = ", ".join(repr(header[i]) for i in places)
            raise RunFolderError(f"{path}: the columns {both} could each be the {role}; keep one.")
        if places:
            cells[role] = [row[places[0]].strip() for row in body]
            used.add(places[0])
    scores = [s for s in ("risk", "prob") if s in cells]
    needed = {"risk": ("patient", "time", "event"), "prob": ("patient", "target")}.get(scores[0] if scores else "", ())
    missing = [role for role in needed if role not in cells]
    if len(scores) != 1 or missing:
        lacks = f"lacks {', '.join(missing)}" if missing else "holds both risk and prob" if scores else "holds no score"
        raise RunFolderError(f"{path} {lacks}; its columns are {', '.join(header)}. {_EXPECTED.capitalize()}.")
    for i, cell in enumerate(cells["patient"]):
        if not cell:
            raise RunFolderError(f"{path}, line {lines[i]}: no id in the patient column; every row needs one.")
    unread = [header[i] for i in range(len(header)) if i not in used]
    notes = (f"columns not read: {', '.join(unread)}",) if unread else ()
    return _Rows(path, cells, lines), notes


def _parse(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and the line each row ends on; blank lines are passed over."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RunFolderError(f"{path} is not UTF-8 text; save the table as CSV in UTF-8.") from None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}.") from None
    first = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    header: list[str] = []
    rows, lines = [], []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = row
                continue
            if len(row) != len(header):
                raise RunFolderError(
                    f"{path}, line {reader.line_num}: found {len(row)} cells, expected {len(header)} as in the header."
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise RunFolderError(f"{path}, line {reader.line_num}: not valid CSV ({error}); check its quotes.") from None
    if not rows:
        raise RunFolderError(f"{path} holds no row; {_EXPECTED}.")
    return header, rows, lines
