"""Columns of text from a table on disk, be it CSV or a spreadsheet."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from milkit.data.formats.guard_bytes import regular
from milkit.data.spreadsheet import Sheet, read_sheet
from milkit.data.text import parse, read_text
from milkit.errors import CohortError, DataError

MOST_BYTES = 1 << 30
"""Of the columns together, where their text is short: what a table of some hundred thousand slides needs."""


MOST_WORKBOOK = 64 << 20
"""Bytes of an .xlsx file; one of a hundred thousand slides has some ten million."""


@dataclass(frozen=True, eq=False)
class Cells:
    """A table as columns of text.

    Attributes:
        file: where it was read from.
        columns: by name, text [R].
        lines: line (row of a spreadsheet) of each row, int [R].
        notes: what was not read, and what a spreadsheet may have changed.
        digest: sha256 of the file.
        line_word: what a line is called: "line", or "row" of a spreadsheet.
        numbers: columns in which a spreadsheet holds numbers; ids in them may have lost leading zeros.
        dates: column -> the first cell in which a spreadsheet holds a date, in words.
    """

    file: str
    columns: Mapping[str, np.ndarray]
    lines: np.ndarray
    notes: tuple[str, ...]
    digest: str
    line_word: str = "line"
    numbers: frozenset[str] = frozenset()
    dates: Mapping[str, str] = field(default_factory=dict)


def read_cells(path: str | Path, sheet: str = "") -> Cells:
    """Read a table: CSV in UTF-8, or .xlsx (which needs openpyxl).

    Args:
        path: the file.
        sheet: of a spreadsheet, "" for its first.

    Raises:
        CohortError: no such file, one that is no table, or an empty one.
    """
    path = Path(path).expanduser()
    if is_workbook(path):
        with open(regular(path), "rb") as file:
            raw = file.read(MOST_WORKBOOK + 1)
        if len(raw) > MOST_WORKBOOK:
            raise CohortError(
                f"{path} has more than {MOST_WORKBOOK} bytes, too many for a table; is it the right file?"
            )
        return _of_sheet(path, read_sheet(path, raw, sheet), hashlib.sha256(raw).hexdigest())
    if sheet:
        raise CohortError(f"{path} is no .xlsx file, so it has no sheet {sheet!r}; leave sheet out.")
    text, digest = read_text(path, "cohort table", CohortError)
    table = parse(text, str(path), CohortError)
    columns = _columns(path, table.header, table.rows, table.lines, "line")
    unnamed = tuple(f"{path.name}: a column without a name is not read" for name in table.header if not name)
    return Cells(str(path), columns, np.array(table.lines), unnamed, digest)


def is_workbook(path: str | Path) -> bool:
    """Whether a file is an .xlsx workbook, by its first bytes (those of a zip archive)."""
    try:
        with open(regular(Path(path).expanduser()), "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except (OSError, DataError):
        return False  # the reader of text says what is wrong


def _of_sheet(path: Path, sheet: Sheet, digest: str) -> Cells:
    columns = _columns(path, sheet.header, sheet.rows, sheet.lines, "row")
    notes = [f"{path.name}: a column without a name is not read" for name in sheet.header if not name]
    if sheet.others:
        notes.append(f"{path.name}: sheet {sheet.name!r} was read, not {', '.join(map(repr, sheet.others))}")
    if sheet.missing:
        notes.append(f"{path.name}: {sheet.missing} cell(s) with #N/A are taken for empty")
    return Cells(str(path), columns, np.array(sheet.lines), tuple(notes), digest, "row", sheet.numbers, sheet.dates)


def _columns(
    path: Path, header: tuple[str, ...], rows: tuple[tuple[str, ...], ...], lines: tuple[int, ...], word: str
) -> dict[str, np.ndarray]:
    if not rows:
        raise CohortError(f"{path}: the table is empty; expected a header and one row a slide.")
    _check_width(path, header, rows, lines, word)
    return {name: np.array([row[i] for row in rows], np.str_) for i, name in enumerate(header) if name}


def _check_width(
    path: Path, header: tuple[str, ...], rows: tuple[tuple[str, ...], ...], lines: tuple[int, ...], word: str
) -> None:
    """Refuse a cell so long that the table would not fit: text arrays are as wide as their longest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    characters = sum(len(cell) for row in rows for cell in row)
    if len(rows) * sum(widths) * 4 <= MOST_BYTES + 16 * characters:
        return
    column = int(np.argmax(widths))
    row = next(i for i, cells in enumerate(rows) if len(cells[column]) == widths[column])
    raise CohortError(
        f"{path}, {word} {lines[row]}: a cell of {widths[column]} characters in column {header[column]!r}; such a "
        "table takes more memory than it is worth. Shorten the cell, or take the column out."
    )
