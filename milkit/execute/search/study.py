"""A search from start to end: train the trials of all folds, choose one a fold, predict with it.

The run folder's programs are numbered through: those of the trials, round by round, then those of the chosen runs. Any
process finds out from the folder which programs there are so far (`grown`), so trials may be trained anywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from milkit.execute.folder import write_json, write_text
from milkit.execute.prepare import Prepared
from milkit.execute.program import is_done
from milkit.execute.search.choose import Found, best, best_on_test, found_in
from milkit.execute.search.family import Compiled, Family, candidates, compiled, families
from milkit.execute.search.final import finals
from milkit.execute.search.tables import search_json, trials_csv
from milkit.execute.search.tpe import close_journal, optuna_or_error, proposals
from milkit.execute.search.trials import Place, Trial, places, rounds_on_disk, write_proposals
from milkit.search import Tpe

TRIALS, SUMMARY = "trials.csv", "search.json"


_LAID_OUT: "WeakKeyDictionary[Prepared, dict[Compiled, Prepared]]" = WeakKeyDictionary()
"""Families of the studies at hand: laying one out may read all features."""


@dataclass(frozen=True, eq=False)
class Searched(Prepared):
    """A study with the programs that its search has so far."""

    parts: tuple[Prepared, ...] = ()

    def of(self, program: int) -> Prepared:
        """The family, or the chosen runs, that a program holds."""
        return next(p for p in self.parts if p.runs[0].program <= program <= p.runs[-1].program)


def search_through(base: Prepared, out: Path, train: Callable[[Prepared, Sequence[int]], None]) -> Prepared:
    """Run the search of a study.

    Args:
        base: the study, its folder made.
        out: the run folder.
        train: runs programs, given a study that has them and their numbers.

    Returns:
        The study with all its programs; the last ones are the chosen runs.

    Raises:
        NonFiniteError: every trial of a fold failed.
        MilkitError, KeyboardInterrupt: what `train` raises; what had finished is kept.
    """
    search = base.experiment.search
    if isinstance(search, Tpe):
        optuna_or_error()
    while True:
        study, rounds = _trials(base, out)
        numbers = [p for p in range(study.programs) if not is_done(out, p)] if rounds else []
        try:
            if numbers:
                train(study, numbers)
        finally:
            if rounds:
                write_text(out / TRIALS, trials_csv(base, found_in(_families(study), out), _families(study)))
        if not isinstance(search, Tpe) or len(rounds) == search.rounds:
            break
        _propose(base, _families(study) if rounds else [], out, rounds)
    trained, found = _families(study), found_in(_families(study), out)
    if isinstance(search, Tpe):
        close_journal(search, places(base.plan), out, found)
    chosen = _chosen(base, trained, found, out)[0]
    write_text(out / TRIALS, trials_csv(base, found, trained, chosen["validation"]))
    write_json(out / SUMMARY, search_json(base, trained, found, chosen))
    whole = grown(base, out)
    train(whole, range(study.programs, whole.programs))
    return whole


def grown(base: Prepared, out: Path) -> Prepared:
    """The study with the programs that its folder says it has; without a search, as it is.

    The chosen runs are among them once all trials are trained.
    """
    search = base.experiment.search
    if search is None:
        return base
    study, rounds = _trials(base, out)
    complete = rounds and (not isinstance(search, Tpe) or len(rounds) == search.rounds)
    if not complete or not all(is_done(out, program) for program in range(study.programs)):
        return study
    return _with_finals(base, study, out)


def _with_finals(base: Prepared, study: Prepared, out: Path) -> Prepared:
    trained = _families(study)
    found = found_in(trained, out)
    chosen, epochs = _chosen(base, trained, found, out)
    rows = [row for trials in found.values() for trial in trials for row in trial.rows]
    last = finals(base, trained, chosen, rows, epochs, study.programs)
    runs = tuple(run for part in last for run in part.runs)
    return replace(study, runs=(*study.runs, *runs), parts=(*trained, *last))  # type: ignore[call-arg]


def _chosen(
    base: Prepared, trained: Sequence[Family], found: Mapping[Place, Sequence[Found]], out: Path
) -> tuple[dict[str, dict[Place, int]], dict[str, int]]:
    """Each fold's trial by validation and, if the study asks for it, by test; epochs of the latter, by run."""
    chosen = {"validation": {place: best(trials, place).trial for place, trials in found.items()}}
    if base.experiment.optimistic is None:
        return chosen, {}
    chosen["optimistic"], epochs = best_on_test(trained, out, found)
    return chosen, epochs


def _trials(base: Prepared, out: Path) -> tuple[Prepared, list[list[Trial]]]:
    """The study of the trials that are settled so far."""
    rounds = rounds_on_disk(base.experiment, base.plan, out)
    made: list[Family] = []
    known = _LAID_OUT.setdefault(base, {})
    for trials in rounds:
        first = made[-1].runs[-1].program + 1 if made else 0
        new = families(base, candidates(base, trials), first, known)
        known |= {compiled(family.experiment): family for family in new}
        made += new
    runs = tuple(run for family in made for run in family.runs)
    values = {f.name: getattr(base, f.name) for f in fields(Prepared)}
    return Searched(**(values | {"runs": runs}), parts=tuple(made)), rounds


def _families(study: Prepared) -> list[Family]:
    assert isinstance(study, Searched)
    return [part for part in study.parts if isinstance(part, Family)]


def _propose(base: Prepared, trained: Sequence[Family], out: Path, rounds: list[list[Trial]]) -> None:
    search: Any = base.experiment.search
    drawn = proposals(search, places(base.plan), out, found_in(trained, out), len(rounds))
    write_proposals(out, len(rounds), drawn)
