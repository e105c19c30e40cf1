"""From the cells of a table to the targets of a task, with errors that name file, row and column."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from milkit.data.where import Where, and_more, did_you_mean
from milkit.errors import CohortError
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival, Task

MISSING = frozenset({"", "na", "n/a", "nan", "null"})
"""Cells that hold no value, in any case of letters."""
_YES_NO = {"1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "true": 1.0, "false": 0.0}


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be predicted, one row a bag.

    Attributes:
        values: int32 [B] (binary: 1 = positive; multi-class: index of the class) or float32 [B, t]
            (multi-label, regression; survival: time, event), as in `milkit.task`.
        names: the classes (binary: negative, positive), the labels, the value columns, or ("time", "event").
    """

    values: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.values)


def encode(task: Task, columns: Mapping[str, np.ndarray], where: Where) -> Targets:
    """The targets of a task from text columns.

    Args:
        task: says which columns hold the targets and how they are read.
        columns: the table's columns by name, text [B]; no target cell may be missing (`missing_targets` finds
            those rows first).
        where: origin of the rows, for messages.

    Returns:
        The targets, in the order of the rows.

    Raises:
        CohortError: a column that is not there; a label with too few or too many classes, or an unknown one;
            a cell that is not a number, not 0 or 1, or out of range. The message names file, line and column.
    """
    check_columns(task, columns, where.file)
    empty = [(name, i) for name in task.columns for i in np.flatnonzero(is_missing(columns[name])).tolist()]
    if empty:
        raise CohortError(
            f"{where.file}: column {empty[0][0]!r} has no value in {where.rows([empty[0][1]])}; "
            "fill the cell or leave the row out."
        )
    if isinstance(task, Binary):
        return _binary(task, columns[task.label], where)
    if isinstance(task, MultiClass):
        return _multi_class(task, columns[task.label], where)
    if isinstance(task, MultiLabel):
        values = [_yes_no(columns[name], name, where) for name in task.labels]
        return Targets(np.stack(values, 1), tuple(task.labels))
    if isinstance(task, Regression):
        values = [_numbers(columns[name], name, where) for name in task.labels]
        return Targets(np.stack(values, 1), tuple(task.labels))
    return _survival(task, columns, where)


def check_columns(task: Task, columns: Mapping[str, np.ndarray], file: str) -> None:
    """Raise a CohortError when a column that the task needs is not in the table."""
    for name in task.columns:
        if name not in columns:
            raise CohortError(
                f"{file}: no column {name!r}, which {type(task).__name__} needs. The columns are "
                f"{list(columns)}.{did_you_mean(name, columns)} Name the right one in the task, for example "
                f"{_example(task)}."
            )


def is_missing(cells: np.ndarray) -> np.ndarray:
    """Which cells hold no value: empty, NA, N/A, NaN or null in any case; bool [R]."""
    return np.array([str(cell).strip().lower() in MISSING for cell in cells], bool)


def missing_targets(task: Task, columns: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Name of the first target column that is empty in each row, "" where none is."""
    empty = {name: is_missing(columns[name]) for name in task.columns}
    count = len(next(iter(empty.values())))
    return tuple(next((name for name, cells in empty.items() if cells[i]), "") for i in range(count))


def _example(task: Task) -> str:
    if isinstance(task, Survival):
        return "Survival(time='months', event='died')"
    if isinstance(task, MultiLabel | Regression):
        return f"{type(task).__name__}(labels=('my_column',))"
    return f"{type(task).__name__}(label='my_column')"


def _sorted_names(cells: np.ndarray) -> list[str]:
    """The distinct names, by value when all are numbers (2 before 10), else as text."""
    names = sorted({str(cell) for cell in cells})
    try:
        return sorted(names, key=float)
    except ValueError:
        return names


def _binary(task: Binary, cells: np.ndarray, where: Where) -> Targets:
    names = _sorted_names(cells)
    if len(names) != 2:
        found = and_more([repr(n) for n in names[:5]], len(names))
        help_ = {
            0: "The table has no labelled row.",
            1: "A second class is needed to learn anything.",
        }.get(len(names), "Use MultiClass(...) for more than two classes.")
        raise CohortError(
            f"{where.file}: column {task.label!r} holds {len(names)} class(es) ({found}) in the rows in "
            f"use; Binary needs exactly 2. {help_}"
        )
    positive = task.positive or names[1]
    if positive not in names:
        raise CohortError(
            f"{where.file}: Binary(positive={positive!r}) is not a class of column {task.label!r}, "
            f"which holds {names}.{did_you_mean(positive, names)}"
        )
    negative = names[0] if positive == names[1] else names[1]
    return Targets((cells == positive).astype(np.int32), (negative, positive))


def _multi_class(task: MultiClass, cells: np.ndarray, where: Where) -> Targets:
    names = list(task.classes) or _sorted_names(cells)
    if len(set(names)) != len(names):
        raise CohortError(f"MultiClass(classes={task.classes}) names a class more than once.")
    if len(names) < 2:
        raise CohortError(
            f"{where.file}: column {task.label!r} holds {len(names)} class(es) ({names}) in the rows in "
            "use; MultiClass needs at least 2."
        )
    index = {name: i for i, name in enumerate(names)}
    unknown = [i for i, cell in enumerate(cells) if str(cell) not in index]
    if unknown:
        cell = str(cells[unknown[0]])
        raise CohortError(
            f"{where.file}: column {task.label!r} holds the class {cell!r} in {where.rows(unknown)}, "
            f"which MultiClass(classes={tuple(names)}) does not list.{did_you_mean(cell, names)} "
            "Correct the cell or add the class."
        )
    return Targets(np.array([index[str(cell)] for cell in cells], np.int32), tuple(names))


def _survival(task: Survival, columns: Mapping[str, np.ndarray], where: Where) -> Targets:
    time, event = (
        _numbers(columns[task.time], task.time, where),
        _yes_no(columns[task.event], task.event, where),
    )
    wrong = np.flatnonzero(time <= 0).tolist()
    if wrong:
        cell = str(columns[task.time][wrong[0]])
        raise CohortError(
            f"{where.file}: column {task.time!r} is {cell!r} in {where.rows(wrong)}; "
            "times must be above 0. Give the smallest time that can be measured, or empty the cell to leave "
            "the row out."
        )
    if len(event) and not event.any():
        raise CohortError(
            f"{where.file}: column {task.event!r} holds no event (all 0) in the rows that are used; "
            "nothing can be learnt about time to an event. Check that 1 stands for the event."
        )
    return Targets(np.stack([time, event], 1), ("time", "event"))


def _yes_no(cells: np.ndarray, column: str, where: Where) -> np.ndarray:
    values = [_YES_NO.get(str(cell).lower()) for cell in cells]
    wrong = [i for i, value in enumerate(values) if value is None]
    if wrong:
        cell = str(cells[wrong[0]])
        raise CohortError(f"{where.file}: column {column!r} is {cell!r} in {where.rows(wrong)}; expected 0 or 1.")
    return np.array(values, np.float32)


def _numbers(cells: np.ndarray, column: str, where: Where) -> np.ndarray:
    values = np.array([_number(str(cell)) for cell in cells], np.float64)
    wrong = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max)).tolist()
    if wrong:
        cell = str(cells[wrong[0]])
        comma = " (write decimals with a point, not a comma)" if "," in cell else ""
        raise CohortError(
            f"{where.file}: column {column!r} is {cell!r} in {where.rows(wrong)}; expected a finite number{comma}."
        )
    return values.astype(np.float32)


def _number(cell: str) -> float:
    """The cell's value, NaN when it is none; Python's own 1_000 is not taken for a number."""
    try:
        return np.nan if "_" in cell else float(cell)
    except ValueError:
        return np.nan
