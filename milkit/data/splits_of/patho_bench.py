"""Patho-Bench's `k=all.tsv`: a row a slide, its case, the task's label, and its part in every fold.

`config.yaml` beside it says which column is the label (`task_col`); no more of it is needed, so no YAML is read.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from milkit.data.splits_of.columns import table_in
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout
from milkit.data.splits_of.rows import PATIENT, RowColumns, a_column_a_fold, fold_columns

CONFIG = "config.yaml"
_MOST = 1 << 20  # bytes of a config.yaml; theirs have some hundred


def _claims(file: SplitFile) -> bool:
    return bool(fold_columns(file.header)) and "slide_id" in file.header and any(c in PATIENT for c in file.header)


def _read(file: SplitFile) -> Sequence[Draft]:
    case = next(c for c in PATIENT if c in file.header)
    drafts = a_column_a_fold(file, RowColumns("slide_id", "slide", case), fold_columns(file.header))
    column = _task_column(file)
    if column in file.header:
        table = table_in(file)
        at, ids = file.header.index(column), file.header.index("slide_id")
        labels = {row[ids].strip(): row[at].strip() for row in table.rows}
        for draft in drafts:
            draft.labels.update({known: labels[known] for known in draft.parts if labels[known]})
    return drafts


def _task_column(file: SplitFile) -> str:
    """The column of labels by `task_col` of the configuration beside the file, in lower case; "" if it is not said."""
    path = Path(file.file).parent / CONFIG
    try:
        if not path.is_file() or path.stat().st_size > _MOST:
            return ""
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    match = re.search(r"^task_col:[ \t]*['\"]?([^'\"#\n]+?)['\"]?[ \t]*(#.*)?$", text, re.MULTILINE)
    return match[1].strip().lower() if match else ""


LAYOUT = SplitLayout(
    "Patho-Bench",
    _claims,
    _read,
    whole=True,
    spoken="Patho-Bench's k=all.tsv: the columns case_id, slide_id, fold_0, fold_1, ...",
)
