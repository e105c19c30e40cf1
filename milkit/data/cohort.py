"""The data of an experiment as a table on disk and files of features; what an experiment file writes."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from milkit.data.build import build_study
from milkit.data.features import open_features
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.matching import without_extensions
from milkit.data.mpp import level0_mpp, mpp_column
from milkit.data.study import Study, Unit
from milkit.data.table import NONE, CohortTable, read_cohort
from milkit.data.targets import check_columns, missing_targets
from milkit.errors import DataError
from milkit.task import Task

__all__ = ["Cohort", "CohortTable", "read_cohort"]


@dataclass(frozen=True)
class Cohort:
    """A cohort table (CSV) and the features of its slides. Paths are relative to where the command is run."""

    table: str
    """The CSV file, one row a slide."""
    features: str | tuple[str, ...]
    """The features: a store, a folder of TRIDENT's or CLAM's `.h5` files, or several of one kind that together hold
    the cohort."""
    slide: str = ""
    """Column of the slide ids; "" takes the one that is recognised (slide_id, slide, bag_id, bag, image)."""
    patient: str = ""
    """Column of the patient ids; "" recognises patient_id, patient, case_id; where there is none, each slide is
    its own patient."""
    site: str = ""
    """Column of the site; "" recognises site, group, hospital, centre, center; "-" uses none."""
    cohort: str = ""
    """Column of the cohort; "" recognises cohort; "-" uses none."""
    split: str = ""
    """Column(s) of given splits: a name, "fold_*", "-" for none; "" recognises split, fold and fold_0, fold_1 ..."""
    mpp: float | str = ""
    """For files of other tools, whose positions are in pixels: micrometres per pixel at level 0 (the scan's full
    resolution), as a number for all slides or as the column that holds each slide's own; "" recognises a column mpp;
    "-" uses none. Where it is not known, neither are positions."""
    encoder: str = ""
    """Name of the encoder, for files that do not say it (CLAM's)."""
    patches: str = ""
    """CLAM's folder of patches files, which hold the tile size; "" looks beside the features."""
    strict: bool = False
    """Raise where a slide would be left out (no features, no row, no target) instead of counting it."""
    slide_labels: bool = False
    """Labels belong to slides, so that slides of one patient may differ; needs unit="slide"."""

    def load(self, task: Task, unit: Unit = "patient") -> Study:
        """Read the table, open the features and make the study of a task.

        Raises:
            CohortError: a table that cannot be used; names file, line and column.
            DataError: features that cannot be used; names the file.
        """
        table = read_cohort(self.table, slide=self.slide, patient=self.patient, site=self.site, cohort=self.cohort)
        source = open_features(self.features, encoder=self.encoder, patches=self.patches)
        notes: tuple[str, ...] = ()
        if isinstance(source, SlideFiles):
            table = _named_as_files(table, source)
            source = _placed(source, table, task, self.mpp)
            notes = source.notes
        elif self.mpp not in ("", NONE):
            raise DataError(
                f"mpp={self.mpp!r} is for files whose positions are in pixels; a milkit store holds them in "
                "micrometres. Leave it out."
            )
        return build_study(
            Path(self.table).stem,
            table,
            source,
            task,
            unit,
            split=self.split,
            notes=notes,
            strict=self.strict,
            slide_labels=self.slide_labels,
        )


def _named_as_files(table: CohortTable, source: SlideFiles) -> CohortTable:
    """The table with the ids of the files where they differ by a file extension only, which tools drop."""
    same = without_extensions(table.slide.tolist(), source.ids)
    if not same:
        return table
    row, file = next(iter(same.items()))
    ids = np.array([same.get(name, name) for name in table.slide.tolist()], np.str_)
    note = f"{len(same)} slide ids match their files without the extension ({row!r} is {file!r})"
    patient = table.patient if "patient" in table.used else ids
    return replace(table, slide=ids, patient=patient, notes=(*table.notes, note))


def _placed(source: SlideFiles, table: CohortTable, task: Task, mpp: float | str) -> SlideFiles:
    """The files with positions by the given mpp or that of a column, or with a note that there are none."""
    if not isinstance(mpp, str):
        return source.at_one(float(mpp))
    column = mpp_column(table, mpp)
    if not column:
        return source.without_positions()
    check_columns(task, table.columns, table.file)
    lengths = dict(zip(source.ids, source.lengths.tolist(), strict=True))
    missing = missing_targets(task, table.columns)
    # rows that are left out anyway need no mpp
    used = [i for i, slide in enumerate(table.slide.tolist()) if lengths.get(slide) and not missing[i]]
    return source.at(level0_mpp(table, column, used), f"the mpp of column {column!r}")
