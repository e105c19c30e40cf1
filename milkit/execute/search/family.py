"""Trials that differ in continuous values only are runs of one compiled program.

A *family* is all trials that agree in everything a program is compiled for. Its own experiment holds a placeholder
where they differ: rates of the optimiser ride in `Hyper`, dropout rates in the module's `Rate` variables.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from milkit.errors import ConfigError
from milkit.execute.prepare import Prepared, Run, lay_out
from milkit.execute.search.trials import Place, Trial
from milkit.experiment import Experiment
from milkit.nn.dropout import Rate
from milkit.search import Choice, Space, space_of, with_values
from milkit.train import optim
from milkit.train.engine import Group
from milkit.train.setup import Hyper
from milkit.train.state import RunState, graph_of, initial_arrays

RATES = tuple(f"train.optimizer.{name}" for name in ("learning_rate", "weight_decay", "momentum"))
RIDING = (*RATES, "train.clip", "train.warmup_epochs")
"""Fields of training that are arrays of a run."""
Compiled = tuple[Any, Any]
PLACEHOLDER = 0.5
OTHER = 0.25


@dataclass(frozen=True)
class Candidate:
    """A trial as its family trains it.

    Attributes:
        trial: which.
        experiment: with its values.
        family: the experiment with placeholders; equal for all trials of a family.
        rates: (leaf of the buffers, dropout rate) of each rate that rides.
    """

    trial: Trial
    experiment: Experiment
    family: Experiment
    rates: tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class Family(Prepared):
    """Runs of the trials of a family; they are trained and judged on validation, never predicted."""

    tests: ClassVar[bool] = False
    candidates: Mapping[tuple[Place, int], Candidate] | None = None

    def candidate(self, run: Run) -> Candidate:
        """The trial of a run."""
        assert self.candidates is not None
        return self.candidates[(run.repeat, run.fold), run.trial]

    def hyper_of(self, run: Run) -> Hyper:
        """The split's values, with the trial's rates."""
        train = self.candidate(run).experiment.train
        updates = self.engine.layout.updates(self.split(run).train, train.accumulate)
        return self.hyper[run.split]._replace(rate=jax.tree.map(np.float32, optim.rates(train, updates)))

    def first_state(self, program: int, group: Group) -> RunState:
        """As of any run, with the trial's dropout rates."""
        state = super().first_state(program, group)
        runs = list(self.members(program))
        runs += [runs[0]] * (self.width - len(runs))
        rates = [dict(self.candidate(run).rates) for run in runs]
        leaves, tree = jax.tree.flatten(state.buffers)
        unflatten: Any = jax.tree.unflatten
        changed = [
            np.asarray([rate[i] for rate in rates], leaf.dtype) if i in rates[0] else None
            for i, leaf in enumerate(leaves)
        ]

        def filled() -> Any:  # twice, as a program gives its arrays up to its result
            return unflatten(tree, [a if c is None else jnp.asarray(c) for a, c in zip(leaves, changed, strict=True)])

        return state._replace(buffers=filled(), best_buffers=jax.tree.map(jnp.copy, filled()))


def candidates(base: Prepared, trials: Sequence[Trial]) -> list[Candidate]:
    """Trials with the experiments that they are compiled for.

    Raises:
        ConfigError: values cannot be combined, or a continuous field does not ride on the run axis.
    """
    search: Any = base.experiment.search
    space = space_of(search)
    made: dict[int, tuple[Any, ...]] = {}  # folds share the values of a trial
    for trial in trials:
        if id(trial.values) not in made:
            made[id(trial.values)] = _compiled_for(base, space, trial.values)
    return [Candidate(trial, *made[id(trial.values)]) for trial in trials]


def _compiled_for(
    base: Prepared, space: Space, values: Mapping[str, Any]
) -> tuple[Experiment, Experiment, tuple[tuple[int, float], ...]]:
    """The experiment of some values, that of its family, and its dropout rates."""
    inside, outside = base.study.features, base.out_features
    experiment = family = with_values(base.experiment, values)
    rates: list[tuple[int, float]] = []
    for name, of in space:
        value = value_at(experiment, name)
        rides = name in RIDING and bool(value)
        if name.startswith("model.") and isinstance(value, float) and value:
            a, b = (_with(family, name, rate) for rate in (PLACEHOLDER, OTHER))
            models: Any = (a and a.model, b and b.model)
            shapes = (inside, outside, base.study.covariate_count, base.engine.setup.canvas)
            leaves = rate_leaves(*models, *shapes) if a and b else ()
            rides = bool(leaves)
            rates += [(leaf, value) for leaf in leaves]
        if rides:
            family = _with(family, name, PLACEHOLDER) or family
        elif not isinstance(of, Choice) and value:
            raise ConfigError(
                f"search.space[{name!r}] is {of!r}, but that field is fixed when a program is compiled, so every "
                "trial would need a compilation of its own; give it a few values by Choice(...)."
            )
    return experiment, family, tuple(rates)


def value_at(experiment: Experiment, name: str) -> Any:
    """A field by its dotted name."""
    return functools.reduce(getattr, name.split("."), experiment)


def _with(experiment: Experiment, name: str, value: float) -> Experiment | None:
    try:
        changed: Experiment = with_values(experiment, {name: value})
    except ConfigError:  # out of the field's range, so it is no rate
        return None
    return changed


@functools.lru_cache(maxsize=1024)
def rate_leaves(
    a: Any, b: Any, in_features: int, out_features: int, covariates: int = 0, canvas: tuple[int, int] | None = None
) -> tuple[int, ...]:
    """Leaves of the buffers that hold a dropout rate in which two configurations of a model differ.

    Empty unless that is all the difference: the same static module, the same parameters, and rates of `PLACEHOLDER` in
    one and of `OTHER` in the other.
    """
    sizes = (in_features, out_features, covariates)
    if hasattr(a, "objective") or graph_of(a, *sizes, canvas) != graph_of(b, *sizes, canvas):
        return ()
    key = jax.random.key(0)
    (params, buffers), other = (
        jax.jit(initial_arrays, static_argnums=(0, 1, 2, 4))(model, in_features, out_features, key, covariates)
        for model in (a, b)
    )
    if not _same(params, other[0]):
        return ()
    is_rate = [isinstance(leaf, Rate) for leaf in jax.tree.leaves(buffers, is_leaf=lambda leaf: isinstance(leaf, Rate))]
    found = []
    for i, (x, y, rate) in enumerate(zip(jax.tree.leaves(buffers), jax.tree.leaves(other[1]), is_rate, strict=True)):
        if np.array_equal(x, y):
            continue
        if not rate or x.ndim or float(x) != PLACEHOLDER or float(y) != OTHER:
            return ()
        found.append(i)
    return tuple(found)


def _same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def families(
    base: Prepared, found: Sequence[Candidate], first: int, known: Mapping[Compiled, Prepared]
) -> list[Family]:
    """Group trials by family and lay out their runs.

    Args:
        base: the study.
        found: trials of one round.
        first: number of the first program.
        known: laid-out families of earlier rounds by `compiled`, whose engines are used again.
    """
    groups: dict[Compiled, list[Candidate]] = {}
    for candidate in found:
        groups.setdefault(compiled(candidate.family), []).append(candidate)
    made = []
    for key, members in groups.items():
        experiment = members[0].family
        like = known.get(key) or lay_out(
            experiment, base.study, base.plan, base.width, base.measured, data=base.engine.data
        )
        runs = _runs(base, members, first)
        first = runs[-1].program + 1
        own = {(c.trial.place, c.trial.number): c for c in members}
        parts = (experiment, base.study, base.plan, runs, base.width, like.engine, like.optimistic, like.hyper)
        made.append(Family(*parts, like.loss, base.measured, candidates=own))
    return made


def compiled(experiment: Experiment) -> Compiled:
    """What of an experiment tells its family from the others of a search."""
    return experiment.model, experiment.train


def _runs(base: Prepared, members: Sequence[Candidate], first: int) -> tuple[Run, ...]:
    """Every run of the study once a trial, keys and all: trials of a fold start from the same parameters."""
    runs: list[Run] = []
    by_place: dict[Place, list[Run]] = {}
    for run in base.runs:
        by_place.setdefault((run.repeat, run.fold), []).append(run)
    for candidate in members:
        number = candidate.trial.number
        for run in by_place[candidate.trial.place]:
            program, slot = divmod(len(runs), base.width)
            numbers = (run.split, run.repeat, run.fold, run.inner, run.seed, first + program, slot)
            runs.append(Run(f"{run.name}t{number}", *numbers, trial=number))
    return tuple(runs)
