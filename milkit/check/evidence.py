"""What the checks look at: the table, its folds and labels, and what a pass over the features left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from milkit.check.folds import Folds
from milkit.check.gather import Gathered
from milkit.data.table import CohortTable
from milkit.data.targets import is_missing
from milkit.data.where import did_you_mean
from milkit.errors import CohortError

LABEL_NAMES = (
    "label", "labels", "target", "class", "y", "diagnosis", "outcome", "event", "status", "response", "subtype",
    "grade",
)  # fmt: skip
MOST_CLASSES = 20
BATCH_NAMES = (
    "site", "hospital", "centre", "center", "institution", "lab", "scanner", "scanner_model", "vendor", "stain",
    "batch", "encoder", "mpp", "mpp_level0", "level0_mpp", "magnification", "tile_um", "tile_px", "cohort",
    "slide_type", "group",
)  # fmt: skip
"""Columns of the table that say how a slide was made, not what is on it."""


@dataclass(frozen=True, eq=False)
class Label:
    """The labels of the table's rows.

    Attributes:
        column: where they stand.
        names: the classes; of numbers the halves below and above the median.
        y: class of each row, -1 where it has none, int64 [R].
        text: the cells, text [R].
        numeric: the column holds measured numbers, which were halved at their median.
    """

    column: str
    names: tuple[str, ...]
    y: Int64[np.ndarray, " R"]
    text: np.ndarray
    numeric: bool = False


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that the checks may look at.

    Attributes:
        table: one row a slide.
        folds: splits; none where no folds are known.
        label: None where the column is not known.
        g: what the pass over the features left; None where there are none.
        rows: table row of each bag of `g`, int64 [B].
        ids: ids of the features, () where there are none.
        repaired: rows' ids that name a slide of the features only after a repair, with that slide.
        how: which repair.
        bag_labels: label that the feature files state, by slide; {} where they do not.
        encoders: encoder of each slide where files differ, by slide.
        batch: columns that say how slides were made: name -> text [R].
    """

    table: CohortTable
    folds: Folds
    label: Label | None = None
    g: Gathered | None = None
    rows: Int64[np.ndarray, " B"] = field(default_factory=lambda: np.zeros(0, np.int64))
    ids: tuple[str, ...] = ()
    repaired: Mapping[str, str] = field(default_factory=dict)
    how: str = ""
    bag_labels: Mapping[str, str] = field(default_factory=dict)
    encoders: Mapping[str, str] = field(default_factory=dict)
    batch: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def bag_y(self) -> Int64[np.ndarray, " B"]:
        """Class of each bag of `g`, -1 where it has none."""
        return np.full(len(self.rows), -1) if self.label is None else self.label.y[self.rows]


def label_of(table: CohortTable, column: str, taken: Sequence[str]) -> Label | None:
    """The table's labels.

    Args:
        table: one row a slide.
        column: where the labels stand; "" takes the first that is called like one (`LABEL_NAMES`), else the only column
            left that holds two to ten classes.
        taken: columns that are ids.

    Raises:
        CohortError: no such column.
    """
    if column and column not in table.columns:
        raise CohortError(
            f"{table.file}: no column {column!r} (given as --label {column}); the columns are {list(table.columns)}."
            f"{did_you_mean(column, table.columns)}"
        )
    if not column:
        known = {name.strip().lower(): name for name in table.columns if name not in taken}
        column = next((known[name] for name in LABEL_NAMES if name in known), "") or _only_classes(table, taken)
    if not column:
        return None
    cells = table.columns[column]
    filled = ~is_missing(cells)
    names = sorted(set(cells[filled].tolist()))
    if len(names) > MOST_CLASSES and (numbers := _numbers(cells, filled)) is not None:
        middle = float(np.median(numbers[filled]))
        y = np.where(filled, (numbers > middle).astype(np.int64), -1)
        return Label(column, (f"up to {middle:g}", f"above {middle:g}"), y, cells, numeric=True)
    index = {name: i for i, name in enumerate(names)}
    y = np.array([index[cell] if known_ else -1 for cell, known_ in zip(cells.tolist(), filled, strict=True)], np.int64)
    return Label(column, tuple(names), y, cells)


def _only_classes(table: CohortTable, taken: Sequence[str]) -> str:
    """The only column that could be a label: two to ten classes, and neither an id nor about splits or scanning."""
    could = []
    for name, cells in table.columns.items():
        plain = name.strip().lower().replace(" ", "_").replace("-", "_")
        about_splits = plain in ("split", "fold", "role", "set") or plain.startswith(("fold_", "split_"))
        if name not in taken and not about_splits and plain not in (*BATCH_NAMES, "sex", "gender", "age"):
            classes = set(cells[~is_missing(cells)].tolist())
            if 2 <= len(classes) <= min(10, len(cells) // 3):
                could.append(name)
    return could[0] if len(could) == 1 else ""


def _numbers(cells: np.ndarray, filled: np.ndarray) -> np.ndarray | None:
    try:
        return np.array([float(cell) if there else np.nan for cell, there in zip(cells.tolist(), filled, strict=True)])
    except ValueError:
        return None


def batch_columns(table: CohortTable, label: Label | None) -> dict[str, np.ndarray]:
    """Columns that say how slides were made, as far as they differ between rows."""
    found = {}
    ids = {table.used.get("slide"), table.used.get("patient"), label.column if label else None}
    for name, cells in table.columns.items():
        known = name.strip().lower().replace(" ", "_").replace("-", "_") in BATCH_NAMES
        if name not in ids and (known or name == table.used.get("site")):
            there = set(cells[~is_missing(cells)].tolist())
            if 2 <= len(there) <= max(2, len(table) // 3):
                found[name] = np.where(is_missing(cells), "", cells)
    return found
