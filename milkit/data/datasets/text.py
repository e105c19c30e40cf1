"""Bags in text files: `.svm` with bag ids, the UCI's `clean1.data`, and tables with a column of bags."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milkit.data.datasets.assemble import Bags, of_rows, plain
from milkit.data.formats import svm
from milkit.data.text import read_text as text_of
from milkit.data.where import did_you_mean
from milkit.errors import DataError

BAG = ("bag", "bag_id", "bag_ids", "bag_name", "molecule", "molecule_name", "slide_id", "slide")
LABEL = ("label", "labels", "class", "bag_label", "y", "target")
INSTANCE = ("instance", "instance_id", "instance_name", "conformation", "conformation_name", "inst")
"""Names of an instance, which are no features."""


def read_text(path: Path, bag: str = "", label: str = "") -> Bags:
    """Bags of a text file.

    Args:
        path: the file, UTF-8.
        bag: name of the column with the bags' names, or its number counted from 1; "" finds it.
        label: likewise, of the label.

    Raises:
        DataError: it is no such file; which column is the bag or the label is not known; a value is no number.
    """
    if svm.is_svm(path):
        return _svm(path)
    text, _ = text_of(path, "file of bags", DataError)
    lines = [(i + 1, line) for i, line in enumerate(text.splitlines())]
    used = [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not used:
        raise DataError(f"{path} holds nothing.")
    return _table(path, used, bag, label)


def _svm(path: Path) -> Bags:
    """`instance:bag:label index:value ...`; the label is that of the bag."""
    whole = svm.parse_svm(path)
    names = [whole.names[i] for i in whole.bag.tolist()]
    labels = [plain(whole.labels[i]) for i in whole.bag.tolist()]
    return of_rows(path, whole.dense(np.arange(len(whole.bag))), names, labels)


def _table(path: Path, lines: Sequence[tuple[int, str]], bag: str, label: str) -> Bags:
    """A table; without a header if all cells but the first two are numbers."""
    separator = max(",;\t", key=lines[0][1].count)
    rows = list(csv.reader(io.StringIO("\n".join(line for _, line in lines)), delimiter=separator))
    rows = [[cell.strip() for cell in row] for row in rows]
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if ragged is not None or len(rows[0]) < 3:
        found = len(rows[ragged or 0])
        raise DataError(f"{path}: line {lines[ragged or 0][0]} has {found} cells; expected {max(3, len(rows[0]))}.")
    header = [] if all(_is_number(cell) for cell in rows[0][2:]) else rows[0]
    notes: list[str] = []
    if header:
        names, rows, lines = [name.lower() for name in header], rows[1:], lines[1:]
        b = _column(path, bag, BAG, names, "bag", "the bags' names")
        y = _column(path, label, LABEL, names, "label", "the label")
        skip = {i for i, name in enumerate(names) if name in INSTANCE}
    elif rows and not bag and not label and not _is_number(rows[0][0]) and not _is_number(rows[0][1]):
        # UCI's musk: molecule, conformation, features, class
        names, b, y, skip = [], 0, len(rows[0]) - 1, {1}
        notes.append(f"{path.name}: read as molecule, conformation, features, class (UCI's MUSK)")
    else:
        names, skip = [], set()
        b = _column(path, bag, (), names, "bag", "the bags' names", len(rows[0]))
        y = _column(path, label, (), names, "label", "the label", len(rows[0]))
    columns = [i for i in range(len(rows[0] if rows else header)) if i not in skip | {b, y}]
    if b == y or not columns or not rows:
        raise DataError(f"{path}: no features beside the columns of bags and labels.")
    x = np.array(
        [[_number(path, number, row[i]) for i in columns] for row, (number, _) in zip(rows, lines, strict=True)]
    )
    return of_rows(path, x, [row[b] for row in rows], [plain(row[y]) for row in rows], notes)


def _column(
    path: Path, given: str, aliases: Sequence[str], names: Sequence[str], role: str, what: str, count: int = 0
) -> int:
    """Place of a column, by name or number."""
    count = count or len(names)
    if given and given.lower() in names:
        return list(names).index(given.lower())
    if given.isdecimal() and 1 <= int(given) <= count:
        return int(given) - 1
    if given:
        raise DataError(f"{path}: no column {given!r} for {what}; there are {count}.{did_you_mean(given, names)}")
    found = [i for i, name in enumerate(names) if name in aliases]
    if len(found) == 1:
        return found[0]
    could = f"{[names[i] for i in found]} could be it" if found else "none is known by its name"
    raise DataError(
        f"{path}: which column holds {what}? {could}. Say so by name, or by number counted from 1: "
        f"BagFile({str(path)!r}, {role}='1')."
    )


def _number(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: line {line} holds {text!r:.40} where a number is expected.") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
