"""Text of others, whole files of it: bounded, UTF-8, and a JSON whose depth is bounded too."""

import json
import os
from pathlib import Path
from typing import Any

from milkit.data.formats.guard_bytes import regular
from milkit.errors import DataError

MOST_JSON = 64 << 20
"""Bytes of a JSON beside features: parsed, it takes some twenty times as much."""


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """A file's bytes.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        DataError: a file that is missing, may not be read, is no file on a disk, or is too large.
    """
    try:
        with open(regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise DataError(f"{path} has {size:,} bytes; expected at most {most:,}. Remove it, or split it.")
            return file.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_text(path: Path, most: int | None = None) -> str:
    """A file's text in UTF-8, with or without a byte order mark.

    Raises:
        DataError: as `read_bytes`, and for what is not text.
    """
    raw = read_bytes(path, most)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start}: not UTF-8 text; save it in UTF-8.") from None
    if "\0" in text:
        raise DataError(f"{path} holds a zero byte; this is no text, or a damaged one.")
    return text


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """What a JSON file says; NaN and infinity are not JSON and refused.

    Raises:
        DataError: as `read_text`, and for what is no JSON, or nested without end.
    """
    text = read_text(path, most)
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path} is no JSON ({why}); write it anew, or remove it.") from None


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}")
