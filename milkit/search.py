"""Searching hyper-parameters: which fields of an experiment vary, over what values, and how trials are drawn.

    from milkit import Choice, LogUniform, Random

    search = Random({"train.optimizer.learning_rate": LogUniform(1e-5, 1e-2), "model.attention": Choice(64, 128)}, 20)
    study = replace(plain, search=search)

Each fold's configuration is chosen on that fold's validation part and tested once (`milkit.execute.search`).
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from milkit.errors import ConfigError
from milkit.fields import check_fields, nearest

ROOTS = ("model", "train")
FIXED = {
    "train.select": "trials are compared by this criterion",
    "train.width": "bits are promised for one width only",
    "train.precision": "figures of different precision are not held against each other",
    "train.instances_at_once": "it says how, not what, is computed",
    "train.memory": "bits are promised within one mode only",
}
"""Fields that a search leaves alone, and why."""
MOST_TRIALS = 10_000


@dataclass(frozen=True)
class LogUniform:
    """A number whose logarithm is uniform between two ends: learning rates, weight decays."""

    low: float
    high: float

    def __post_init__(self) -> None:
        check_fields(self, "LogUniform", low="(0, inf)", high="(0, inf)")
        _check_ends(self)

    def at(self, u: float) -> float:
        """The value at quantile u in [0, 1)."""
        return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))


@dataclass(frozen=True)
class Uniform:
    """A number that is uniform between two ends: dropout rates, momentum."""

    low: float
    high: float

    def __post_init__(self) -> None:
        check_fields(self, "Uniform")
        _check_ends(self)

    def at(self, u: float) -> float:
        """The value at quantile u in [0, 1)."""
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values: `Choice(64, 128)`, `Choice(Adam(), Sgd())`."""

    values: tuple[Any, ...]

    def __init__(self, *several: Any, values: tuple[Any, ...] = ()) -> None:
        object.__setattr__(self, "values", tuple(several) + tuple(values))
        try:
            different = len(dict.fromkeys(self.values)) == len(self.values)
        except TypeError:
            raise ConfigError(
                f"Choice{self.values!r} holds a value that cannot be compared; write tuples, not lists."
            ) from None
        if not self.values or not different:
            raise ConfigError(f"Choice{self.values!r} needs at least one value, and none twice.")

    def at(self, u: float) -> Any:
        """The value at quantile u in [0, 1)."""
        return self.values[int(u * len(self.values))]


Values = LogUniform | Uniform | Choice
Space = tuple[tuple[str, Values], ...]
Written = Space | Mapping[str, Values]


def _check_ends(values: LogUniform | Uniform) -> None:
    if not values.low < values.high:
        raise ConfigError(f"{values!r}: low must be below high; for a single value state it in the experiment.")


@dataclass(frozen=True)
class Grid:
    """Every combination of the choices, the last field moving fastest."""

    space: Written
    """Dotted field names to `Choice(...)`, written as a dict."""

    def __post_init__(self) -> None:
        _check_space(self)
        for name, values in space_of(self):
            if not isinstance(values, Choice):
                raise ConfigError(
                    f"search.space[{name!r}] is {values!r}, which has no end of values for a Grid; list them by "
                    "Choice(...), or draw them by Random(space, trials=20)."
                )
        if self.trials > MOST_TRIALS:
            raise ConfigError(f"This grid has {self.trials:,} combinations; at most {MOST_TRIALS:,} are sensible.")

    @property
    def trials(self) -> int:
        """How many configurations are tried."""
        return math.prod(len(values.values) for _, values in space_of(self) if isinstance(values, Choice))


@dataclass(frozen=True)
class Random:
    """Independent draws (Bergstra & Bengio, 2012). A trial's values do not depend on how many trials there are."""

    space: Written
    """Dotted field names to `LogUniform`, `Uniform` or `Choice`, written as a dict."""
    trials: int
    """How many configurations are tried."""
    seed: int = 0
    """Of the draws only."""

    def __post_init__(self) -> None:
        check_fields(self, "search", skip=("space",), trials=f"[1, {MOST_TRIALS}]", seed="[0, inf)")
        _check_space(self)


@dataclass(frozen=True)
class Tpe:
    """Tree-structured Parzen estimator (Bergstra et al., 2011) by Optuna: later trials follow what was good so far.

    Each fold has a search of its own: a proposal that followed another fold's validation part would have seen patients
    that this fold tests. Needs `pip install "milkit[optuna]"`.
    """

    space: Written
    """Dotted field names to `LogUniform`, `Uniform` or `Choice`, written as a dict."""
    trials: int
    """How many configurations are tried in each fold."""
    batch: int = 8
    """Trials proposed, and trained side by side, at a time; the first batch is drawn at random."""
    seed: int = 0
    """Of the proposals only."""

    def __post_init__(self) -> None:
        check_fields(
            self, "search", skip=("space",), trials=f"[1, {MOST_TRIALS}]", batch="[1, inf)", seed="[0, inf)"
        )  # fmt: skip
        _check_space(self)

    @property
    def rounds(self) -> int:
        """How many batches there are."""
        return -(-self.trials // self.batch)


Search = Grid | Random | Tpe
PARTS = (Grid, Random, Tpe, LogUniform, Uniform, Choice)
"""Every class that a search is written with."""


def at_once(search: Search | None) -> int:
    """How many configurations of each fold are trained side by side; 1 without a search."""
    if search is None:
        return 1
    return min(search.batch, search.trials) if isinstance(search, Tpe) else search.trials


def space_of(search: Search) -> Space:
    """The searched fields and their values, in the order they were written in."""
    return tuple(search.space.items()) if isinstance(search.space, Mapping) else search.space


def _check_space(search: Any) -> None:
    """A dict is made a tuple of pairs, so that equal searches are equal and hash alike."""
    space = search.space
    pairs = tuple(space.items()) if isinstance(space, Mapping) else space
    fits = isinstance(pairs, tuple) and all(
        isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], Values) for p in pairs
    )
    if not fits or not pairs:
        raise ConfigError(
            f"search.space is {space!r}; expected field names and their values, such as "
            '{"train.optimizer.learning_rate": LogUniform(1e-5, 1e-2)}.'
        )
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ConfigError(f"search.space names a field twice: {', '.join(names)}.")
    object.__setattr__(search, "space", pairs)


def stated(search: Grid | Random) -> list[dict[str, Any]]:
    """The values of every trial of a search whose trials are known before anything is trained."""
    names = [name for name, _ in space_of(search)]
    if isinstance(search, Grid):
        every = itertools.product(*(values.values for _, values in space_of(search) if isinstance(values, Choice)))
        return [dict(zip(names, combination, strict=True)) for combination in every]
    return [
        {name: values.at(_draw(search.seed, trial, place)) for place, (name, values) in enumerate(space_of(search))}
        for trial in range(search.trials)
    ]


def _draw(seed: int, trial: int, place: int) -> float:
    return float(np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, trial, place)))).random())


def with_values(experiment: Any, values: Mapping[str, Any]) -> Any:
    """The experiment of one trial: the fields set, every check of theirs run, and no search.

    Raises:
        ConfigError: there is no such field, or the values do not fit it.
    """
    parts = {tuple(path.split(".")): value for path, value in values.items()}
    return _replaced(dataclasses.replace(experiment, search=None), parts, "")


def _replaced(part: Any, values: Mapping[tuple[str, ...], Any], where: str) -> Any:
    """All fields of a dataclass at once, since values that fit together may not fit one by one."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        name = next(iter(values))[0]
        raise ConfigError(f"search.space: {where.rstrip('.')!r} is {part!r}, which has no field {name!r}.")
    known = {f.name for f in dataclasses.fields(part) if f.init}
    new: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in values):
        if name not in known:
            raise ConfigError(
                f"search.space: {type(part).__name__} has no field {where + name!r}{nearest(name, known)}."
            )
        whole = values.get((name,), getattr(part, name))
        inner = {path[1:]: value for path, value in values.items() if path[0] == name and len(path) > 1}
        new[name] = _replaced(whole, inner, f"{where}{name}.") if inner else whole
    return dataclasses.replace(part, **new)


def check_search(experiment: Any) -> None:
    """Refuse a search that does not fit its experiment, before anything is read or trained.

    Raises:
        ConfigError: a field that is not there or not to be searched, values that it cannot take, or no validation
            criterion to choose by.
    """
    search = experiment.search
    if not isinstance(search, Search):
        raise ConfigError(f"search is {search!r}; expected Grid(...), Random(...), Tpe(...) or None.")
    if experiment.train.select == "last":
        raise ConfigError(
            "A search chooses each fold's configuration on its validation part, but train.select is 'last', which "
            "judges nothing there; choose train.select='loss' (or another criterion)."
        )
    if getattr(experiment, "labels", None) is not None:
        raise ConfigError(
            "A label-budget curve and a search in one study would choose a configuration for every budget; give "
            "search=None or labels=None: search first, then draw the curve of what was chosen."
        )
    for name, _ in space_of(search):
        if name.split(".")[0] not in ROOTS:
            raise ConfigError(
                f"search.space names {name!r}; a search varies fields of the model and of training, such as "
                "'model.dropout' or 'train.optimizer.learning_rate'. Other data, folds or tasks are other studies."
            )
        if name in FIXED:
            raise ConfigError(f"search.space names {name!r}, which a search leaves alone: {FIXED[name]}.")
    for values in _to_check(search):
        try:
            with_values(experiment, values)
        except ConfigError as error:
            shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
            raise ConfigError(f"A trial of the search cannot be built ({shown}): {error}") from error


def variants(experiment: Any) -> list[Any]:
    """The experiments that a search leads to (of Tpe: the ends of what it draws from); without one, itself."""
    if experiment.search is None:
        return [experiment]
    return [with_values(experiment, values) for values in _to_check(experiment.search)]


def _to_check(search: Search) -> Iterator[dict[str, Any]]:
    """Values of all trials where they are known; of Tpe, the ends of every range and every choice, one at a time."""
    if not isinstance(search, Tpe):
        yield from stated(search)
        return
    ends = {name: v.values if isinstance(v, Choice) else (v.low, v.high) for name, v in space_of(search)}
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            yield {**first, name: value}
