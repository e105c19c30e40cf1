"""A researcher's own table: ids, and a column split, a column fold, both, or the columns fold_0, fold_1, ..."""

from collections.abc import Sequence

from milkit.data.splits_of.columns import (
    a_cell_names_the_part,
    a_column_a_fold,
    id_column,
    is_empty,
    table_in,
    the_fold_that_tests,
)
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout, role_of
from milkit.data.splits_of.patho_bench import fold_columns


def _claims(file: SplitFile) -> bool:
    header = file.header
    return bool(id_column(header)[0]) and ("split" in header or "fold" in header or bool(fold_columns(header)))


def _read(file: SplitFile) -> Sequence[Draft]:
    header = file.header
    name, of, patient = id_column(header)
    if folds := fold_columns(header):
        return a_column_a_fold(file, of, name, folds, patient)
    if "split" in header:
        fold = "fold" if "fold" in header else ""
        return a_cell_names_the_part(file, of, name, "split", fold=fold, patient=patient)
    at = header.index("fold")
    filled = [row[at].strip().lower() for row in table_in(file).rows if not is_empty(row[at])]
    if any(map(role_of, filled)):
        return a_cell_names_the_part(file, of, name, "fold", patient=patient, word="fold")
    return the_fold_that_tests(file, of, name, "fold", patient)


LAYOUT = SplitLayout(
    "a table",
    _claims,
    _read,
    whole=True,
    spoken="a table with slide_id or patient_id, and a column split, fold, or fold_0, fold_1, ...",
)
