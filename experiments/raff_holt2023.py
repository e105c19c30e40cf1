"""Raff & Holt (2023): which models keep to the assumption they make? And Harvey et al. (2025): how far from optimal?

    python -m experiments.raff_holt2023            # all of it: results/raff_holt2023.json and docs/algorithmic.md
    python -m experiments.raff_holt2023 --page     # only the tables of docs/algorithmic.md, from the JSON

`make algorithmic` is the first; `seconds` in the JSON says what it took. The paper finds that none of five deep models
(all of them built on pooled embeddings, attention or both) keeps the standard assumption, and that mi-Net does.

Widths are 64 and 32 for every model with layers (the published ones, such as 256-128-64, differ from paper to paper and
take ten times as long); dropout is off; 5 draws, each with its own initialisation; Adam, the epoch and one of two
learning rates chosen by loss on validation bags that are drawn as the training bags are. A model that did not learn is
tried again, slower and for longer (`LONGER`), and the try with the better validation AUROC is shown.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.raff_holt2023_page import write_page
from milkit.metrics.intervals import percentile_interval
from milkit.models import (
    ABMIL,
    BagNet,
    BagNetDS,
    BagNetRC,
    BagStatistics,
    EmbeddingPooling,
    InstanceNet,
    InstancePooling,
)
from milkit.nn import MLP, linear, masked_max
from milkit.predictions import whole_file
from milkit.testing.algorithmic import TESTS, auroc_of, bootstrap_auroc, claims_of, examine
from milkit.testing.draws import Sizes
from milkit.testing.shifted_mean import ShiftedMean, log_odds
from milkit.testing.trial import RECIPE, Recipe, fit_draws
from milkit.types import Bags, Output

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "raff_holt2023.json"
PAGE = ROOT / "docs" / "algorithmic.md"


@dataclass(frozen=True)
class EveryConcept:
    """A bag is positive if each concept is present: the product of the concepts' best probabilities.

    Not from a paper: the control that shows that all three tests can be passed. Adding an instance can only raise the
    highest score of a concept, so nothing can undo a positive bag, and repeating an instance changes nothing. Eight
    concepts where the tests have two: with only two, both often settle on the same one.
    """

    claims: ClassVar[frozenset[str]] = frozenset({"presence"})
    position_aware: ClassVar[bool] = False

    widths: tuple[int, ...] = (64, 32)
    concepts: int = 8

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "EveryConceptModule":
        """Make the module."""
        return EveryConceptModule(self, in_features, out_features, rngs=rngs)


class EveryConceptModule(nnx.Module):
    """See `EveryConcept`."""

    def __init__(self, config: EveryConcept, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.shape = (config.concepts, out_features)
        self.encoder = MLP(in_features, config.widths, rngs=rngs)
        self.scorer = linear(self.encoder.out_features, config.concepts * out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The logit of the product of each concept's highest probability."""
        scores = self.scorer(self.encoder(bags.x, deterministic=deterministic, rngs=rngs))
        best = masked_max(scores, bags.mask).reshape(-1, *self.shape)
        log_p = jnp.minimum(jax.nn.log_sigmoid(best).sum(1), -1e-6)
        return Output(log_p - jnp.log(-jnp.expm1(log_p)))


WIDTHS = (64, 32)
POOLINGS: tuple[dict[str, Any], ...] = (
    {"pooling": "max"}, {"pooling": "mean"}, {"pooling": "lse"}, {"pooling": "gm"}, {"pooling": "topk", "k": 3},
)  # fmt: skip
MODELS: tuple[Any, ...] = (
    *(InstanceNet(WIDTHS, pooling, dropout=0.0) for pooling in ("max", "mean")),
    *(InstancePooling(encoder=WIDTHS, **pooling) for pooling in POOLINGS),
    BagNet(WIDTHS, dropout=0.0),
    BagNetDS(WIDTHS, dropout=0.0),
    BagNetRC((64, 64), dropout=0.0),
    *(EmbeddingPooling(encoder=WIDTHS, **pooling) for pooling in POOLINGS),
    ABMIL(WIDTHS, attention=32, gated=False),
    ABMIL(WIDTHS, attention=32, gated=True),
    BagStatistics(),
    EveryConcept(),
)
LONGER = Recipe(learning_rates=(1e-3,), epochs=40)
SEEDS = 5

DELTAS = (1.0, 2.0, 3.0)
SHIFTED_MODELS: tuple[Any, ...] = (
    ABMIL((32,), attention=32),
    EmbeddingPooling("max", encoder=()),
    InstancePooling("max", encoder=()),
    BagStatistics(),
)
SHIFTED_SIZES = Sizes(1000, 200, 1000)
SHIFTED_RECIPE = Recipe(learning_rates=(1e-3, 3e-3), epochs=20)
SHIFTED_SEEDS = 3
POSTERIOR_BAGS = 20_000


def matrix(model: Any, test: str) -> dict[str, Any]:
    """One cell: the first try, and the longer one where the first did not learn."""
    began = time.process_time()
    tries = [RECIPE]
    (result,) = examine(model, [test], seeds=SEEDS, recipe=RECIPE)
    if result.verdict == "did not learn":
        tries.append(LONGER)
        (again,) = examine(model, [test], seeds=SEEDS, recipe=LONGER)
        result = max(result, again, key=lambda r: r.validation)
    cell = asdict(result)
    cell["tried"] = [asdict(recipe) for recipe in tries]
    cell["seconds"] = time.process_time() - began
    return cell


def shifted_mean(delta: float) -> dict[str, Any]:
    """Each model's AUROC beside the posterior's on the same bags, seeds averaged."""
    task = ShiftedMean(delta)
    draws = [task.draw(seed, SHIFTED_SIZES) for seed in range(SHIFTED_SEEDS)]
    truth = [one.test.labels for one in draws]
    best = [np.array([log_odds(x, delta, task.run) for x in one.test.x]) for one in draws]
    optimal = [auroc_of(y, s) for y, s in zip(truth, best, strict=True)]
    optimal_drawn = [bootstrap_auroc(y, s, i) for i, (y, s) in enumerate(zip(truth, best, strict=True))]
    rows = {}
    for model in SHIFTED_MODELS:
        fitted = fit_draws(model, draws, SHIFTED_RECIPE)
        scores = [f.scores["test"] for f in fitted]
        own = [auroc_of(y, s) for y, s in zip(truth, scores, strict=True)]
        drawn = [bootstrap_auroc(y, s, i) for i, (y, s) in enumerate(zip(truth, scores, strict=True))]
        gap = float(np.mean(own) - np.mean(optimal))
        paired, _ = percentile_interval(np.mean(drawn, axis=0) - np.mean(optimal_drawn, axis=0), gap)
        rows[repr(model)] = {
            "auroc": float(np.mean(own)),
            "seeds": own,
            "train": float(
                np.mean([auroc_of(d.train.labels, f.scores["train"]) for d, f in zip(draws, fitted, strict=True)])
            ),
            "minus_posterior": gap,
            "sampling": paired,
        }
        print(f"ShiftedMean {delta}: {model}: {np.mean(own):.3f}, {gap:+.3f} to the posterior", flush=True)
    return {"posterior": float(np.mean(optimal)), "models": rows}


def posterior_alone(delta: float) -> dict[str, float]:
    """AUROC of the posterior on many bags; the one feature that can be shifted is all it looks at."""
    task = ShiftedMean(delta, features=1)
    bags = task.draw(0, Sizes(4, 4, POSTERIOR_BAGS)).test
    odds = np.array([log_odds(x, delta, task.run) for x in bags.x])
    drawn = bootstrap_auroc(bags.labels, odds, 0)
    return {"auroc": auroc_of(bags.labels, odds), "standard_error": float(drawn.std(ddof=1))}


def main() -> None:
    """Run everything, write the JSON, then the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only rewrite the tables of the page from the JSON")
    if not parser.parse_args().page:
        began = time.process_time()
        models = []
        for model in MODELS:
            cells = {test: matrix(model, test) for test in TESTS}
            models.append({"model": repr(model), "claims": sorted(claims_of(model)), "tests": cells})
            print(model, {t: (c["verdict"], round(c["auroc"], 3)) for t, c in cells.items()}, flush=True)
        results = {
            "made_by": "make algorithmic",
            "environment": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "device": jax.devices()[0].platform,
            },
            "recipe": asdict(RECIPE),
            "longer": asdict(LONGER),
            "seeds": SEEDS,
            "sizes": {name: asdict(test.sizes) for name, test in TESTS.items()},
            "models": models,
            "shifted_mean": {
                "sizes": asdict(SHIFTED_SIZES),
                "recipe": asdict(SHIFTED_RECIPE),
                "seeds": SHIFTED_SEEDS,
                "posterior_bags": POSTERIOR_BAGS,
                "posterior": {str(d): posterior_alone(d) for d in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)},
                "deltas": {str(d): shifted_mean(d) for d in DELTAS},
            },
        }
        results["seconds"] = time.process_time() - began
        with whole_file(RESULTS) as file:
            json.dump(rounded(results), file, indent=1)
            file.write("\n")
    write_page(PAGE, json.loads(RESULTS.read_text()))


def rounded(value: Any) -> Any:
    """Numbers to four places, so that the file can be read."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
