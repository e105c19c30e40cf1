"""Does a model learn what its assumption allows, and only that? The algorithmic tests of Raff & Holt (2023).

    from milkit.testing.algorithmic import check
    check(MyModel())           # trains it on all three tests; AssertionError if it breaks an assumption it claims

A config says in `claims` (a frozenset of names in `ASSUMPTIONS`) what it assumes about bags; an assumption names the
tests that bind a model claiming it. `examine` reports verdicts and holds nobody to anything. `docs/algorithmic.md`
has the whole matrix of milkit's own models.

References:
    Raff & Holt (2023), Reproducibility in multiple instance learning: a case for algorithmic unit tests. NeurIPS,
    arXiv:2310.17867. Foulds & Frank (2010), A review of multi-instance learning assumptions, on the assumptions.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from milkit.errors import ConfigError
from milkit.metrics.intervals import Interval, bootstrap_counts, percentile_interval
from milkit.metrics.ranking import auroc
from milkit.testing.concepts import false_frequency, multi_concept, single_concept
from milkit.testing.draws import Draw, Sizes
from milkit.testing.trial import RECIPE, Fitted, Recipe, fit_draws


@dataclass(frozen=True)
class Test:
    """One algorithmic test.

    Attributes:
        draw: (seed, sizes) to a draw.
        sizes: bags of each role, unless the caller wants others.
        shortcut: what training bags offer and test bags turn round.
    """

    draw: Callable[[int, Sizes], Draw]
    sizes: Sizes
    shortcut: str


TESTS: dict[str, Test] = {
    "single_concept": Test(
        single_concept, Sizes(2000, 200, 400), "a poison instance: in negative bags in training, in positive at test"
    ),
    "multi_concept": Test(
        multi_concept, Sizes(2000, 200, 400), "a poison instance: in negative bags in training, in positive at test"
    ),
    # to see that it takes both concepts, and not few concept instances, needs the most bags
    "false_frequency": Test(
        false_frequency, Sizes(4000, 200, 400), "the number of concept instances: 1 in negative bags, at test 35 to 44"
    ),
}


@dataclass(frozen=True)
class Assumption:
    """What makes a bag positive, by a model's own account.

    Attributes:
        meaning: in words.
        binds: tests that a model claiming it must respect.
    """

    meaning: str
    binds: tuple[str, ...]


ASSUMPTIONS: dict[str, Assumption] = {
    "standard": Assumption(
        "A bag is positive if and only if it holds a positive instance; no other instance can undo that.",
        ("single_concept",),
    ),
    "presence": Assumption(
        "A bag is positive if and only if it holds an instance of each of several concepts; how often, and what else "
        "it holds, does not matter. With one concept this is `standard`.",
        ("single_concept", "multi_concept", "false_frequency"),
    ),
    "threshold": Assumption(
        "As `presence`, with a least number of instances for each concept. (No test here asks for more than one.)",
        ("single_concept", "multi_concept", "false_frequency"),
    ),
    "collective": Assumption(
        "All instances decide together, and any of them may speak for or against; a poison instance is evidence like "
        "any other.",
        (),
    ),
}
"""The assumptions a config can claim."""

LEARNED = 0.9
"""Mean AUROC on the training bags, and on fresh bags drawn like them, from which a model counts as having learned.

The fresh ones are the validation bags: a model that has memorised its training bags has learned no rule to judge.
"""
LEVEL = 0.95
"""Joint level of all seeds' intervals of a test (each has 1 - .05 / seeds, after Bonferroni)."""

Verdict = Literal["respects", "fails", "undecided", "did not learn"]


@dataclass(frozen=True)
class SeedResult:
    """One draw and initialisation.

    Attributes:
        learning_rate, epoch: chosen on the validation bags (drawn as the training bags are).
        train, validation, test: AUROC.
        low, high: sampling interval of the test AUROC (bootstrap of its bags), at the level corrected for the number
            of seeds.
    """

    learning_rate: float
    epoch: int
    train: float
    validation: float
    test: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """A model on one test.

    Attributes:
        test: its name.
        verdict: see `verdict_of`.
        bound: whether a claim of the model binds it.
        train, validation: mean AUROC over seeds; both are of the training distribution.
        auroc: mean test AUROC over seeds.
        sampling: its 95 % interval: how it would move with other test bags, for these very models.
        seeds: each seed's own figures.
    """

    test: str
    verdict: Verdict
    bound: bool
    train: float
    validation: float
    auroc: float
    sampling: Interval
    seeds: tuple[SeedResult, ...]

    def __str__(self) -> str:
        worst, best = (f(s.test for s in self.seeds) for f in (min, max))
        return (
            f"{self.test}: {self.verdict}; AUROC on training bags {self.train:.3f}, on fresh bags like them "
            f"{self.validation:.3f}, on test bags {self.auroc:.3f} "
            f"({self.sampling.low:.3f} to {self.sampling.high:.3f}; seeds {worst:.3f} to {best:.3f})"
        )


def claims_of(model: Any) -> frozenset[str]:
    """The assumptions a config claims; none if it does not say.

    Raises:
        ConfigError: a name that `ASSUMPTIONS` does not have.
    """
    claims = frozenset(getattr(model, "claims", ()))
    if unknown := claims - ASSUMPTIONS.keys():
        raise ConfigError(
            f"{type(model).__name__} claims {', '.join(sorted(unknown))}; assumptions are {', '.join(ASSUMPTIONS)}."
        )
    return claims


def binding(model: Any) -> tuple[str, ...]:
    """The tests that a config's claims bind it to, in the order of `TESTS`."""
    bound = {test for claim in claims_of(model) for test in ASSUMPTIONS[claim].binds}
    return tuple(test for test in TESTS if test in bound)


def verdict_of(seeds: Iterable[SeedResult]) -> Verdict:
    """What the seeds of a test say together.

    `fails`: some seed's whole interval lies below .5: the wrong rule can be learned, and was.
    `did not learn`: otherwise, the mean AUROC on training or on validation bags (both of the training distribution) is
        below `LEARNED`, so the test AUROC says little.
    `respects`: otherwise, every seed's whole interval lies above .5.
    `undecided`: the rest.
    """
    seeds = tuple(seeds)
    if any(s.high < 0.5 for s in seeds):
        return "fails"
    if min(np.mean([s.train for s in seeds]), np.mean([s.validation for s in seeds])) < LEARNED:
        return "did not learn"
    return "respects" if all(s.low > 0.5 for s in seeds) else "undecided"


def examine(
    model: Any,
    tests: Iterable[str] | None = None,
    *,
    seeds: int = 5,
    sizes: Sizes | None = None,
    recipe: Recipe = RECIPE,
) -> tuple[Result, ...]:
    """Train a model on the tests and say what it learned.

    Args:
        model: a config with `build(in_features, out_features, *, rngs)`.
        tests: names in `TESTS`; all of them if None.
        seeds: draws of the bags, each with its own initialisation.
        sizes: bags of each role; each test's own if None.
        recipe: learning rates, epochs, batch.

    Raises:
        ConfigError: a test or a claim that does not exist.
        NonFiniteError: training broke down with every learning rate.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; give at least 1 (5 or more for a verdict worth quoting).")
    names = tuple(TESTS) if tests is None else tuple(tests)
    if unknown := [name for name in names if name not in TESTS]:
        raise ConfigError(f"There is no test {', '.join(map(repr, unknown))}; choose from {', '.join(TESTS)}.")
    bound = binding(model)
    return tuple(_examine(model, name, name in bound, seeds, sizes or TESTS[name].sizes, recipe) for name in names)


def check(
    model: Any,
    tests: Iterable[str] | None = None,
    *,
    seeds: int = 5,
    sizes: Sizes | None = None,
    recipe: Recipe = RECIPE,
) -> tuple[Result, ...]:
    """`examine`, and hold the model to its claims.

    Raises:
        AssertionError: a test that binds the model was not respected; names each, with its figures. A test that
            binds it not is reported and never raises.
    """
    results = examine(model, tests, seeds=seeds, sizes=sizes, recipe=recipe)
    broken = [r for r in results if r.bound and r.verdict != "respects"]
    if broken:
        claimed = ", ".join(sorted(claims_of(model)))
        raise AssertionError(
            f"{model} claims {claimed} but does not keep to it in {len(broken)} of "
            f"{sum(r.bound for r in results)} binding tests:\n" + "\n".join(map(str, broken))
        )
    return results


def _examine(model: Any, name: str, bound: bool, seeds: int, sizes: Sizes, recipe: Recipe) -> Result:
    draws = [TESTS[name].draw(seed, sizes) for seed in range(seeds)]
    fitted = fit_draws(model, draws, recipe)
    return result_of(name, bound, draws, fitted)


def result_of(name: str, bound: bool, draws: list[Draw], fitted: list[Fitted]) -> Result:
    """AUROCs, intervals and verdict from what a model's runs predicted, one a draw."""
    each: list[SeedResult] = []
    moved: list[np.ndarray] = []
    for number, (one, run) in enumerate(zip(draws, fitted, strict=True)):
        values = {r: auroc_of(getattr(one, r).labels, s) for r, s in run.scores.items()}
        moved.append(bootstrap_auroc(one.test.labels, run.scores["test"], number))
        own, _ = percentile_interval(moved[-1], values["test"], 1 - (1 - LEVEL) / len(draws))
        assert own is not None  # half of the test bags are positive: every draw has both classes
        each.append(SeedResult(run.learning_rate, run.epoch, **values, low=own.low, high=own.high))
    mean = {role: float(np.mean([getattr(s, role) for s in each])) for role in ("train", "validation", "test")}
    sampling, _ = percentile_interval(np.mean(moved, axis=0), mean["test"], LEVEL)
    assert sampling is not None
    return Result(name, verdict_of(each), bound, mean["train"], mean["validation"], mean["test"], sampling, tuple(each))


def auroc_of(labels: Int[np.ndarray, "bags"], scores: Float[np.ndarray, "bags"]) -> float:
    """AUROC of both classes' bags."""
    value = auroc(labels, scores.astype(np.float64))
    return float(np.asarray(value))


def bootstrap_auroc(
    labels: Int[np.ndarray, "bags"], scores: Float[np.ndarray, "bags"], seed: int
) -> Float[np.ndarray, "draws"]:
    """AUROC in 2,000 draws of the bags with replacement; equal seeds draw the same bags."""
    return np.asarray(auroc(labels, scores.astype(np.float64), bootstrap_counts(len(labels), seed=seed)))
