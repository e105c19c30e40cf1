"""Columns of a cohort table as groups of patients: which levels a column has, and who belongs to each."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from milkit.data.targets import is_missing
from milkit.errors import RunFolderError

Columns = Mapping[str, Mapping[str, str]]
"""Column -> bag -> cell, as text."""

AUTOMATIC = (2, 8)
"""A column with so many levels is looked at without being asked for."""
MOST_COLUMNS = 6
"""Columns looked at without being asked for; a clinical table may have a hundred."""
MOST_LEVELS = 50
MISSING, SEVERAL = "(missing)", "(several)"


def chosen_columns(
    columns: Columns, asked: Sequence[str] | None, bags: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    """The columns to look at, and notes.

    Args:
        columns: what there is.
        asked: names; None takes the first `MOST_COLUMNS` columns that have few levels.
        bags: ids of the bags tested.

    Raises:
        RunFolderError: a name that is no column.
    """
    if asked is not None:
        for name in asked:
            if name not in columns:
                close = difflib.get_close_matches(name, columns, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise RunFolderError(
                    f"There is no column {name!r} to group patients by; {hint}There are: "
                    f"{', '.join(columns) or 'none'}. A run keeps the columns of its table in columns.csv."
                )
        return list(dict.fromkeys(asked)), ()
    low, high = AUTOMATIC
    few = [name for name, cells in columns.items() if low <= len(_distinct(cells, bags)) <= high]
    left = few[MOST_COLUMNS:]
    notes = (f"not looked at: {', '.join(left)}; ask by --subgroup NAME",) if left else ()
    return few[:MOST_COLUMNS], notes


def levels_of(
    name: str, cells: Mapping[str, str], bag: Shaped[np.ndarray, "n"], patient: Shaped[np.ndarray, "n"]
) -> tuple[dict[str, set[str]], str]:
    """Patients of each level, and a note.

    A column of more than eight different numbers is cut at the tertiles of the patients; any other keeps its levels.
    A patient whose bags differ belongs to `SEVERAL`, one without a value to `MISSING`.

    Args:
        name: of the column.
        cells: bag -> cell.
        bag: id of each row's bag.
        patient: id of each row's patient (its bag where slides are measured).

    Raises:
        RunFolderError: text with more than `MOST_LEVELS` levels, or numbers that have no tertiles.
    """
    of_patient: dict[str, set[str]] = {}
    for b, p in dict.fromkeys(zip(bag.tolist(), patient.tolist(), strict=True)):
        cell = cells.get(b, "")
        of_patient.setdefault(p, set()).add(MISSING if is_missing(np.array([cell]))[0] else cell)
    own = {p: next(iter(found)) if len(found) == 1 else SEVERAL for p, found in of_patient.items()}
    values = set(own.values()) - {MISSING, SEVERAL}
    numbers = {v: x for v in values if (x := _number(v)) is not None}
    note = ""
    if len(values) > AUTOMATIC[1] and len(numbers) == len(values):
        own, note = _tertiles(name, own, numbers)
    elif len(values) > MOST_LEVELS:
        raise RunFolderError(
            f"Column {name!r} has {len(values)} levels ({', '.join(sorted(values)[:3])} ...); sub-groups need at most "
            f"{MOST_LEVELS}. Join levels in a column of your own, or write numbers, which are cut at their tertiles."
        )
    groups: dict[str, set[str]] = {level: set() for level in _ordered(set(own.values()))}
    for p, level in own.items():
        groups[level].add(p)
    return groups, note


def _tertiles(name: str, own: dict[str, str], numbers: Mapping[str, float]) -> tuple[dict[str, str], str]:
    known = {p: numbers[v] for p, v in own.items() if v in numbers}
    low, high = (float(c) for c in np.quantile(list(known.values()), [1 / 3, 2 / 3], method="higher"))
    if not min(known.values()) < low < high:
        raise RunFolderError(
            f"Column {name!r} holds numbers that have no three groups (tertiles {low:g} and {high:g}); "
            "cut it in a column of your own."
        )
    labels = (f"below {low:g}", f"{low:g} to below {high:g}", f"{high:g} and above")
    cut = {p: labels[int(x >= low) + int(x >= high)] for p, x in known.items()}
    return {p: cut.get(p, level) for p, level in own.items()}, (
        f"{name}: numbers, cut at the tertiles of the patients tested, {low:g} and {high:g}"
    )


def _ordered(levels: set[str]) -> list[str]:
    """Numbers by size, tertiles from below, other text in its order; what is missing last."""

    def place(level: str) -> tuple:
        number = _number(level.removeprefix("below ").split(" ")[0])
        last = level in (MISSING, SEVERAL)
        return (last, number is None, -np.inf if level.startswith("below ") else number or 0.0, level)

    return sorted(levels, key=place)


def _distinct(cells: Mapping[str, str], bags: Sequence[str]) -> set[str]:
    found = np.array(sorted({cells.get(bag, "") for bag in bags}))
    return set(found[~is_missing(found)].tolist())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
