"""ACMIL's `split_<seed>.json`: {"train_names": [...], "val_names": [...], "test_names": [...]}, one draw a seed.

References:
    Zhang et al. (2024), Attention-challenging multiple instance learning for whole slide image classification.
"""

from collections.abc import Sequence

from milkit.data.splits_of.json_ids import ids_in
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout

PARTS = {"train_names": "train", "val_names": "val", "test_names": "test"}


def _claims(file: SplitFile) -> bool:
    return isinstance(file.value, dict) and "train_names" in file.value


def _read(file: SplitFile) -> Sequence[Draft]:
    draft = Draft(file.file, "unknown")
    for key, part in PARTS.items():
        for name, place in ids_in(file.file, file.value.get(key, []), key):
            draft.add(name, part, place)
    return [draft]


LAYOUT = SplitLayout(
    "ACMIL",
    _claims,
    _read,
    whole=False,
    spoken='ACMIL\'s split_<seed>.json: {"train_names": [...], "val_names": [...], "test_names": [...]}',
)
