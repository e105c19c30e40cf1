"""The three ways in which tables hold splits: a column a part, a cell that names the part, a column a fold."""

import re
from collections.abc import Mapping, Sequence

from milkit.data.splits import ROLE_NAMES
from milkit.data.splits_of.named import Draft, Level, SplitFile, role_of
from milkit.data.targets import MISSING
from milkit.data.text import TextTable
from milkit.errors import ProtocolError

INDEX = ("", "unnamed: 0")
"""Header of the row numbers that pandas writes before the first column, and of those read back and written again."""
SLIDE = ("slide_id", "slide", "bag_id", "bag_name", "bag", "image", "sample_id", "slide_path", "path", "filename")
PATIENT = ("patient_id", "patient", "case_id", "case")
FOLD = re.compile(r"fold_?([0-9]{1,9})")
MOST_ENTRIES = 1 << 23
"""Ids times folds of a table that states the fold only: leave-one-out of 2,900."""


def table_in(file: SplitFile) -> TextTable:
    """The table of a file that is one; a layout that claimed it knows that it is."""
    if file.table is None:
        raise ProtocolError(f"{file.file}: expected a table.")
    return file.table


def is_empty(cell: str) -> bool:
    """Whether a cell is padding: empty, NA, NaN ..., however pandas wrote it."""
    return cell.strip().lower() in MISSING


def a_column_a_part(file: SplitFile, columns: Mapping[str, str], labels: Mapping[str, str], of: Level) -> Draft:
    """Columns of ids, one a part, padded with empty cells.

    Args:
        file: the table.
        columns: lower-case name of each column of ids -> its part.
        labels: likewise of each column of labels -> its part.
        of: what the ids name.

    Raises:
        ProtocolError: a label without an id beside it, or the reverse.
    """
    table, draft = table_in(file), Draft(file.file, of)
    place = {name: i for i, name in enumerate(file.header)}
    beside = {part: place[name] for name, part in labels.items() if name in place}
    for column, part in columns.items():
        if column not in place:
            continue
        for cells, line in zip(table.rows, table.lines, strict=True):
            name = cells[place[column]].strip()
            label = cells[beside[part]].strip() if part in beside else ""
            if part in beside and is_empty(name) != is_empty(label):
                found, lacking = ("a label", "id") if is_empty(name) else (f"id {name!r}", "label")
                raise ProtocolError(
                    f"{file.file}, line {line}: {found} in the columns of {part!r} without {lacking} beside it; both "
                    "or neither is expected."
                )
            if not is_empty(name):
                draft.add(name, part, f"line {line}, column {column!r}", label="" if is_empty(label) else label)
    return draft


def a_cell_names_the_part(
    file: SplitFile, of: Level, name: str, part: str, *, fold: str = "", patient: str = "", word: str = "split"
) -> list[Draft]:
    """Rows of an id and its part; one split, or one for each value of a column of fold numbers.

    Args:
        file: the table.
        of: what the ids name.
        name, part, fold, patient: lower-case names of the columns; "" for none.
        word: what a column of parts is called in messages.

    Raises:
        ProtocolError: a part that is no role, or a fold that is no number.
    """
    table = table_in(file)
    at = {c: i for i, c in enumerate(file.header)}
    drafts: dict[int, Draft] = {}
    for cells, line in zip(table.rows, table.lines, strict=True):
        row = {c: cells[i].strip() for c, i in at.items()}
        if is_empty(row[part]):
            continue
        said = row[part].lower()
        if not role_of(said):
            raise ProtocolError(
                f"{file.file}, line {line}: {word} is {row[part]!r}; expected one of {', '.join(ROLE_NAMES)}, a name "
                "that begins with test, or nothing."
            )
        number = whole_number(row[fold], f"{file.file}, line {line}: {fold}") if fold else 0
        draft = drafts.setdefault(number, Draft(file.file, of))
        _add(draft, row, name, patient, said, f"line {line}")
    return [drafts[number] for number in sorted(drafts)]


def a_column_a_fold(file: SplitFile, of: Level, name: str, folds: Sequence[str], patient: str = "") -> list[Draft]:
    """Rows of an id and its part in every fold, a column each; an empty cell takes no part.

    Args:
        file: the table.
        of: what the ids name.
        name, patient: lower-case names of the columns; "" for none.
        folds: the columns, in the order of the folds.

    Raises:
        ProtocolError: a part that is no role.
    """
    table = table_in(file)
    at = {c: i for i, c in enumerate(file.header)}
    drafts = [Draft(file.file, of) for _ in folds]
    for cells, line in zip(table.rows, table.lines, strict=True):
        row = {c: cells[i].strip() for c, i in at.items()}
        for draft, column in zip(drafts, folds, strict=True):
            if is_empty(row[column]):
                continue
            said = row[column].lower()
            if not role_of(said):
                raise ProtocolError(
                    f"{file.file}, line {line}, column {column!r}: {row[column]!r}; expected one of "
                    f"{', '.join(ROLE_NAMES)} or nothing."
                )
            _add(draft, row, name, patient, said, f"line {line}, column {column!r}")
    return drafts


def the_fold_that_tests(file: SplitFile, of: Level, name: str, fold: str, patient: str = "") -> list[Draft]:
    """Rows of an id and the number of the fold in which it is tested; in all others it trains.

    Raises:
        ProtocolError: a fold that is no number, or one fold only.
    """
    table = table_in(file)
    at = {c: i for i, c in enumerate(file.header)}
    rows = []
    for cells, line in zip(table.rows, table.lines, strict=True):
        row = {c: cells[i].strip() for c, i in at.items()}
        if not is_empty(row[fold]):
            rows.append((row, line, whole_number(row[fold], f"{file.file}, line {line}: {fold}")))
    numbers = sorted({number for *_, number in rows})
    if len(numbers) < 2:
        raise ProtocolError(
            f"{file.file}: column {fold!r} holds the folds {numbers}; expected at least two, each the number of the "
            "fold in which an id is tested."
        )
    if len(numbers) * len(rows) > MOST_ENTRIES:
        raise ProtocolError(
            f"{file.file}: column {fold!r} holds {len(numbers)} numbers in {len(rows)} rows, too many for folds; is it "
            "the number of the fold in which an id is tested?"
        )
    drafts = []
    for number in numbers:
        draft = Draft(file.file, of)
        for row, line, own in rows:
            _add(draft, row, name, patient, "test" if own == number else "train", f"line {line}")
        drafts.append(draft)
    return drafts


def _add(draft: Draft, row: Mapping[str, str], name: str, patient: str, part: str, place: str) -> None:
    """One row's id; a patient who has a row for each slide may stand in one part many times."""
    if is_empty(row[name]):
        raise ProtocolError(f"{draft.file}, {place}: no id in column {name!r}; every row needs one.")
    if draft.of == "patient" and draft.parts.get(row[name]) == part:
        return
    draft.add(row[name], part, place, patient=row[patient] if patient else "")


def whole_number(text: str, what: str) -> int:
    """A whole number from 0, also as pandas writes one beside empty cells (3.0).

    Raises:
        ProtocolError: it is none; the message begins with `what`.
    """
    match = re.fullmatch(r"([0-9]{1,9})(\.0*)?", text)
    if not match:
        raise ProtocolError(f"{what} is {text!r}; expected a whole number from 0.")
    return int(match[1])


def id_column(header: Sequence[str]) -> tuple[str, Level, str]:
    """The column of ids, what they name, and the column of patients beside slides; "" where there is none."""
    patient = next((c for c in header if c in PATIENT), "")
    slide = next((c for c in SLIDE if c in header), "")
    if slide:
        return slide, "slide", patient
    return patient, "patient" if patient else "unknown", ""
