"""Splits that came with a table: a column of roles, of fold numbers, or one column of roles a fold."""

import re
from collections.abc import Mapping

import numpy as np

from milkit.data.study import GivenSplit
from milkit.data.targets import is_missing
from milkit.data.where import Where, and_more, did_you_mean
from milkit.errors import CohortError

ROLE_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "tune": "validation",
    "test": "test",
}
"""Words for roles in a table, in any case; an empty cell takes no part."""
ROLE_WORDS = "train, val, test (or training, valid, validation, dev, tune)"
"""The same in messages."""
_NUMBERED = re.compile(r"fold_(\d+)", re.IGNORECASE)
FOLD_COLUMNS = "fold_*"


def given_splits(
    columns: Mapping[str, np.ndarray], split: str, where: Where
) -> tuple[tuple[GivenSplit, ...], tuple[str, ...], str]:
    """The splits of a table, one role a row.

    Args:
        columns: the table's columns.
        split: name of the column; "fold_*" for `fold_0, fold_1, ...`; "" takes what is there of `split`,
            `fold` and `fold_*`; "-" takes none. A column of role names (`ROLE_NAMES`) is one split. A column
            of whole numbers gives the fold in which a row is tested: one split a number, all other rows train. Columns
            of roles in which somebody is tested twice are redraws, each a repeat; others are folds of one repeat.
        where: origin of the rows.

    Returns:
        The splits, the columns they came from, and a note for the flow ("" where there is none).

    Raises:
        CohortError: no such column, two that could be meant, or a cell that is neither role nor number.
    """
    names = _columns(columns, split, where)
    if not names:
        return (), (), ""
    if len(names) == 1 and not _is_roles(columns[names[0]]):
        splits, note = _numbered(columns[names[0]], names[0], where)
        return splits, names, note
    roles = [_roles(columns[name], name, where) for name in names]
    said = f"{len(roles)} given split(s): roles in {', '.join(names)}"
    if np.sum([role == "test" for role in roles], axis=0).max() <= 1:
        return tuple(GivenSplit(0, fold, role) for fold, role in enumerate(roles)), names, said
    redraws = "; test parts overlap, so they are redraws, not a partition: each is a repeat of its own"
    return tuple(GivenSplit(repeat, 0, role) for repeat, role in enumerate(roles)), names, said + redraws


def _columns(columns: Mapping[str, np.ndarray], split: str, where: Where) -> tuple[str, ...]:
    numbered = sorted((n for n in columns if _NUMBERED.fullmatch(n)), key=lambda n: int(n.split("_")[1]))
    if split == "-":
        return ()
    if split == FOLD_COLUMNS:
        if not numbered:
            raise CohortError(f"{where.file}: no columns fold_0, fold_1, ...; the columns are {list(columns)}.")
        return tuple(numbered)
    if split:
        if split not in columns:
            raise CohortError(
                f"{where.file}: no column {split!r} (given as split={split!r}); the columns are "
                f"{list(columns)}.{did_you_mean(split, columns)}"
            )
        return (split,)
    found = [(n,) for n in columns if n.lower() in ("split", "fold")] + ([tuple(numbered)] if numbered else [])
    if len(found) > 1:
        could = ", ".join(f"split={FOLD_COLUMNS if len(f) > 1 else f[0]!r}" for f in found)
        raise CohortError(
            f"{where.file}: more than one column could be the split; say which: {could}, or split='-' for none."
        )
    return found[0] if found else ()


def _is_roles(cells: np.ndarray) -> bool:
    """Roles, unless there are fold numbers and no role: then what is neither is a mistyped number."""
    filled = [str(cell) for cell in cells[~is_missing(cells)]]
    return any(cell.lower() in ROLE_NAMES for cell in filled) or not any(map(_is_number, filled))


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(\.0*)?", cell) is not None  # 3.0: how pandas writes 3 beside empty cells


def _roles(cells: np.ndarray, column: str, where: Where) -> np.ndarray:
    empty = is_missing(cells)
    roles = ["" if gap else ROLE_NAMES.get(str(cell).lower()) for cell, gap in zip(cells, empty, strict=True)]
    wrong = [i for i, role in enumerate(roles) if role is None]
    if wrong:
        raise CohortError(
            f"{where.file}: column {column!r} is {_said(cells[wrong])} in {where.rows(wrong)}; expected "
            f"{ROLE_WORDS}, or in all rows the number of the fold in which a slide is tested. Correct "
            "the cell, or load with split='-' to use no given split."
        )
    return np.array(roles, "U10")


def _said(cells: np.ndarray) -> str:
    """The distinct cells that were not understood."""
    names = list(dict.fromkeys(repr(str(cell)) for cell in cells))
    return " or ".join(names[:5]) + (" and others" if len(names) > 5 else "")


def _numbered(cells: np.ndarray, column: str, where: Where) -> tuple[tuple[GivenSplit, ...], str]:
    empty = is_missing(cells)
    wrong = [i for i, cell in enumerate(cells) if not empty[i] and not _is_number(str(cell))]
    if wrong:
        raise CohortError(
            f"{where.file}: column {column!r} is {_said(cells[wrong])} in {where.rows(wrong)}; expected the number of "
            "the fold in which a slide is tested, as in the other rows. Correct the cell, or load with split='-' to "
            "use no given split."
        )
    numbers = np.array([-1 if gap else int(float(cell)) for cell, gap in zip(cells, empty, strict=True)])
    folds = sorted(set(numbers[~empty].tolist()))
    if len(folds) < 2:
        raise CohortError(
            f"{where.file}: column {column!r} holds only the fold {folds}; expected at least two. Correct it, or load "
            "with split='-' to use no given split."
        )
    splits = []
    for fold, number in enumerate(folds):
        role = np.where(numbers == number, "test", "train").astype("U10")
        role[empty] = ""
        splits.append(GivenSplit(0, fold, role))
    said = and_more([str(number) for number in folds[:10]], len(folds))
    return tuple(splits), f"{len(splits)} given split(s): tested in the fold of column {column!r} ({said})"
