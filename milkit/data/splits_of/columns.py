"""Tables with a column of ids for each part; and what all tables of splits have in common."""

import re
from collections.abc import Mapping

from milkit.data.splits_of.named import Draft, Level, SplitFile
from milkit.data.targets import MISSING
from milkit.data.text import TextTable
from milkit.errors import ProtocolError

INDEX = ("", "unnamed: 0")
"""Header of the row numbers that pandas writes before the first column, and of those read back and written again."""


def table_in(file: SplitFile) -> TextTable:
    """The table of a file that is one; a layout that claimed it knows that it is."""
    if file.table is None:
        raise ProtocolError(f"{file.file}: expected a table.")
    return file.table


def is_empty(cell: str) -> bool:
    """Whether a cell is padding: empty, NA, NaN ..., however pandas wrote it."""
    return cell.strip().lower() in MISSING


def a_column_a_part(file: SplitFile, columns: Mapping[str, str], labels: Mapping[str, str], of: Level) -> Draft:
    """Columns of ids, one a part, padded with empty cells.

    Args:
        file: the table.
        columns: lower-case name of each column of ids -> its part.
        labels: likewise of each column of labels -> its part.
        of: what the ids name.

    Raises:
        ProtocolError: a label without an id beside it, or the reverse.
    """
    table, draft = table_in(file), Draft(file.file, of)
    place = {name: i for i, name in enumerate(file.header)}
    beside = {part: place[name] for name, part in labels.items() if name in place}
    for column, part in columns.items():
        if column not in place:
            continue
        for cells, line in zip(table.rows, table.lines, strict=True):
            name = cells[place[column]].strip()
            label = cells[beside[part]].strip() if part in beside else ""
            if part in beside and is_empty(name) != is_empty(label):
                found, lacking = ("a label", "id") if is_empty(name) else (f"id {name!r}", "label")
                raise ProtocolError(
                    f"{file.file}, line {line}: {found} in the columns of {part!r} without {lacking} beside it; both "
                    "or neither is expected."
                )
            if not is_empty(name):
                draft.add(name, part, f"line {line}, column {column!r}", label="" if is_empty(label) else label)
    return draft


def whole_number(text: str, what: str) -> int:
    """A whole number from 0, also as pandas writes one beside empty cells (3.0).

    Raises:
        ProtocolError: it is none; the message begins with `what`.
    """
    match = re.fullmatch(r"([0-9]{1,9})(\.0*)?", text)
    if not match:
        raise ProtocolError(f"{what} is {text!r}; expected a whole number from 0.")
    return int(match[1])
