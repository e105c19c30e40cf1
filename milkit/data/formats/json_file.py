"""Small JSON files that tools write beside features."""

import json
from pathlib import Path
from typing import Any

from milkit.data.formats.npy_file import opened
from milkit.errors import DataError

MOST = 16 << 20
"""Bytes; such files hold settings, not data."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        DataError: it cannot be read, is too large, or no JSON object.
    """
    with opened(path) as file:
        raw = file.read(MOST + 1)
    if len(raw) > MOST:
        raise DataError(f"{path} has more than {MOST:,} bytes; expected a small file of settings.")
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON, or cut short ({error}); make it anew, or remove it.") from None
    if not isinstance(held, dict):
        raise DataError(f"{path} holds a {type(held).__name__}; expected a JSON object.")
    return held


def positive(path: Path, held: dict[str, Any], name: str) -> float | None:
    """A number above 0, None where there is none.

    Raises:
        DataError: anything else.
    """
    value = held.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise DataError(f"{path}: {name!r} is {value!r}; expected a number above 0.")
    return float(value)


def section(path: Path, held: dict[str, Any], name: str) -> dict[str, Any]:
    """An object within, {} where there is none."""
    value = held.get(name)
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{path}: {name!r} is {str(value)[:40]!r}; expected a JSON object.")
    return value or {}
