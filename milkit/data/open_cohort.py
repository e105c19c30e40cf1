"""A cohort table and its features brought together: ids that differ by an extension, positions in micrometres."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.aligned import Aligned, align
from milkit.data.features import FeatureSource, Placeable, open_features
from milkit.data.formats.header import Unit
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.matching import without_extensions
from milkit.data.mpp import level0_mpp, mpp_column
from milkit.data.table import NONE, CohortTable
from milkit.data.targets import check_columns, missing_targets
from milkit.errors import ConfigError, DataError
from milkit.task import Task


def open_cohort(
    table: CohortTable,
    features: str | Path | Sequence[str | Path] | Aligned,
    *,
    mpp: float | str = "",
    tile_um: float | None = None,
    encoder: str = "",
    unit: Unit = "",
    patches: str = "",
    allow: Sequence[str] = (),
    task: Task | None = None,
) -> tuple[CohortTable, FeatureSource, tuple[str, ...]]:
    """Open the features of a table's slides.

    Args:
        table: one row a slide.
        features: what `milkit.data.features.open_features` takes, or several sets of the same slides.
        mpp, tile_um, encoder, unit, patches, allow: as in `milkit.data.cohort.Cohort`.
        task: rows without its target are left out later, and need no mpp.

    Returns:
        The table with the ids of the features' files, the features, and notes for the study's flow.

    Raises:
        CohortError: a column of mpps that is not there, or a cell of it that is none.
        DataError: features that cannot be used, or an mpp that is not theirs.
    """
    if isinstance(features, Aligned):
        of_one = {"tile_um": tile_um, "encoder": encoder, "unit": unit, "patches": patches}
        return _open_aligned(table, features, mpp, allow, task, of_one)
    source = open_features(features, tile_um=tile_um, encoder=encoder, unit=unit, patches=patches, allow=allow)
    if isinstance(source, SlideFiles) or _packed(source):
        table = _named_as_files(table, source)
    if isinstance(source, Placeable):
        source = _placed(source, table, mpp, task)
    elif mpp not in ("", NONE):
        raise DataError(f"mpp={mpp!r} is for features with positions in pixels of level 0. Leave it out.")
    return table, source, tuple(getattr(source, "notes", ()))


def _open_aligned(
    table: CohortTable,
    features: Aligned,
    mpp: float | str,
    allow: Sequence[str],
    task: Task | None,
    of_one: Mapping[str, Any],
) -> tuple[CohortTable, FeatureSource, tuple[str, ...]]:
    """Each feature set as if it were the only one, then all put together; `of_one` is what each has to say itself."""
    said = [f"{name}={value!r}" for name, value in of_one.items() if value]
    if said:
        raise ConfigError(
            f"{', '.join(said)} is given beside several feature sets; say it of the set that it is about: "
            f"FeatureFiles(path, {', '.join(said)})."
        )
    sources: list[FeatureSource] = []
    notes: list[str] = []
    for one in features.files:
        table, source, of_set = open_cohort(
            table, one.path, mpp=mpp if one.mpp is None else one.mpp, tile_um=one.tile_um, encoder=one.encoder,
            unit=one.unit, patches=one.patches, allow=allow, task=task,  # type: ignore[arg-type]
        )  # fmt: skip
        sources.append(source)
        notes += of_set
    aligned = align(sources, features, table.slide.tolist())
    return table, aligned, (*notes, *aligned.notes)


def _packed(source: FeatureSource) -> bool:
    """Whether a store was made of files, whose names are the ids."""
    facts = source.provenance
    extras = [part.get("extra") for part in facts.get("files") or [facts]]
    return any(isinstance(extra, dict) and extra.get("tool") for extra in extras)


def _named_as_files(table: CohortTable, source: FeatureSource) -> CohortTable:
    """The table with the ids of the files where they differ by a file extension only, which tools drop."""
    same = without_extensions(table.slide.tolist(), list(source.ids))
    if not same:
        return table
    row, file = next(iter(same.items()))
    ids = np.array([same.get(name, name) for name in table.slide.tolist()], np.str_)
    note = f"{len(same)} slide ids match their files without the extension ({row!r} is {file!r})"
    patient = table.patient if "patient" in table.used else ids
    return replace(table, slide=ids, patient=patient, notes=(*table.notes, note))


def _placed(source: Placeable, table: CohortTable, mpp: float | str, task: Task | None) -> FeatureSource:
    """The features with positions by the given mpp or that of a column, or as the files say themselves."""
    if not isinstance(mpp, str):
        return source.at(dict.fromkeys(source.ids, float(mpp)), f"mpp {mpp:g}, given for all slides")
    # what holds micrometres needs no column, and a table may well have one
    column = mpp_column(table, mpp) if mpp or source.needs_mpp else ""
    if not column:
        return source
    return source.at(_of_column(source, table, column, task), f"the mpp of column {column!r}")


def _of_column(source: FeatureSource, table: CohortTable, column: str, task: Task | None) -> dict[str, float]:
    lengths = dict(zip(source.ids, source.lengths.tolist(), strict=True))
    missing = [""] * len(table)
    if task is not None:
        check_columns(task, table.columns, table.file)
        missing = list(missing_targets(task, table.columns))
    # rows that are left out anyway need no mpp
    used = [i for i, slide in enumerate(table.slide.tolist()) if lengths.get(slide) and not missing[i]]
    return level0_mpp(table, column, used)
