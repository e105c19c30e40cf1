"""The cohort table: slides and patients from CSV or .xlsx, read as text, checked row by row."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from milkit.data.cells import Cells, is_workbook, read_cells
from milkit.data.joined_tables import Side, join
from milkit.data.matching import file_stem
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
FALLBACKS = ("sample_id", "bag_name", "slide_path", "filename", "file_name", "path")
"""Columns of slides in the tables of soma, torchmil, MIL_BASELINE, STAMP and DSMIL: taken where no other is there."""
PATHS = ("slide_path", "filename", "file_name", "path")
"""Those of them that hold files."""
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
        digest: sha256 of the file, or of both.
        dates: columns in which a spreadsheet holds dates, with the first such cell in words.
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
    dates: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.slide)


def read_cohort(
    path: str | Path | Sequence[str | Path],
    *,
    slide: str = "",
    patient: str = "",
    site: str = "",
    cohort: str = "",
    sheet: str = "",
) -> CohortTable:
    """Read a cohort table, or a table of patients and one of slides.

    A file is UTF-8 (with or without a byte order mark), separated by commas, semicolons or tabs, or an .xlsx workbook.
    Everything is read as text, so that an id keeps its leading zeros.

    Args:
        path: the file; or two, one row a patient and one row a slide (STAMP's clini and slide tables, in any order),
            which are joined by patient.
        slide: name of the column with the slide (bag) ids; "" takes the one that `ALIASES` recognises, or else
            `FALLBACKS`. Of a column of paths (`PATHS`) the file names are the ids, without folder and extension.
        patient: likewise; where there is none, each slide is its own patient.
        site: likewise; "-" uses none.
        cohort: likewise; "-" uses none.
        sheet: of workbooks, "" for the first.

    Raises:
        CohortError: no such file, not text, a header that names a column twice, a row with too many or too
            few cells, no rows, two columns that could be meant, a missing or a duplicate id, two tables that do not
            go together.
    """
    paths = (path,) if isinstance(path, (str, Path)) else tuple(path)
    if len(paths) not in (1, 2):
        raise CohortError(f"A cohort is one table, or one of patients and one of slides; {len(paths)} are given.")
    read = [read_cells(one, sheet if is_workbook(one) or len(paths) == 1 else "") for one in paths]
    cells = read[0] if len(read) == 1 else join([Side(one, *_id_columns(one, slide, patient)) for one in read])
    table = table_of(
        cells.file,
        cells.columns,
        cells.lines,
        slide=slide,
        patient=patient,
        site=site,
        cohort=cohort,
        notes=cells.notes,
        digest=cells.digest,
        line_word=cells.line_word,
    )
    numeric = [f"{role} {table.used[role]!r}" for role in ("slide", "patient") if table.used.get(role) in cells.numbers]
    note = f"the spreadsheet holds numbers as ids ({', '.join(numeric)}): leading zeros, if they had any, are gone"
    return replace(table, dates=cells.dates, notes=(*table.notes, *[note] * bool(numeric)))


def _id_columns(cells: Cells, slide: str, patient: str) -> tuple[str, str]:
    """The columns of slides and of patients in one of two tables; "" where it has none."""
    named = slide if slide in cells.columns else ""
    return (
        named if slide else _column("slide", "", cells.columns, cells.file),
        _column("patient", patient, cells.columns, cells.file),
    )


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
    ids, path_note = _ids(cells, found["slide"])
    notes += path_note
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
    known = [c for c in cells if _plain(c) in ALIASES[role]]
    if role == "slide" and not known:
        known = [c for c in cells if _plain(c) in FALLBACKS or _is_dsmil(c, cells)]
    if len(known) > 1:
        raise CohortError(
            f"{file}: the columns {known} could each be the {role}; say which: {role}={known[0]!r}"
            f"{'' if role == 'slide' else f' (or {role}={NONE!r} for none)'}."
        )
    return known[0] if known else ""


def _plain(column: str) -> str:
    """A column's name as it is recognised."""
    return re.sub(r"[\s\-]+", "_", column.lower())


def _is_dsmil(column: str, cells: Mapping[str, np.ndarray]) -> bool:
    """DSMIL's column of feature files has the name 0, because its writer gave none."""
    return column == "0" and "label" in cells and all(str(cell).endswith(".csv") for cell in cells[column])


def _ids(cells: Mapping[str, np.ndarray], column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Ids of the slides, and a note where they are file names of paths."""
    if _plain(column) not in PATHS and not _is_dsmil(column, cells):
        return cells[column], ()
    ids = np.array([file_stem(str(cell)) for cell in cells[column]], np.str_)
    return ids, (f"slide ids are the file names in column {column!r}, without folder and extension",)


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
