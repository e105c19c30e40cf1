"""The slides of a cohort table: which files its rows mean, and the mpp that its column gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.data.matching import without_extensions
from milkit.data.mpp import level0_mpp, mpp_column
from milkit.data.table import CohortTable, read_cohort
from milkit.data.targets import is_missing


@dataclass(frozen=True)
class CohortSlides:
    """Slides of a table.

    Attributes:
        files: slide id -> file, in the table's order.
        mpp: slide id -> micrometres a pixel of level 0, of the rows that give one.
        missing: ids of rows without a file.
    """

    files: Mapping[str, Path]
    mpp: Mapping[str, float]
    missing: tuple[str, ...]


def slides_of_cohort(table: CohortTable | str | Path, slides: Mapping[str, Path], column: str = "") -> CohortSlides:
    """Choose the slides that a table names.

    Args:
        table: a cohort table, or its file. Its ids may have the files' endings.
        slides: of `find_slides`.
        column: of mpps; "" recognises one, and slides without a value keep what their files state; "-" uses none.

    Raises:
        CohortError: a table that cannot be read, no such column, or a cell that is no mpp.
    """
    if not isinstance(table, CohortTable):
        table = read_cohort(table)
    ids = table.slide.tolist()
    same = without_extensions(ids, list(slides))
    names = [same.get(name, name) for name in ids]
    chosen = mpp_column(table, column)
    given: dict[str, float] = {}
    if chosen:
        rows = np.flatnonzero(~is_missing(table.columns[chosen])).tolist()
        given = {same.get(name, name): mpp for name, mpp in level0_mpp(table, chosen, rows).items()}
    files = {name: slides[name] for name in names if name in slides}
    return CohortSlides(files, {n: given[n] for n in files if n in given}, tuple(n for n in names if n not in slides))
