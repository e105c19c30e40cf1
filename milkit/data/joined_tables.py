"""A table of patients and a table of slides made one: one row a slide, with its patient's cells."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.data.cells import Cells
from milkit.data.matching import as_number, examples, hint, in_one_way
from milkit.data.where import and_more
from milkit.errors import CohortError


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two tables: its cells, and its columns of slides and patients ("" where it has none)."""

    cells: Cells
    slide: str
    patient: str


def join(sides: Sequence[Side]) -> Cells:
    """Give each row of the table of slides the cells of its patient.

    Slides of a patient without a row keep their row, with empty cells, so that the study counts them among those left
    out; patients without a slide are counted in a note.

    Args:
        sides: two tables, in any order; the one with a column of slides is that of the slides.

    Raises:
        CohortError: no table of slides, or two; a table without patients; a patient with two rows; a column in both
            tables; no patient in common.
    """
    slides, patients = _told_apart(sides)
    row_of = _row_of_patient(patients)
    asked = [str(name) for name in slides.cells.columns[slides.patient]]
    held = {name: name for name in asked if name in row_of}
    unique = list(dict.fromkeys(asked))
    mended, _ = in_one_way([unique], row_of, held, as_number)
    held |= mended
    lacking = [name for name in unique if name not in held]
    unused = [name for name in row_of if name not in set(held.values())]
    if not held:
        help_ = hint(lacking, unused)
        raise CohortError(
            f"{slides.cells.file} and {patients.cells.file} have no patient in common: {examples(lacking)} and "
            f"{examples(unused)}. {help_ + '; make the ids equal.' if help_ else 'Are they of one cohort?'}"
        )
    rows = np.array([row_of[held[name]] if name in held else -1 for name in asked])
    added = {
        name: np.where(rows >= 0, cells[rows], "")
        for name, cells in patients.cells.columns.items()
        if name != patients.patient
    }
    _check_names(slides, patients, list(added))
    word, file = slides.cells.line_word, Path(patients.cells.file).name
    return Cells(
        file=slides.cells.file,
        columns={**slides.cells.columns, **added},
        lines=slides.cells.lines,
        notes=(*slides.cells.notes, *patients.cells.notes, *_notes(slides, patients, mended, lacking, unused)),
        digest=hashlib.sha256(f"{slides.cells.digest} {patients.cells.digest}".encode()).hexdigest(),
        line_word=word,
        numbers=slides.cells.numbers | (patients.cells.numbers & added.keys()),
        dates={
            **slides.cells.dates,
            **{name: f"{file}, {said}" for name, said in patients.cells.dates.items() if name in added},
        },
    )


def _told_apart(sides: Sequence[Side]) -> tuple[Side, Side]:
    """The table of slides and that of patients."""
    one, other = sides
    for side in sides:
        if not side.patient:
            raise CohortError(
                f"{side.cells.file}: no column with patient ids; the columns are {list(side.cells.columns)}. Two "
                "tables are joined by patient: call the column PATIENT, patient_id or case_id in both, or name it: "
                "patient='my_column'."
            )
    if bool(one.slide) == bool(other.slide):
        found = f"both have one ({one.slide!r} and {other.slide!r})" if one.slide else "neither has one"
        raise CohortError(
            f"{one.cells.file} and {other.cells.file}: of two tables one has a column with slide ids or files "
            f"(FILENAME, slide_id), the other one row a patient; here {found}. Name the column: slide='my_column'."
        )
    return (one, other) if one.slide else (other, one)


def _row_of_patient(patients: Side) -> dict[str, int]:
    """Patient -> row; rows that repeat each other are one."""
    cells = patients.cells
    rows: dict[str, int] = {}
    for row, name in enumerate(cells.columns[patients.patient].tolist()):
        if not name:
            raise CohortError(f"{cells.file}, {cells.line_word} {cells.lines[row]}: no id in {patients.patient!r}.")
        first = rows.setdefault(name, row)
        differ = [c for c, values in cells.columns.items() if values[first] != values[row]]
        if differ:
            raise CohortError(
                f"{cells.file}, {cells.line_word} {cells.lines[row]}: patient {name!r} has a row already "
                f"({cells.line_word} {cells.lines[first]}) with another {differ[0]!r} "
                f"({str(cells.columns[differ[0]][first])!r} and {str(cells.columns[differ[0]][row])!r}); a patient has "
                "one row."
            )
    return rows


def _check_names(slides: Side, patients: Side, added: Sequence[str]) -> None:
    both = [name for name in added if name in slides.cells.columns]
    if both:
        raise CohortError(
            f"{slides.cells.file} and {patients.cells.file} both have a column {both[0]!r}; take it out of one, so "
            "that it is clear which counts."
        )


def _notes(
    slides: Side, patients: Side, mended: dict[str, str], lacking: Sequence[str], unused: Sequence[str]
) -> list[str]:
    one, other = Path(slides.cells.file).name, Path(patients.cells.file).name
    notes = [f"{one} and {other} are joined by patient"]
    if mended:
        name, meant = next(iter(mended.items()))
        notes.append(
            f"{len(mended)} patient(s) of {one} match {other} as numbers, which have lost leading zeros ({name!r} is "
            f"{meant!r})"
        )
    if lacking:
        said = and_more([repr(n) for n in lacking[:3]], len(lacking))
        notes.append(f"{len(lacking)} patient(s) of {one} have no row in {other}, so no target: {said}")
    if unused:
        said = and_more([repr(n) for n in unused[:3]], len(unused))
        notes.append(f"{len(unused)} patient(s) of {other} have no slide in {one}: {said}")
    return notes
