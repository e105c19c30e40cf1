"""What a native store says of the file that each bag was made of: its dataset `slides`, one JSON object a bag.

`milkit embed` writes it; embedding again, heat maps and the viewer read it. Stores of other origin do not have it.
"""

import json
from pathlib import Path
from typing import Any

from milkit.data.formats.guard_hdf5 import opened
from milkit.errors import DataError

DATASET = "slides"


def slide_facts(path: Path, row: int | None = None) -> dict[str, dict[str, Any]]:
    """Facts of each bag by its id, in the store's order: `slide`, the file, and what else is known, such as `mpp`.

    Args:
        path: of the store.
        row: of this bag only, counted from 0: what is read does not grow with the store then.

    Returns:
        {} for a store that says nothing.

    Raises:
        DataError: the store, or what it says, is damaged.
    """
    with opened(path) as file:
        if DATASET not in file:
            return {}
        if file[DATASET].shape != file["bag_ids"].shape:
            raise DataError(f"{path}: its dataset `{DATASET}` says something of another number of bags; make it anew.")
        rows = slice(None) if row is None else slice(row, row + 1)
        ids, lines = (file[name].asstr()[rows].tolist() for name in ("bag_ids", DATASET))
    return {slide: _read(path, slide, line) for slide, line in zip(ids, lines, strict=True)}


def _read(path: Path, slide: str, line: str) -> dict[str, Any]:
    try:
        facts = json.loads(line)
    except ValueError:
        facts = None
    if not (isinstance(facts, dict) and isinstance(facts.get("slide"), str) and _sizes_are_numbers(facts)):
        raise DataError(f"{path}: what its dataset `{DATASET}` says of {slide!r} is damaged; make the store anew.")
    return facts


def _sizes_are_numbers(facts: dict[str, Any]) -> bool:
    """Whether what is said of sizes can be used."""
    mpp, size = facts.get("mpp"), facts.get("size_px")
    pair = isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) for v in size)
    return (mpp is None or isinstance(mpp, int | float)) and (size is None or pair)
