"""TransMIL's folds: `fold<i>.csv` with a column of slides and one of labels a part.

References:
    Shao et al. (2021), TransMIL: Transformer based correlated multiple instance learning for whole slide image
    classification.
"""

from collections.abc import Sequence

from milkit.data.splits_of.columns import INDEX, a_column_a_part
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout

PARTS = {"train": "train", "val": "val", "test": "test"}
LABELS = {f"{part}_label": part for part in PARTS}


def _claims(file: SplitFile) -> bool:
    columns = {c for c in file.header if c not in INDEX}
    return {"train", "train_label"} <= columns <= {*PARTS, *LABELS}


def _read(file: SplitFile) -> Sequence[Draft]:
    return [a_column_a_part(file, PARTS, LABELS, "unknown")]


LAYOUT = SplitLayout(
    "TransMIL",
    _claims,
    _read,
    whole=False,
    spoken="TransMIL's fold<i>.csv: the columns train, train_label, val, val_label, test, test_label",
)
