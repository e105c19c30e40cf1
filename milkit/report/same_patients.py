"""Runs of a comparison held to the same task, patients, truths and test parts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from milkit.errors import RunFolderError
from milkit.metrics import Aggregate
from milkit.predictions import SELECTIONS
from milkit.report.contestants import Contestant, Split
from milkit.report.estimate import Measured, Tested, tested
from milkit.report.risk import predicts_curves, with_training

OPTIMISTIC = "optimistic"
PUBLISHED = "as published"
MOST_IDS = 10


@dataclass(frozen=True, eq=False)
class Entrant:
    """A run with one selection, on the patients that all share.

    Attributes:
        name: how it is called.
        path: as the user gave it.
        selection: that is compared, or "as published".
        marks: what every number must be read with.
        study: its test parts.
    """

    name: str
    path: Path
    selection: str
    marks: tuple[str, ...]
    study: Tested


@dataclass(frozen=True, eq=False)
class Field:
    """Runs that can be compared.

    Attributes:
        kind: of the task.
        names: classes, labels or values.
        entrants: in the order given.
        n_train: training patients of each split, {} where there is one split only.
        resample: what the bootstrap draws: patients or sites.
        unit: what a bag was; "" if no run folder says so.
        aggregate: how bags became patients.
        training: survival: the test parts of all runs know their training part.
        curves: survival: and all runs predict survival at its time cuts.
        notes: what a reader must know of all of them.
    """

    kind: str
    names: tuple[str, ...]
    entrants: tuple[Entrant, ...]
    n_train: Mapping[Split, float]
    resample: str
    unit: str
    aggregate: str
    training: bool
    curves: bool
    notes: tuple[str, ...]


def field(contestants: Sequence[Contestant], selections: Sequence[str] = ()) -> Field:
    """Hold runs to the same task, unit, patients, truths and test parts.

    Args:
        contestants: at least two.
        selections: none for the first of validation and last that all have; one for all; or one each.

    Raises:
        RunFolderError: they differ; says in what, lists some of the patients, and what to do.
    """
    if len(contestants) < 2:
        raise RunFolderError("A comparison needs two runs; name a second one.")
    first = contestants[0]
    for contestant in contestants[1:]:
        _same_task(first, contestant)
    settings = {key: _shared_setting(contestants, key) for key in ("unit", "aggregate", "measured")}
    aggregate: Aggregate = "max" if settings["aggregate"] == "max" else "mean"
    measured: Measured = "slide" if settings["measured"] == "slide" else "patient"
    chosen = _selections(contestants, selections)
    training = all(bool(c.training) for c in contestants)
    entrants = []
    for c, selection in zip(contestants, chosen, strict=True):
        rows = c.test if c.published else c.test.take(c.test.selection == selection)
        marks = dict.fromkeys([*c.marks.get(selection, ()), *([OPTIMISTIC] if selection == OPTIMISTIC else [])])
        study = tested(rows, aggregate, "patient", measured)
        if training:
            study = with_training(study, rows, c.training, aggregate)
        entrants.append(Entrant(c.name, c.path, selection, tuple(marks), study))
    for entrant in entrants[1:]:
        _same_patients(entrants[0], entrant)
    for entrant in entrants[1:]:
        _same_parts(entrants[0], entrant)
    for entrant in entrants:
        _same_seeds(entrant)
    # saved folds do not say what they were grouped by: one run that knows is enough, since all test the same parts
    resample = "site" if any(c.settings.get("grouped_by") == "site" for c in contestants) else "patient"
    if resample == "site":
        entrants = _by_site(contestants, entrants, measured)
    n_train, notes = _train_sizes(contestants, entrants[0].study)
    return Field(
        kind=first.test.kind,
        names=next((c.test.names for c in contestants if not c.published), first.test.names),
        entrants=tuple(entrants),
        n_train=n_train,
        resample=resample,
        unit=settings["unit"],
        aggregate=aggregate,
        training=training,
        curves=training and all(predicts_curves(c.test, c.training) for c in contestants),
        notes=(*(f"{c.name}: {note}" for c in contestants for note in c.notes), *notes),
    )


def _same_task(first: Contestant, other: Contestant) -> None:
    if first.test.kind != other.test.kind:
        raise RunFolderError(
            f"{first.path} is a {first.test.kind} study and {other.path} a {other.test.kind} one; only runs of "
            "one task can be compared."
        )
    a, b = first.test.names, other.test.names
    if not (first.published or other.published) and a != b:
        raise RunFolderError(
            f"{first.path} predicts {', '.join(a)} and {other.path} {', '.join(b)}, in this order; run one of "
            "them again with the classes of the other."
        )


def _shared_setting(contestants: Sequence[Contestant], key: str) -> str:
    """The one value of a setting among run folders; "" where none states it."""
    found = {c.settings[key]: c.path for c in contestants if key in c.settings}
    if len(found) > 1:
        said = ", ".join(f"{path}: {value}" for value, path in found.items())
        raise RunFolderError(f"Runs that are compared need the same {key}; found {said}. Run one of them again.")
    return next(iter(found), "")


def _selections(contestants: Sequence[Contestant], asked: Sequence[str]) -> list[str]:
    """The selection of each; optimistic only where it was asked for."""
    own = [c for c in contestants if not c.published]
    if not asked:
        shared = [s for s in SELECTIONS if s != OPTIMISTIC and all(s in c.selections for c in own)]
        if own and not shared:
            has = "; ".join(f"{c.name}: {', '.join(c.selections)}" for c in own)
            raise RunFolderError(
                f"The runs have no honest selection in common ({has}). Name one a run, such as --selection "
                f"{','.join(c.selections[0] for c in contestants)}; optimistic numbers are marked so."
            )
        asked = shared[:1] or [PUBLISHED]
    if len(asked) not in (1, len(contestants)):
        raise RunFolderError(f"--selection names {len(asked)} for {len(contestants)} runs; give one, or one a run.")
    every = list(asked) * (len(contestants) if len(asked) == 1 else 1)
    for c, selection in zip(contestants, every, strict=True):
        if not c.published and selection not in c.selections:
            raise RunFolderError(f"{c.path} has no selection {selection!r}; it has: {', '.join(c.selections)}.")
    return [PUBLISHED if c.published else s for c, s in zip(contestants, every, strict=True)]


def _ids(ids: Sequence[str]) -> str:
    said = ", ".join(repr(str(i)) for i in list(ids)[:MOST_IDS])
    return said + (f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else "")


def _lacks(a: str, mine: set[str], b: str, theirs: set[str]) -> str:
    """Who lacks which patients, in words."""
    said = []
    for name, missing, whole in ((a, sorted(theirs - mine), theirs), (b, sorted(mine - theirs), mine)):
        if missing:
            other = b if name == a else a
            said.append(f"{name} lacks {len(missing)} of the {len(whole)} patients of {other}: {_ids(missing)}")
    return "; ".join(said)


def _same_patients(a: Entrant, b: Entrant) -> None:
    mine, theirs = set(a.study.patients.tolist()), set(b.study.patients.tolist())
    if mine != theirs:
        raise RunFolderError(
            f"The runs do not test the same patients: {_lacks(a.name, mine, b.name, theirs)}. Run both on the patients "
            "they share, with the same folds (SavedFolds reads the folds.csv of a run)."
        )
    differs = ~np.isclose(a.study.target, b.study.target, rtol=1e-6, atol=0).all(1)
    if differs.any():
        who = np.flatnonzero(differs)
        i = int(who[0])
        raise RunFolderError(
            f"The truth of {len(who)} of {len(differs)} patients differs: {_ids(a.study.patients[who].tolist())}; the "
            f"first has {a.study.target[i].tolist()} in {a.name} and {b.study.target[i].tolist()} in {b.name}. Use one "
            "cohort table (is the positive class the same?)."
        )


def _parts(entrant: Entrant) -> dict[Split, set[str]]:
    """The patients tested in each split, by any of its runs."""
    parts: dict[Split, set[str]] = {}
    for run in entrant.study.runs:
        parts.setdefault((run.repeat, run.fold), set()).update(entrant.study.patients[run.patient].tolist())
    return parts


def _same_parts(a: Entrant, b: Entrant) -> None:
    mine, theirs = _parts(a), _parts(b)
    advice = "Give both the same folds (SavedFolds reads the folds.csv of a run; a foreign table needs a fold column)"
    for one, other, name in ((mine, theirs, b.name), (theirs, mine, a.name)):
        missing = sorted(one.keys() - other.keys())
        if missing:
            repeat, fold = missing[0]
            raise RunFolderError(
                f"{name} has no test part of repeat {repeat}, fold {fold}, and lacks {len(missing)} of the {len(one)} "
                f"splits of the other. {advice}, or finish the run with --resume."
            )
    for (repeat, fold), part in sorted(mine.items()):
        if part != theirs[repeat, fold]:
            said = _lacks(a.name, part, b.name, theirs[repeat, fold])
            raise RunFolderError(f"The test parts of repeat {repeat}, fold {fold} differ: {said}. {advice}.")


def _same_seeds(entrant: Entrant) -> None:
    parts = _parts(entrant)
    for run in entrant.study.runs:
        mine = set(entrant.study.patients[run.patient].tolist())
        missing = sorted(parts[run.repeat, run.fold] - mine)
        if missing:
            raise RunFolderError(
                f"{entrant.name}: seed {run.seed} of repeat {run.repeat}, fold {run.fold} (run {run.name}) lacks "
                f"{len(missing)} patients that another seed tests: {_ids(missing)}. Make its predictions anew with "
                "--resume."
            )


def _by_site(contestants: Sequence[Contestant], entrants: Sequence[Entrant], measured: Measured) -> list[Entrant]:
    """The same entrants with sites as the unit of the bootstrap, from the first that knows every patient's site."""
    for c in contestants:
        patients, first = np.unique(c.test.bag if measured == "slide" else c.test.patient, return_index=True)
        sites = c.test.site[first]
        if (sites != "").all():
            at = np.searchsorted(patients, entrants[0].study.patients)
            unit = np.unique(sites[at], return_inverse=True)[1]
            return [replace(e, study=replace(e.study, unit=unit)) for e in entrants]
    raise RunFolderError("Folds are grouped by site, but no run knows the site of every patient; fill in the column.")


def _train_sizes(contestants: Sequence[Contestant], study: Tested) -> tuple[dict[Split, float], list[str]]:
    """Training patients of each split: the fewest of any run, which is the careful side of the corrected test."""
    if len(study.splits) < 2:
        return {}, []
    known = [c for c in contestants if all(c.n_train.get(split) for split in study.splits)]
    if known:
        sizes = {split: min(c.n_train[split] for c in known) for split in study.splits}
        if any(not math.isclose(c.n_train[s], sizes[s]) for c in known for s in sizes):
            return sizes, ["runs trained on different numbers of patients; the test takes the fewest of each split"]
        return sizes, []
    tested_in: dict[Split, int] = {(run.repeat, run.fold): len(run.patient) for run in study.runs}
    rest = {split: float(len(study.patients) - n) for split, n in tested_in.items()}
    if min(rest.values()) <= 0:
        return {}, ["the number of training patients is not known"]
    return rest, ["the number of training patients is not known: taken to be all patients not tested in the split"]
