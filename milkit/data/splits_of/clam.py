"""CLAM's splits: `splits_<i>.csv` with a column of slides a part, `splits_<i>_bool.csv`, and the table of counts.

References:
    Lu et al. (2021), Data-efficient and weakly supervised computational pathology on whole-slide images.
"""

from collections.abc import Sequence

from milkit.data.splits_of.columns import INDEX, a_column_a_part, is_empty, table_in
from milkit.data.splits_of.named import Draft, SplitFile, SplitLayout
from milkit.errors import ProtocolError

PARTS = {"train": "train", "val": "val", "test": "test"}
_TRUE_FALSE = {"true": True, "false": False}


def _part_columns(file: SplitFile) -> list[str]:
    """The columns, if they are an index and parts; else []."""
    columns = [c for c in file.header if c not in INDEX]
    return columns if "train" in columns and len(columns) > 1 and set(columns) <= set(PARTS) else []


def _cells(file: SplitFile) -> list[str]:
    """What is in the columns of parts, without padding."""
    table = table_in(file)
    at = [i for i, c in enumerate(file.header) if c in PARTS]
    return [row[i] for row in table.rows for i in at if not is_empty(row[i])]


def _is_bool(file: SplitFile) -> bool:
    cells = _cells(file)
    return file.header[0] not in PARTS and bool(cells) and all(c.strip().lower() in _TRUE_FALSE for c in cells)


def is_counts(file: SplitFile) -> bool:
    """CLAM's descriptor: classes in the first column, counts in the others.

    Where slides are numbers and classes are too, the contents cannot tell counts from slides: then the name does.
    """
    if not _part_columns(file) or file.header[0] in PARTS:
        return False
    table = table_in(file)
    if not all(cell.strip().removesuffix(".0").isdecimal() for cell in _cells(file)):
        return False
    indices = [row[0].strip() for row in table.rows]
    return indices != [str(i) for i in range(len(indices))] or "descriptor" in file.file.rsplit("/", 1)[-1]


def is_plain(file: SplitFile) -> bool:
    """A column of slides a part."""
    return bool(_part_columns(file)) and not _is_bool(file) and not is_counts(file)


def is_bool(file: SplitFile) -> bool:
    """A row a slide, with True in one of the columns."""
    return bool(_part_columns(file)) and _is_bool(file)


def _read_plain(file: SplitFile) -> Sequence[Draft]:
    return [a_column_a_part(file, PARTS, {}, "unknown")]


def _read_bool(file: SplitFile) -> Sequence[Draft]:
    table, draft = table_in(file), Draft(file.file, "unknown")
    for cells, line in zip(table.rows, table.lines, strict=True):
        name = cells[0].strip()
        if is_empty(name):
            raise ProtocolError(f"{file.file}, line {line}: no slide id in the first column; every row needs one.")
        for column, cell in zip(file.header, cells, strict=True):
            if column in PARTS and _TRUE_FALSE.get(cell.strip().lower(), False):
                draft.add(name, PARTS[column], f"line {line}, column {column!r}")
    return [draft]


LAYOUT = SplitLayout(
    "CLAM", is_plain, _read_plain, whole=False, spoken="CLAM's splits_<i>.csv: the columns train, val, test"
)
BOOL = SplitLayout(
    "CLAM",
    is_bool,
    _read_bool,
    whole=False,
    spoken="CLAM's splits_<i>_bool.csv: slides, and the columns train, val, test with True and False",
)
