"""The data of an experiment as a table on disk and files of features; what an experiment file writes."""

from dataclasses import dataclass
from pathlib import Path

from milkit.data.aligned import Aligned
from milkit.data.build import build_study
from milkit.data.covariates import Covariate
from milkit.data.open_cohort import open_cohort
from milkit.data.study import Study, Unit
from milkit.data.table import CohortTable, read_cohort
from milkit.fields import check_fields
from milkit.task import Task

__all__ = ["Cohort", "CohortTable", "read_cohort"]


@dataclass(frozen=True)
class Cohort:
    """A cohort table and the features of its slides. Paths are relative to where the command is run."""

    table: str | tuple[str, ...]
    """The table, one row a slide: a CSV or .xlsx file; or two of them, one row a patient and one row a slide, which are
    joined by patient (STAMP's clini and slide tables)."""
    features: str | tuple[str, ...] | Aligned
    """The features: a store, files or a folder of another tool (docs/formats.md), or several of one kind that together
    hold the cohort; or `Aligned(...)`: several feature sets of the same slides."""
    slide: str = ""
    """Column of the slide ids; "" takes the one that is recognised (slide_id, slide, bag_id, bag, image; or else
    sample_id, bag_name, and the file names in slide_path, filename, path)."""
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
    tile_um: float | None = None
    """Width of a tile in micrometres, for files that do not say it."""
    encoder: str = ""
    """Name of the encoder, for files that do not say it (CLAM's)."""
    unit: str = ""
    """Of positions, for files that do not say it (torchmil's, old STAMP's): "px" of level 0, "um", "grid" (columns and
    rows) or "tile_px" (pixels of the tiles as the encoder saw them)."""
    patches: str = ""
    """CLAM's folder of patches files, which hold the tile size; "" looks beside the features."""
    allow: tuple[str, ...] = ()
    """What slides may differ in: "encoder", "tile", "mpp"; otherwise a mixed cohort is an error with a list."""
    strict: bool = False
    """Raise where a slide would be left out (no features, no row, no target) instead of counting it."""
    slide_labels: bool = False
    """Labels belong to slides, so that slides of one patient may differ; needs unit="slide"."""
    covariates: tuple[Covariate, ...] = ()
    """Columns that are an input of the model beside the features, such as ("age", "sex"): numbers if all cells are,
    else categories; `Numeric` and `Categorical` (milkit.data.covariates) say it explicitly."""
    sheet: str = ""
    """Of .xlsx tables, "" for the first."""

    def __post_init__(self) -> None:
        check_fields(self, "data")

    def load(self, task: Task, unit: Unit = "patient") -> Study:
        """Read the table, open the features and make the study of a task.

        Raises:
            CohortError: a table that cannot be used; names file, line and column.
            DataError: features that cannot be used; names the file.
        """
        columns = {"slide": self.slide, "patient": self.patient, "site": self.site, "cohort": self.cohort}
        table = read_cohort(self.table, **columns, sheet=self.sheet)
        table, source, notes = open_cohort(
            table,
            self.features,
            mpp=self.mpp,
            tile_um=self.tile_um,
            encoder=self.encoder,
            unit=self.unit,  # type: ignore[arg-type]  # checked where it is used
            patches=self.patches,
            allow=self.allow,
            task=task,
        )
        return build_study(
            Path(self.table if isinstance(self.table, str) else self.table[0]).stem,
            table,
            source,
            task,
            unit,
            split=self.split,
            notes=notes,
            strict=self.strict,
            slide_labels=self.slide_labels,
            covariates=self.covariates,
        )
