"""The mpp at level 0 of each slide, from a column of the cohort table."""

from collections.abc import Sequence

import numpy as np

from milkit.data.formats.scale import check_mpp
from milkit.data.table import NONE, CohortTable
from milkit.data.targets import is_missing
from milkit.data.where import did_you_mean
from milkit.errors import CohortError, DataError

RECOGNISED = ("mpp", "mpp_level0", "level0_mpp")
"""Names of the column that is taken when none is given; case does not matter."""


def mpp_column(table: CohortTable, name: str) -> str:
    """Name of the column of mpps: the one given, or the one recognised; "" if there is none.

    Raises:
        CohortError: no such column, or two that could be meant.
    """
    if name == NONE:
        return ""
    if name:
        if name not in table.columns:
            raise CohortError(
                f"{table.file}: no column {name!r} (given as mpp={name!r}); the columns are {list(table.columns)}."
                f"{did_you_mean(name, table.columns)} A number gives all slides one mpp: mpp=0.25."
            )
        return name
    known = [column for column in table.columns if column.strip().lower() in RECOGNISED]
    if len(known) > 1:
        raise CohortError(f"{table.file}: the columns {known} could each be the mpp; say which: mpp={known[0]!r}.")
    return known[0] if known else ""


def level0_mpp(table: CohortTable, column: str, rows: Sequence[int]) -> dict[str, float]:
    """Slide id -> micrometres per pixel at level 0, of some rows.

    Raises:
        CohortError: cells that are empty, no number, or no mpp; names file, line and column.
    """
    index = np.array(rows, np.int64)
    cells, where = table.columns[column][index], table.where.take(index)
    empty = np.flatnonzero(is_missing(cells)).tolist()
    if empty:
        raise CohortError(
            f"{table.file}: column {column!r} (micrometres per pixel at level 0) has no value in {where.rows(empty)}; "
            "look it up in the slide, or set mpp='-' to do without positions."
        )
    result = {}
    for i, (slide, cell) in enumerate(zip(table.slide[index].tolist(), cells.tolist(), strict=True)):
        try:
            value = float(cell)
            check_mpp(value, f"{table.file}: column {column!r} in {where.rows([i])}")
        except ValueError:
            comma = " (write decimals with a point, not a comma)" if "," in cell else ""
            raise CohortError(
                f"{table.file}: column {column!r} is {cell!r} in {where.rows([i])}; expected a number{comma}."
            ) from None
        except DataError as error:
            raise CohortError(str(error)) from None
        result[slide] = value
    return result
