"""STAMP's `splits.json`: {"splits": [{"train_patients": [...], "test_patients": [...]}, ...]}.

It has no validation part: STAMP draws one of each training part when it trains, and does not write it down.

References:
    El Nahhas et al. (2025), From whole-slide image to biomarker prediction: end-to-end weakly supervised deep learning
    in computational pathology.
"""

from collections.abc import Sequence
from typing import Any

from milkit.data.splits_of.json_ids import ids_in
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout
from milkit.errors import ProtocolError

PARTS = {"train_patients": "train", "valid_patients": "val", "test_patients": "test"}


def _splits(value: Any) -> list[Any]:
    """The list of splits, in the three ways that they are found: whole, bare, or one alone."""
    inner = value.get("splits", [value]) if isinstance(value, dict) else value
    return inner if isinstance(inner, list) else []


def _claims(file: SplitFile) -> bool:
    splits = _splits(file.value)
    return bool(splits) and isinstance(splits[0], dict) and "train_patients" in splits[0]


def _read(file: SplitFile) -> Sequence[Draft]:
    drafts = []
    for number, split in enumerate(_splits(file.value)):
        where = f"splits[{number}]"
        if not isinstance(split, dict) or not {"train_patients", "test_patients"} <= split.keys():
            raise ProtocolError(f"{file.file}, {where}: expected train_patients and test_patients.")
        draft = Draft(file.file, "patient")
        for key, part in PARTS.items():
            for name, place in ids_in(file.file, split.get(key, []), f"{where}.{key}"):
                draft.add(name, part, place)
        drafts.append(draft)
    return drafts


LAYOUT = SplitLayout(
    "STAMP",
    _claims,
    _read,
    whole=True,
    spoken='STAMP\'s splits.json: {"splits": [{"train_patients": [...], "test_patients": [...]}]}',
    note="STAMP writes down no validation part: it draws one of each training part when it trains",
)
