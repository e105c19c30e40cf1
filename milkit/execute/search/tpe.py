"""Proposals that follow what was good so far, by Optuna: a study a fold, a batch a round.

What a round proposes is a function of the search's seed, the fold, the round and what earlier rounds found. The
journal (`search/optuna.journal`, which Optuna's own tools read) is made anew from the run folder each round, so a
search that was killed at any point proposes what it would have proposed.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milkit.errors import ConfigError
from milkit.execute.folder import read_json
from milkit.execute.search.choose import Found
from milkit.execute.search.trials import FOLDER, Place, proposals_file
from milkit.search import Choice, LogUniform, Tpe, Values, space_of

JOURNAL = "optuna.journal"
Drawn = dict[str, float]
"""Value of each field; of a `Choice` its position."""


def optuna_or_error() -> Any:
    """The package, quiet.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            'Tpe needs the optuna package; install it with `pip install "milkit[optuna]"`, or search by Random(...).'
        ) from error
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna


def proposals(
    search: Tpe, places: Sequence[Place], out: Path, found: Mapping[Place, Sequence[Found]], number: int
) -> list[tuple[Place, int, Drawn]]:
    """The trials of a round: (fold, trial, drawn values).

    Args:
        search: the search.
        places: all folds.
        out: the run folder, with the proposals of all earlier rounds.
        found: what the trials of earlier rounds reached.
        number: of the round, from 0.
    """
    first = number * search.batch
    count = min(search.batch, search.trials - first)
    studies = _journal(search, places, out, found, number)
    of = {name: _distribution(values) for name, values in space_of(search)}
    drawn = []
    for place in places:
        for trial in range(first, first + count):
            asked = studies[place].ask(of).params
            drawn.append((place, trial, {name: asked[name] for name, _ in space_of(search)}))
    (out / FOLDER / f"{JOURNAL}.tmp").replace(out / FOLDER / JOURNAL)
    return drawn


def close_journal(search: Tpe, places: Sequence[Place], out: Path, found: Mapping[Place, Sequence[Found]]) -> None:
    """Write the journal of a search that is over."""
    _journal(search, places, out, found, search.rounds)
    (out / FOLDER / f"{JOURNAL}.tmp").replace(out / FOLDER / JOURNAL)


def _journal(
    search: Tpe, places: Sequence[Place], out: Path, found: Mapping[Place, Sequence[Found]], rounds: int
) -> dict[Place, Any]:
    """Optuna's studies with all trials of the first rounds, in a new journal."""
    optuna = optuna_or_error()
    file = out / FOLDER / f"{JOURNAL}.tmp"
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
        studies = {}
        for place in places:
            sampler = optuna.samplers.TPESampler(
                seed=_seed(search, place, rounds), n_startup_trials=search.batch, constant_liar=True
            )
            studies[place] = optuna.create_study(
                storage=storage, sampler=sampler, direction="maximize", study_name=f"repeat {place[0]} fold {place[1]}"
            )
        of = {name: _distribution(values) for name, values in space_of(search)}
        reached = {(place, t.trial): t for place, trials in found.items() for t in trials}
        for row in (row for number in range(rounds) for row in read_json(proposals_file(out, number))):
            place = (row["repeat"], row["fold"])
            result = reached[place, row["trial"]]
            told = result.failed or not np.isfinite(result.metric)
            state = optuna.trial.TrialState.FAIL if told else optuna.trial.TrialState.COMPLETE
            studies[place].add_trial(
                optuna.trial.create_trial(
                    params=row["drawn"], distributions=of, state=state, value=None if told else result.metric
                )
            )
    return studies


def _seed(search: Tpe, place: Place, number: int) -> int:
    return int(np.random.SeedSequence((search.seed, *place, number)).generate_state(1)[0])


def _distribution(values: Values) -> Any:
    optuna = optuna_or_error()
    if isinstance(values, Choice):
        return optuna.distributions.CategoricalDistribution(tuple(range(len(values.values))))
    return optuna.distributions.FloatDistribution(values.low, values.high, log=isinstance(values, LogUniform))
