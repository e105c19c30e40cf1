"""One configuration for a model to keep, of a study that searched for one in every fold."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from milkit import config
from milkit.errors import ConfigError
from milkit.experiment import Experiment
from milkit.keep.run import Finished
from milkit.search import Choice, Search, Tpe, space_of, with_values
from milkit.train.state import graph_of

SOME_FEATURES = 512
"""Width at which the static parts of two models are compared; weights are held against the real one later."""


def settled(
    run: Finished, experiment: Experiment, how: Literal["ensemble", "refit"], tell: Callable[[str], None]
) -> Experiment:
    """The experiment without its search: what its model is built and trained with.

    An ensemble keeps every fold's weights, so the folds' models must be one, up to rates that matter in training only.
    A refit takes the configuration that most folds chose; of a search with proposals of each fold's own, the value
    that most folds chose of a `Choice`, and the median of a number.

    Raises:
        ConfigError: the folds chose models that differ.
    """
    if experiment.search is None:
        return experiment
    space = dict(space_of(experiment.search))
    chosen = run.results["search"]["chosen"]
    values = [{name: _value(of, entry["values"][name]) for name, of in space.items()} for entry in chosen]
    if how == "refit":
        one = most_often(experiment.search, [int(entry["trial"]) for entry in chosen], values)
        tell("the configuration chosen most often: " + ", ".join(f"{name} {value!r}" for name, value in one.items()))
        return _with(experiment, one)
    each = [_with(experiment, v) for v in values]
    first = each[0]
    if any(e.train.standardise != first.train.standardise for e in each) or not _one_model(each, len(run.names)):
        differing = [name for name in space if len({repr(v[name]) for v in values}) > 1]
        raise ConfigError(
            f"{run.folder}: the folds of this search chose models that differ ({', '.join(differing)}), which cannot "
            "be put together as one ensemble; train the configuration chosen most often on all bags with --refit."
        )
    return first


def _with(experiment: Experiment, values: dict[str, Any]) -> Experiment:
    made: Experiment = with_values(experiment, values)
    return made


def _value(of: Any, stated: Any) -> Any:
    """A value of `results.json` as the search knows it."""
    if isinstance(of, Choice):
        return next(v for v in of.values if config.to_json(v) == stated)
    return float(stated)


def most_often(search: Search, trials: list[int], values: list[dict[str, Any]]) -> dict[str, Any]:
    """The configuration that most folds chose; of equals the earlier trial.

    Args:
        search: how they were found.
        trials: that each fold chose.
        values: of these.
    """
    if not isinstance(search, Tpe):
        most = min(Counter(trials).items(), key=lambda item: (-item[1], item[0]))[0]
        return values[trials.index(most)]
    one = {}
    for name, of in space_of(search):
        mine = [v[name] for v in values]
        one[name] = Counter(mine).most_common(1)[0][0] if isinstance(of, Choice) else sorted(mine)[(len(mine) - 1) // 2]
    return one


def _one_model(each: list[Experiment], names: int) -> bool:
    models = list(dict.fromkeys(e.model for e in each))
    out = each[0].task.out_features(names)
    if len(models) == 1:
        return True
    graphs = {graph_of(m, SOME_FEATURES, out, int(getattr(m, "takes_covariates", False))) for m in models}
    return len(graphs) == 1
