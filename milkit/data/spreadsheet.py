"""A sheet of an .xlsx file as cells of text, with what a spreadsheet does to ids, dates and formulas said aloud."""

import datetime
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milkit.errors import CohortError, MilkitError

MOST_UNPACKED = 64 << 20
"""Bytes that the parts of a workbook may unpack to, whatever its size; text of some million cells."""
MOST_TIMES = 50
"""How much larger than the file the unpacked parts may be beyond that: tables shrink to a tenth, zeros to a
thousandth."""
MOST_BYTES = 1 << 29
"""Bytes that they may unpack to in any case."""
MOST_CELLS = 1 << 24
"""Cells that are looked at, empty ones in between included: a cell far off makes a sheet of many."""


@dataclass(frozen=True)
class Sheet:
    """A sheet as text.

    Attributes:
        name: of the sheet.
        others: names of the sheets that were not read.
        header: name of each column, stripped; "" where it has none.
        rows: the cells of each row that is not empty.
        lines: row number of each, from 1.
        numbers: columns that hold numbers.
        dates: column -> the first cell in it that holds a date, in words.
        missing: how many cells hold #N/A, and were taken for empty.
    """

    name: str
    others: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    numbers: frozenset[str]
    dates: dict[str, str]
    missing: int


def read_sheet(path: Path, raw: bytes, sheet: str, error: type[MilkitError] = CohortError) -> Sheet:
    """Read one sheet of a workbook; the file is never changed, links and macros are not followed.

    Args:
        path: of the file, for messages.
        raw: its bytes.
        sheet: name of the sheet; "" for the first.
        error: what is raised.

    Raises:
        MilkitError: no workbook, one that unpacks to far more than its size, no such sheet, a formula without a saved
            value, a cell with an error, a header that names a column twice.
    """
    raw = _unpacked(path, raw, error)
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise error(
            f"{path} is a spreadsheet, and reading it needs openpyxl: pip install 'milkit[tables]'; or save it as CSV "
            "(UTF-8) and give that file."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # openpyxl warns of styles and validations that it drops; cells are all here
            # once for the values that were saved, once for the formulas: one without a value must not pass for empty
            books = [
                load_workbook(io.BytesIO(raw), read_only=True, data_only=values, keep_links=False)
                for values in (True, False)
            ]
            names = tuple(books[0].sheetnames)
            name = _chosen(path, names, sheet, error)
            values, formulas = (_rows(path, book[name], error) for book in books)
            return _as_text(path, name, names, zip(values, formulas, strict=True), error)
    except MilkitError:
        raise
    except Exception as fault:  # a damaged workbook raises whatever the part that is damaged raises
        raise error(
            f"{path} cannot be read as a spreadsheet ({type(fault).__name__}: {str(fault)[:120]}); open it and save it "
            "as .xlsx or CSV (UTF-8)."
        ) from None


def _unpacked(path: Path, raw: bytes, error: type[MilkitError]) -> bytes:
    """The workbook without compression: a part is unpacked here to the size that it states, and no further.

    zipfile unpacks all of a part that is read whole, whatever it states, and so does who reads it by that.
    """
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as parts, zipfile.ZipFile(out, "w") as plain:
            unpacked = sum(part.file_size for part in parts.infolist())
            most = MOST_UNPACKED + MOST_TIMES * len(raw)
            if unpacked > most:
                raise error(
                    f"{path}: its {len(raw)} bytes unpack to {unpacked}, more than the {most} that a table of this "
                    "size may; this looks like a decompression bomb. If it is none, save the sheet as CSV (UTF-8)."
                )
            for part in parts.infolist():
                if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("compressed in a way that spreadsheets are not")
                with parts.open(part) as file:
                    plain.writestr(zipfile.ZipInfo(part.filename), file.read(part.file_size))
    except MilkitError:
        raise
    except Exception as fault:  # zipfile raises what it happens to meet
        raise error(f"{path} is a damaged spreadsheet ({fault}); open it and save it anew.") from None
    return out.getvalue()


def _chosen(path: Path, names: tuple[str, ...], sheet: str, error: type[MilkitError]) -> str:
    if not names:
        raise error(f"{path}: the workbook has no sheet.")
    if sheet and sheet not in names:
        raise error(f"{path}: no sheet {sheet!r}; the sheets are {list(names)}.")
    return sheet or names[0]


def _rows(path: Path, sheet: Any, error: type[MilkitError]) -> Iterator[tuple[Any, ...]]:
    if not hasattr(sheet, "iter_rows"):
        raise error(f"{path}: sheet {sheet.title!r} is a chart, not a table; name another: sheet='...'.")
    seen = 0
    for row in sheet.iter_rows():
        seen += max(len(row), 1)
        if seen > MOST_CELLS:
            raise error(f"{path}: more than {MOST_CELLS} cells, empty ones included; save the table as CSV (UTF-8).")
        yield row


def _as_text(
    path: Path,
    name: str,
    names: tuple[str, ...],
    both: Iterable[tuple[tuple[Any, ...], tuple[Any, ...]]],
    error: type[MilkitError],
) -> Sheet:
    header: tuple[str, ...] = ()
    rows, lines = [], []
    numbers: set[str] = set()
    dates: dict[str, str] = {}
    missing = 0
    for line, (values, formulas) in enumerate(both, start=1):
        cells = []
        for place, (cell, formula) in enumerate(zip(values, formulas, strict=True)):
            column = header[place] if place < len(header) else ""
            where = f"{path}, sheet {name!r}, row {line}" + (f", column {column!r}" if column else "")
            if cell.value is None and formula.data_type == "f":
                raise error(f"{where}: a formula whose value was not saved; open the file, calculate it and save it.")
            missing += cell.value == "#N/A" and cell.data_type == "e"
            text = _text(cell, where, error)
            cells.append(text)
            if header and text and isinstance(cell.value, (int, float)) and not isinstance(cell.value, bool):
                numbers.add(column)
            if header and isinstance(cell.value, (datetime.date, datetime.time, datetime.timedelta)):
                dates.setdefault(column, f"row {line}: {text}")
        while cells and len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if not any(cells):
            continue
        if not header:
            header = _header(path, cells, error)
            continue
        if len(cells) > len(header):
            raise error(f"{path}, sheet {name!r}, row {line}: a cell beyond the {len(header)} columns of the header.")
        rows.append(tuple(cells) + ("",) * (len(header) - len(cells)))
        lines.append(line)
    others = tuple(other for other in names if other != name)
    return Sheet(name, others, header, tuple(rows), tuple(lines), frozenset(numbers), dates, missing)


def _header(path: Path, cells: list[str], error: type[MilkitError]) -> tuple[str, ...]:
    twice = [cell for cell in cells if cell and cells.count(cell) > 1]
    if twice:
        raise error(f"{path}: the header names column {twice[0]!r} more than once; rename one.")
    return tuple(cells)


def _text(cell: Any, where: str, error: type[MilkitError]) -> str:
    """A cell as it reads: 3.0 is 3, a number shown with leading zeros keeps them, a date is written year first."""
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "e":
        if value == "#N/A":
            return ""
        raise error(f"{where}: the error {value}; correct the cell or empty it.")
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float)):
        whole = isinstance(value, int) or value.is_integer()
        if whole and re.fullmatch(r"0{2,32}", str(cell.number_format)):
            return str(int(value)).zfill(len(cell.number_format))
        return str(int(value)) if whole and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else str(value).strip()
