"""Bags in text files: `.svm` with bag ids, the UCI's `clean1.data`, and tables with a column of bags."""

import csv
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milkit.data.datasets.assemble import LabelledBags, of_rows, plain
from milkit.data.formats import svm
from milkit.data.text import read_text as text_of
from milkit.data.where import did_you_mean
from milkit.errors import DataError

BAG = ("bag", "bag_id", "bag_ids", "bag_name", "molecule", "molecule_name", "slide_id", "slide")
LABEL = ("label", "labels", "class", "bag_label", "y", "target")
INSTANCE = ("instance", "instance_id", "instance_name", "conformation", "conformation_name", "inst")
"""Names of an instance, which are no features."""
_UCI = "read as molecule, conformation, features, class (UCI's MUSK)"


def read_text(path: Path, bag: str = "", label: str = "") -> LabelledBags:
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


def _svm(path: Path) -> LabelledBags:
    """`instance:bag:label index:value ...`; the label is that of the bag."""
    whole = svm.parse_svm(path)
    names = [whole.names[i] for i in whole.bag.tolist()]
    labels = [plain(whole.labels[i]) for i in whole.bag.tolist()]
    return of_rows(path, whole.dense(np.arange(len(whole.bag))), names, labels)


def _table(path: Path, lines: Sequence[tuple[int, str]], bag: str, label: str) -> LabelledBags:
    """A table; without a header if all cells but the first two are numbers."""
    separator = max(",;\t", key=lines[0][1].count)
    first = _cells(path, *lines[0], separator, 0)
    header = [] if all(_is_number(cell) for cell in first[2:]) else [cell.lower() for cell in first]
    notes: tuple[str, ...] = ()
    skip: set[int] = set()
    if header:
        lines = lines[1:]
        b = _column(path, bag, BAG, header, "bag", "the bags' names")
        y = _column(path, label, LABEL, header, "label", "the label")
        skip = {i for i, name in enumerate(header) if name in INSTANCE}
    elif not bag and not label and not _is_number(first[0]) and not _is_number(first[1]):
        b, y, skip, notes = 0, len(first) - 1, {1}, (f"{path.name}: {_UCI}",)
    else:
        b = _column(path, bag, (), header, "bag", "the bags' names", len(first))
        y = _column(path, label, (), header, "label", "the label", len(first))
    columns = [i for i in range(len(first)) if i not in skip | {b, y}]
    if b == y or not columns or not lines:
        raise DataError(f"{path}: no features beside the columns of bags and labels.")
    names: list[str] = []
    labels: list[str] = []
    values = array("d")
    for number, line in lines:
        row = _cells(path, number, line, separator, len(first))
        names.append(sys.intern(row[b]))
        labels.append(sys.intern(plain(row[y])))
        values.extend(_numbers(path, number, [row[i] for i in columns]))
    if notes and not set(labels) <= {"0", "1"}:
        raise DataError(
            f"{path} looks like UCI's MUSK (names in two columns, then numbers), but its last column is no class 0 "
            f"or 1. Say which columns hold bag and label, counted from 1: BagFile({str(path)!r}, bag='1', label='2')."
        )
    return of_rows(path, np.array(values).reshape(len(names), -1), names, labels, notes)


def _cells(path: Path, number: int, line: str, separator: str, expected: int) -> list[str]:
    """The cells of one line; `expected` is their number, 0 for any from three on."""
    try:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    except csv.Error as error:
        raise DataError(f"{path}: line {number} cannot be read as cells: {error}.") from None
    if len(cells) != (expected or max(3, len(cells))):
        raise DataError(f"{path}: line {number} has {len(cells)} cells; expected {expected or 'at least 3'}.")
    return cells


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


def _numbers(path: Path, line: int, cells: Sequence[str]) -> list[float]:
    try:
        if "_" not in "".join(cells):  # Python's own notation of long numbers
            return [float(cell) for cell in cells]
    except ValueError:
        pass
    wrong = next(cell for cell in cells if not _is_number(cell))
    raise DataError(f"{path}: line {line} holds {wrong!r:.40} where a number is expected.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
