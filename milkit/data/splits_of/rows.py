"""Tables with a row an id: a cell names its part, a column a fold does, or a number the fold in which it is tested."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from milkit.data.splits import ROLE_WORDS
from milkit.data.splits_of.columns import is_empty, table_in, whole_number
from milkit.data.splits_of.named import Draft, Level, SplitFile, role_of
from milkit.errors import ProtocolError

SLIDE = (
    "slide_id", "slide", "slide_name", "bag_id", "bag_name", "bag", "image_id", "image", "sample_id", "sample",
    "slide_path", "path", "filename",
)  # fmt: skip
PATIENT = ("patient_id", "patient", "case_id", "case")
ANYBODY = ("id", "name")
FOLD = re.compile(r"fold_?([0-9]{1,9})")
MOST_ENTRIES = 1 << 23
"""Ids times folds of a table that states the fold only: leave-one-out of 2,900."""


@dataclass(frozen=True)
class RowColumns:
    """Which columns are read, by their names in lower case; "" for none.

    Attributes:
        name: the ids.
        of: what they name.
        patient: patients beside slides.
        part: the part of each.
        repeat, fold, inner: the split's numbers.
    """

    name: str
    of: Level
    patient: str = ""
    part: str = ""
    repeat: str = ""
    fold: str = ""
    inner: str = ""


def id_column(header: Sequence[str]) -> RowColumns | None:
    """The column of ids, what they name, and the column of patients beside slides; None where there is none."""
    patient = next((c for c in PATIENT if c in header), "")
    if slide := next((c for c in SLIDE if c in header), ""):
        return RowColumns(slide, "slide", patient)
    if patient:
        return RowColumns(patient, "patient")
    anybody = next((c for c in ANYBODY if c in header), "")
    return RowColumns(anybody, "unknown") if anybody else None


def fold_columns(header: Sequence[str]) -> list[str]:
    """The columns fold_0, fold_1, ..., by number."""
    found = [(int(match[1]), name) for name in header if (match := FOLD.fullmatch(name))]
    return [name for _, name in sorted(found)]


def a_cell_names_the_part(file: SplitFile, columns: RowColumns) -> list[Draft]:
    """Rows of an id and its part; a split for each of the numbers in the columns of repeats, folds and inner folds.

    Raises:
        ProtocolError: a part that is no role, or a number that is none.
    """
    drafts: dict[tuple[int, int, int], Draft] = {}
    for row, line in _rows(file):
        if is_empty(row[columns.part]):
            continue
        said = _part(row[columns.part], f"{file.file}, line {line}: {columns.part} is")
        key = _key(file, row, line, columns)
        draft = drafts.setdefault(
            key, Draft(file.file, columns.of, key=key if columns.repeat or columns.inner else None)
        )
        _add(draft, row, columns, said, f"line {line}")
    return [drafts[key] for key in sorted(drafts)]


def a_column_a_fold(file: SplitFile, columns: RowColumns, folds: Sequence[str]) -> list[Draft]:
    """Rows of an id and its part in every fold, a column each; an empty cell takes no part.

    Raises:
        ProtocolError: a part that is no role.
    """
    drafts = [Draft(file.file, columns.of) for _ in folds]
    for row, line in _rows(file):
        for draft, column in zip(drafts, folds, strict=True):
            if not is_empty(row[column]):
                said = _part(row[column], f"{file.file}, line {line}, column {column!r}:")
                _add(draft, row, columns, said, f"line {line}, column {column!r}")
    return drafts


def the_fold_that_tests(file: SplitFile, columns: RowColumns) -> list[Draft]:
    """Rows of an id and the number of the fold in which it is tested; in the others of its repeat it trains.

    Raises:
        ProtocolError: a fold that is no number, or one fold only.
    """
    repeats: dict[int, list[tuple[Mapping[str, str], int, int]]] = {}
    for row, line in _rows(file):
        if not is_empty(row[columns.fold]):
            repeat, fold, _ = _key(file, row, line, replace(columns, inner=""))
            repeats.setdefault(repeat, []).append((row, line, fold))
    drafts: list[Draft] = []
    entries = 0
    for repeat, rows in sorted(repeats.items()):
        numbers = sorted({fold for *_, fold in rows})
        entries += len(numbers) * len(rows)
        if len(numbers) < 2:
            raise ProtocolError(
                f"{file.file}: column {columns.fold!r} holds the folds {numbers}; expected at least two, each the "
                "number of the fold in which an id is tested."
            )
        if entries > MOST_ENTRIES:
            raise ProtocolError(
                f"{file.file}: column {columns.fold!r} holds {len(numbers)} numbers in {len(rows)} rows, too many for "
                "folds; is it the number of the fold in which an id is tested?"
            )
        for place, number in enumerate(numbers):
            draft = Draft(file.file, columns.of, key=(repeat, place, 0) if columns.repeat else None)
            for cells, line, own in rows:
                _add(draft, cells, columns, "test" if own == number else "train", f"line {line}")
            drafts.append(draft)
    return drafts


def _rows(file: SplitFile) -> Iterator[tuple[dict[str, str], int]]:
    """The cells of each row by column, and its line."""
    table = table_in(file)
    at = {c: i for i, c in enumerate(file.header)}
    for cells, line in zip(table.rows, table.lines, strict=True):
        yield {c: cells[i].strip() for c, i in at.items()}, line


def _key(file: SplitFile, row: Mapping[str, str], line: int, columns: RowColumns) -> tuple[int, int, int]:
    """Repeat, fold and inner fold; 0 where there is no such column."""
    numbers = [
        whole_number(row[column], f"{file.file}, line {line}: {column}") if column else 0
        for column in (columns.repeat, columns.fold, columns.inner)
    ]
    return numbers[0], numbers[1], numbers[2]


def _part(cell: str, where: str) -> str:
    """A part in lower case."""
    said = cell.lower()
    if not role_of(said):
        raise ProtocolError(f"{where} {cell!r}; expected {ROLE_WORDS}, a name that begins with test, or nothing.")
    return said


def _add(draft: Draft, row: Mapping[str, str], columns: RowColumns, part: str, place: str) -> None:
    """One row's id; a patient who has a row for each slide may stand in one part many times."""
    name = row[columns.name]
    if is_empty(name):
        raise ProtocolError(f"{draft.file}, {place}: no id in column {columns.name!r}; every row needs one.")
    if draft.of == "patient" and draft.parts.get(name) == part:
        return
    draft.add(name, part, place, patient=row[columns.patient] if columns.patient else "")
