"""The cohort table: a CSV of slides and patients, read as text, checked row by row."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.data.targets import is_missing
from milkit.data.where import Where, did_you_mean
from milkit.errors import CohortError

ALIASES: dict[str, tuple[str, ...]] = {
    "slide": ("slide_id", "slide", "bag_id", "bag", "image"),
    "patient": ("patient_id", "patient", "case_id"),
    "site": ("site", "group", "hospital", "centre", "center"),
    "cohort": ("cohort",),
}
"""Column names that are recognised when none is given; case, spaces and hyphens do not matter."""
NONE = "-"
"""Given as a column's name: use no such column, even if one would be recognised."""


@dataclass(frozen=True, eq=False)
class CohortTable:
    """A table with one row a slide; every cell is text, stripped of surrounding blanks.

    Attributes:
        file: where it was read from, as the user wrote it.
        slide: slide ids, text [R], unique.
        patient: patient ids, text [R]; the slide's own id where the table has no patient column.
        site: text [R], "" where unknown.
        cohort: text [R], "" where unknown.
        columns: all columns, by name, text [R].
        used: name of the column that was taken for "slide", "patient", "site" and "cohort".
        where: file and line of each row.
        notes: which columns were taken for what.
        digest: sha256 of the file.
    """

    file: str
    slide: np.ndarray
    patient: np.ndarray
    site: np.ndarray
    cohort: np.ndarray
    columns: Mapping[str, np.ndarray]
    used: Mapping[str, str]
    where: Where
    notes: tuple[str, ...] = ()
    digest: str = ""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.slide)


def read_cohort(
    path: str | Path, *, slide: str = "", patient: str = "", site: str = "", cohort: str = ""
) -> CohortTable:
    """Read a cohort table.

    The file is UTF-8 (with or without a byte order mark), separated by commas, semicolons or tabs. Everything
    is read as text, so that an id keeps its leading zeros.

    Args:
        path: the CSV file.
        slide: name of the column with the slide (bag) ids; "" takes the one that `ALIASES` recognises.
        patient: likewise; where there is none, each slide is its own patient.
        site: likewise; "-" uses none.
        cohort: likewise; "-" uses none.

    Raises:
        CohortError: no such file, not text, a header that names a column twice, a row with too many or too
            few cells, no rows, two columns that could be meant, a missing or a duplicate id.
    """
    path = Path(path).expanduser()
    text, digest = _text(path)
    header, rows, lines = _parse(text, str(path))
    cells = {name: np.array([row[i] for row in rows], np.str_) for i, name in enumerate(header) if name}
    unnamed = tuple(f"{path.name}: a column without a name is not read" for name in header if not name)
    names = {"slide": slide, "patient": patient, "site": site, "cohort": cohort}
    return table_of(str(path), cells, np.array(lines), **names, notes=unnamed, digest=digest)


def table_of(
    file: str,
    cells: Mapping[str, np.ndarray],
    lines: np.ndarray,
    *,
    slide: str = "",
    patient: str = "",
    site: str = "",
    cohort: str = "",
    notes: tuple[str, ...] = (),
    digest: str = "",
    line_word: str = "line",
) -> CohortTable:
    """A table from columns of text: finds the id columns and checks the ids; see `read_cohort`."""
    given = {"slide": slide, "patient": patient, "site": site, "cohort": cohort}
    found = {role: _column(role, name, cells, file) for role, name in given.items()}
    twice = [name for name, count in Counter(n for n in found.values() if n).items() if count > 1]
    if twice:
        raise CohortError(f"{file}: column {twice[0]!r} is given for two things: {found}; give each its own.")
    if not found["slide"]:
        raise CohortError(
            f"{file}: no column with slide ids; the columns are {list(cells)}. Call it one of "
            f"{', '.join(ALIASES['slide'])}, or name it: slide='my_column'."
        )
    ids = cells[found["slide"]]
    where = Where(file, lines, ids, line_word)
    _check_ids(ids, found["slide"], where)
    if found["patient"]:
        _check_filled(cells[found["patient"]], found["patient"], where)
    notes += _notes(found, ids, cells)
    blank = np.full(len(ids), "", np.str_)
    return CohortTable(
        file=file,
        slide=ids,
        patient=cells[found["patient"]] if found["patient"] else ids,
        site=_filled(cells[found["site"]]) if found["site"] else blank,
        cohort=_filled(cells[found["cohort"]]) if found["cohort"] else blank,
        columns=dict(cells),
        used={role: name for role, name in found.items() if name},
        where=where,
        notes=notes,
        digest=digest,
    )


def _notes(found: Mapping[str, str], ids: np.ndarray, cells: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    taken = ", ".join(f"{role} = {name!r}" for role, name in found.items() if name)
    notes = [f"columns: {taken}"]
    if not found["patient"]:
        notes.append("no patient column: each slide counts as its own patient")
    unknown = int(is_missing(cells[found["site"]]).sum()) if found["site"] else 0
    if unknown:
        notes.append(f"{unknown} of {len(ids)} rows have no {found['site']!r}")
    return tuple(notes)


def _filled(cells: np.ndarray) -> np.ndarray:
    """The cells with "" in place of every word for "unknown"."""
    return np.where(is_missing(cells), "", cells)


def _text(path: Path) -> tuple[str, str]:
    """The file's text and its sha256."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CohortError(f"No cohort table at {path}; the folder is {Path.cwd()}.") from None
    except OSError as error:
        raise CohortError(f"The cohort table {path} cannot be read: {error.strerror or error}.") from None
    if raw[:4] == b"PK\x03\x04" or raw[:4] == b"\xd0\xcf\x11\xe0":
        raise CohortError(f"{path} is a spreadsheet, not text; save it as CSV (UTF-8) and give that file.")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CohortError(f"{path} is UTF-16 text; save it as CSV in UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CohortError(f"{path}, line {line}: not UTF-8 text; save the table as CSV in UTF-8.") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise CohortError(f"{path}, line {line}: holds a zero byte; this is no CSV text, or a damaged one.")
    return text, hashlib.sha256(raw).hexdigest()


def _parse(text: str, file: str) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and the line each row begins on; blank lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    begins = 1
    try:
        for row in reader:
            row, line, begins = [cell.strip() for cell in row], begins, reader.line_num + 1
            if not any(row) and len(row) < 2:
                continue
            if not header:
                header = row
                continue
            if len(row) != len(header):
                raise CohortError(
                    f"{file}, line {line}: {len(row)} cells, but the header names {len(header)} columns "
                    f"({header}). Quote cells that hold the separator {reader.dialect.delimiter!r}."
                )
            rows.append(row)
            lines.append(line)
    except csv.Error as error:
        raise CohortError(f"{file}, line {begins}: not valid CSV ({error}); check its quotes.") from None
    if not rows:
        raise CohortError(f"{file}: the table is empty; expected a header and one row a slide.")
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise CohortError(f"{file}, line 1: the header names column {twice[0]!r} more than once; rename one.")
    return header, rows, lines


def _separator(text: str) -> str:
    """Of comma, semicolon and tab the one that stands most often in the header, outside quotes."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", first)
    return max(",;\t", key=bare.count)


def _column(role: str, name: str, cells: Mapping[str, np.ndarray], file: str) -> str:
    """Name of the column for a role: the one given, or the only one recognised; "" if there is none."""
    if name == NONE:
        return ""
    if name:
        if name not in cells:
            raise CohortError(
                f"{file}: no column {name!r} (given as {role}={name!r}); the columns are {list(cells)}."
                f"{did_you_mean(name, cells)}"
            )
        return name
    known = [c for c in cells if re.sub(r"[\s\-]+", "_", c.lower()) in ALIASES[role]]
    if len(known) > 1:
        raise CohortError(
            f"{file}: the columns {known} could each be the {role}; say which: {role}={known[0]!r}"
            f"{'' if role == 'slide' else f' (or {role}={NONE!r} for none)'}."
        )
    return known[0] if known else ""


def _check_filled(cells: np.ndarray, column: str, where: Where) -> None:
    empty = np.flatnonzero(is_missing(cells))
    if len(empty):
        rows = ", ".join(f"{where.line_word} {where.lines[i]}" for i in empty[:5])
        found = str(cells[empty[0]])
        means = f" ({found!r} stands for a missing value, so nobody can be called that)" if found else ""
        raise CohortError(f"{where.file}, {rows}: no id in column {column!r}{means}; every row needs one.")


def _check_ids(ids: np.ndarray, column: str, where: Where) -> None:
    _check_filled(ids, column, where)
    first: dict[str, int] = {}
    for i, name in enumerate(ids.tolist()):
        if name in first:
            raise CohortError(
                f"{where.file}, {where.line_word} {where.lines[i]}: slide {name!r} in column {column!r} was "
                f"already given in {where.line_word} {where.lines[first[name]]}; a slide has one row."
            )
        first[name] = i
