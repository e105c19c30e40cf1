"""Another hospital's table, read with the model's classes: other names, one class only, nobody with an event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from milkit.data.build import build_study
from milkit.data.study import Study, Unit
from milkit.data.table import CohortTable, read_cohort
from milkit.data.targets import Targets, is_missing
from milkit.data.where import did_you_mean
from milkit.errors import CohortError, ConfigError
from milkit.keep.features import Features, open_like
from milkit.keep.folder import Kept
from milkit.task import Binary, MultiClass, Regression, Survival, Task

NO_EVENT = ("0", "0.0", "false")


@dataclass(frozen=True)
class Reading:
    """How an external table is read, where its words are not the model's.

    Attributes:
        target: its columns, in the order of the task's; () takes the task's own names.
        labels: its classes (or words for the event) -> the model's.
        slide, patient, site, cohort: its columns; "" recognises them, as in `milkit.data.table`.
    """

    target: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    slide: str = ""
    patient: str = ""
    site: str = ""
    cohort: str = ""


def external_study(kept: Kept, features: Features, file: Path, reading: Reading) -> tuple[Study, list[str]]:
    """The bags of another cohort with their targets, class indices being the model's.

    Args:
        kept: the model.
        features: of its slides.
        file: the table.
        reading: how it is read.

    Returns:
        The study, and marks that every number must carry.

    Raises:
        DataError: features of another kind than the model's.
        CohortError: no target column, classes that the model does not know, no slide with features, patients whose
            slides disagree. The message says what was found and expected.
        ConfigError: a reading that does not fit the task.
    """
    table = read_cohort(file, slide=reading.slide, patient=reading.patient, site=reading.site, cohort=reading.cohort)
    table = _translated(kept, _renamed(kept.task, table, reading.target), reading.labels)
    task, table = _readable(kept, table)
    opened, source, marks, notes = open_like(kept.facts, features, table, task)
    measured = kept.facts["measured"] == "slide"
    unit: Unit = "slide" if measured else kept.facts["unit"]
    study = build_study(
        file.stem, opened or table, source, task, unit, split="-", slide_labels=measured, notes=tuple(notes),
        covariates=kept.codings,
    )  # fmt: skip
    return replace(study, targets=Targets(study.targets.values, _names(kept, study))), marks


def _names(kept: Kept, study: Study) -> tuple[str, ...]:
    if isinstance(kept.task, Survival):
        return ("time", "event")
    return kept.names if isinstance(kept.task, Binary) else study.targets.names


def _renamed(task: Task, table: CohortTable, given: Sequence[str]) -> CohortTable:
    """The table with its target columns under the task's names."""
    wanted = task.columns
    if given and len(given) != len(wanted):
        raise ConfigError(
            f"--target {','.join(given)} names {len(given)} column(s); the model needs {', '.join(wanted)}."
        )
    columns = dict(table.columns)
    for name, own in zip(wanted, given or wanted, strict=True):
        if own not in table.columns:
            example = ",".join(f"MY_{w.upper()}" for w in wanted)
            raise CohortError(
                f"{table.file}: no column {own!r}, which holds the target. The columns are {', '.join(table.columns)}."
                f"{did_you_mean(own, table.columns)} Name the right one: --target {example}."
            )
        columns[name] = table.columns[own]
    for own in set(given) - set(wanted):
        del columns[own]
    return replace(table, columns=columns)


def _translated(kept: Kept, table: CohortTable, labels: Mapping[str, str]) -> CohortTable:
    """The table with its classes in the model's words."""
    task = kept.task
    known: tuple[str, ...]
    same: tuple[str, ...] = ()  # other spellings that are read as they are
    if isinstance(task, Survival):
        column, known, same = task.event, ("0", "1"), ("0.0", "1.0", "true", "false")
    elif isinstance(task, Binary | MultiClass):
        column, known = task.label, kept.names
    elif labels:
        raise ConfigError(f"--labels is for classes and events; a {kept.kind} model has none.")
    else:
        return table
    cells = table.columns[column]
    missing = is_missing(cells)
    found = sorted(set(cells[~missing].tolist()))
    wrong = [ours for ours in labels.values() if ours not in known]
    unused = [theirs for theirs in labels if theirs not in found]
    if wrong or unused:
        which = (
            f"{wrong[0]!r} is no class of the model ({', '.join(known)})"
            if wrong
            else (f"{unused[0]!r} does not stand in column {column!r} ({', '.join(found[:10])})")
        )
        raise ConfigError(f"--labels: {which}; write THEIRS=OURS, such as {_example(found, known)}.")
    new = np.array([labels.get(cell, cell) for cell in cells.tolist()], np.str_)
    strange = sorted(v for v in set(new[~missing].tolist()) - set(known) if v.lower() not in same)
    if strange:
        raise CohortError(
            f"{table.file}: column {column!r} holds the classes {', '.join(found[:10])}; the model knows "
            f"{', '.join(known)}, and not {', '.join(strange[:10])}. Say which is which: "
            f"--labels {_example(strange, known)}; or leave those rows out of the table."
        )
    return replace(table, columns={**table.columns, column: new})


def _example(theirs: Sequence[str], ours: Sequence[str]) -> str:
    return ",".join(f"{a}={b}" for a, b in zip(theirs, ours, strict=False)) or f"THEIRS={ours[-1]}"


def _readable(kept: Kept, table: CohortTable) -> tuple[Task, CohortTable]:
    """A task that reads the targets but asks for less than training does: one class, or no event, can be measured."""
    task = kept.task
    if isinstance(task, Binary):
        return MultiClass(label=task.label, classes=kept.names), table
    if isinstance(task, MultiClass):
        return replace(task, classes=kept.names), table
    if not isinstance(task, Survival):
        return task, table
    event, time = table.columns[task.event], table.columns[task.time]
    missing = is_missing(event)
    if missing.all() or not all(str(cell).lower() in NO_EVENT for cell in event[~missing]):
        return task, table
    wrong = [i for i in np.flatnonzero(~is_missing(time)).tolist() if not _positive(str(time[i]))]
    if wrong:
        raise CohortError(
            f"{table.file}: column {task.time!r} is {str(time[wrong[0]])!r} in {table.where.rows(wrong)}; times are "
            "numbers above 0. Correct the cell, or empty it to leave the row out."
        )
    table = replace(table, columns={**table.columns, task.event: np.where(missing, "", "0")})
    return Regression(labels=(task.time, task.event), standardise=False), table


def _positive(cell: str) -> bool:
    try:
        return float(cell) > 0
    except ValueError:
        return False
