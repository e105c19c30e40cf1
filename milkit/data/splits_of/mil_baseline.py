"""MIL_BASELINE's splits: a CSV a fold with the columns train_slide_path, train_label, val_slide_path, ...

Its scripts draw slides, not patients, so that a patient's slides may stand in several parts; the leak check says so
where the cohort table names patients.
"""

from collections.abc import Sequence

from milkit.data.splits_of.columns import INDEX, a_column_a_part
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout

PARTS = {f"{part}_slide_path": part for part in ("train", "val", "test")}
LABELS = {f"{part}_{word}": part for part in ("train", "val", "test") for word in ("label", "slide_label")}


def _claims(file: SplitFile) -> bool:
    columns = {c for c in file.header if c not in INDEX}
    return bool(columns) and bool(columns & set(PARTS)) and columns <= {*PARTS, *LABELS}


def _read(file: SplitFile) -> Sequence[Draft]:
    return [a_column_a_part(file, PARTS, LABELS, "slide")]


LAYOUT = SplitLayout(
    "MIL_BASELINE",
    _claims,
    _read,
    whole=False,
    spoken="MIL_BASELINE's folds: the columns train_slide_path, train_label, val_slide_path, ...",
    note="MIL_BASELINE draws slides, not patients: without patients in the cohort table a leak cannot be seen",
)
