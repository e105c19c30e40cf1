"""A researcher's own table: a row an id, and its part, the fold that tests it, both, or a column a fold."""

from collections.abc import Sequence
from dataclasses import replace

from milkit.data.splits_of.columns import is_empty, table_in
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout, role_of
from milkit.data.splits_of.rows import (
    a_cell_names_the_part,
    a_column_a_fold,
    fold_columns,
    id_column,
    the_fold_that_tests,
)

PART = ("role", "split", "set", "subset", "part", "partition", "phase")
REPEAT = ("repeat", "repetition", "rep")
FOLDS = ("fold", "fold_id")
INNER = ("inner", "inner_fold")


def _claims(file: SplitFile) -> bool:
    header = file.header
    return id_column(header) is not None and (any(c in header for c in (*PART, *FOLDS)) or bool(fold_columns(header)))


def _read(file: SplitFile) -> Sequence[Draft]:
    header = file.header
    columns = id_column(header)
    if columns is None:
        return []
    if folds := fold_columns(header):
        return a_column_a_fold(file, columns, folds)
    part, fold = _first(header, PART), _first(header, FOLDS)
    if part and not fold and _are_numbers(file, part):
        part, fold = "", part
    if fold and not part and not _are_numbers(file, fold):
        part, fold = fold, ""
    columns = replace(columns, part=part, fold=fold, repeat=_first(header, REPEAT), inner=_first(header, INNER))
    return a_cell_names_the_part(file, columns) if part else the_fold_that_tests(file, columns)


def _first(header: Sequence[str], names: Sequence[str]) -> str:
    return next((name for name in names if name in header), "")


def _are_numbers(file: SplitFile, column: str) -> bool:
    """No cell names a part: what is no number either is then a mistyped one."""
    at = file.header.index(column)
    filled = [row[at].strip().lower() for row in table_in(file).rows if not is_empty(row[at])]
    return not any(map(role_of, filled)) and any(cell[:1].isdigit() for cell in filled)


LAYOUT = SplitLayout(
    "a table",
    _claims,
    _read,
    whole=True,
    spoken="a table with slide_id or patient_id, and a column split, fold, both (and repeat), or fold_0, fold_1, ...",
)
