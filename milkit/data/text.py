"""Tables that are text: a file's characters, its header and rows, with the line that each row begins on."""

import csv
import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from milkit.data.formats.guard_bytes import regular
from milkit.errors import MilkitError


@dataclass(frozen=True)
class TextTable:
    """Cells as text, rectangular.

    Attributes:
        header: name of each column, stripped; "" where it has none.
        rows: the cells of each row.
        lines: line of the file on which each row begins, from 1.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]


MOST_BYTES = 64 << 20
"""Of a table: half a million slides. Text taken apart into cells needs some twenty times its size."""


def read_text(path: Path, what: str, error: type[MilkitError]) -> tuple[str, str]:
    """The text of a file in UTF-8 (with or without a byte order mark), and its sha256.

    Args:
        path: of the file.
        what: the file is, for messages, such as "cohort table".
        error: what is raised.

    Raises:
        MilkitError: no such file, one that cannot be read, is far too large for a table, or is not text.
    """
    try:
        with open(regular(path), "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise error(f"No {what} at {path}; the folder is {Path.cwd()}.") from None
    except OSError as fault:
        raise error(f"The {what} {path} cannot be read: {fault.strerror or fault}.") from None
    if len(raw) > MOST_BYTES:
        raise error(f"{path} has more than {MOST_BYTES} bytes, too many for a {what}; is it the right file?")
    if raw[:4] == b"PK\x03\x04" or raw[:4] == b"\xd0\xcf\x11\xe0":
        raise error(f"{path} is a spreadsheet, not text; save it as CSV (UTF-8) or, for a cohort table, as .xlsx.")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise error(f"{path} is UTF-16 text; save it as CSV in UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = raw[: fault.start].count(b"\n") + 1
        raise error(f"{path}, line {line}: not UTF-8 text; save the {what} in UTF-8.") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise error(f"{path}, line {line}: holds a zero byte; this is no text, or a damaged one.")
    return text, hashlib.sha256(raw).hexdigest()


def parse(text: str, file: str, error: type[MilkitError], *, strip: bool = True) -> TextTable:
    """Header and rows of a table separated by commas, semicolons or tabs; blank lines are skipped.

    Args:
        text: of the file.
        file: its name, for messages.
        error: what is raised.
        strip: take surrounding blanks off the cells (off the header always).

    Raises:
        MilkitError: a header that names a column twice, a row with too many or too few cells, broken quotes.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    begins = 1
    try:
        for row in reader:
            cells, line, begins = tuple(cell.strip() for cell in row), begins, reader.line_num + 1
            if not any(cells) and len(cells) < 2:
                continue
            if not header:
                header = cells
                continue
            if len(row) != len(header):
                raise error(
                    f"{file}, line {line}: {len(row)} cells, but the header names {len(header)} columns "
                    f"({list(header)}). Quote cells that hold the separator {reader.dialect.delimiter!r}."
                )
            rows.append(cells if strip else tuple(row))
            lines.append(line)
    except csv.Error as fault:
        raise error(f"{file}, line {begins}: not valid CSV ({fault}); check its quotes.") from None
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise error(f"{file}, line 1: the header names column {twice[0]!r} more than once; rename one.")
    return TextTable(header, tuple(rows), tuple(lines))


def _separator(text: str) -> str:
    """Of comma, semicolon and tab the one that stands most often in the header, outside quotes."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", first)
    return max(",;\t", key=bare.count)
