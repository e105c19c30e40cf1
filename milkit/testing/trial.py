"""Train a model on several draws of a test, each with several learning rates, as a few compiled programs.

This is the engine that trains every study of milkit, told to learn from synthetic bags: a run is a draw and a learning
rate. Epoch and learning rate are chosen by the loss on the draw's own validation bags, which are drawn as the training
bags are. Test bags are predicted once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from milkit.data.batches import ladder, train_layout
from milkit.errors import ConfigError, NonFiniteError
from milkit.losses import for_task, loss_params
from milkit.task import Binary
from milkit.testing.draws import ROLES, Draw
from milkit.train import optim
from milkit.train.config import Adam, Train
from milkit.train.engine import Engine, Group, run_key
from milkit.train.fit import fit, start
from milkit.train.setup import Hyper, Packed, Setup
from milkit.train.state import RunState, graph_of

TASK = Binary()


@dataclass(frozen=True)
class Recipe:
    """How a model is trained in a test. Features are given as drawn, without a scaler."""

    learning_rates: tuple[float, ...] = (3e-3, 1e-2)
    """Of Adam; each draw keeps the one with the smallest validation loss."""
    epochs: int = 20
    batch_bags: int = 20

    def __post_init__(self) -> None:
        if not self.learning_rates:
            raise ConfigError("learning_rates is empty; name at least one, such as (1e-3,).")

    @property
    def train(self) -> Train:
        """The engine's configuration, at the first learning rate."""
        # one padded length: bags are small, so compiling a second one costs more than padding
        return Train(Adam(self.learning_rates[0]), epochs=self.epochs, batch_bags=self.batch_bags, buckets=1)


RECIPE = Recipe()
"""The default."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What one draw's chosen run gave.

    Attributes:
        learning_rate: the chosen one.
        epoch: the chosen one, from 1.
        scores: the logit of every bag of a role, in the draw's order.
    """

    learning_rate: float
    epoch: int
    scores: dict[str, Float[np.ndarray, "bags"]]


def fit_draws(model: Any, draws: Sequence[Draw], recipe: Recipe = RECIPE) -> list[Fitted]:
    """Train `model` on every draw and predict all its bags.

    Args:
        model: a config with `build(in_features, out_features, *, rngs)`.
        draws: of one test; the number of a draw is also the number of its initialisation.
        recipe: learning rates, epochs, batch.

    Raises:
        NonFiniteError: with every learning rate some draw's loss was not finite.
    """
    engine, rows = _engine(model, draws, recipe.train)
    best: list[Fitted | None] = [None] * len(draws)
    lowest = np.full(len(draws), np.inf)
    for rate in recipe.learning_rates:
        train = replace(recipe.train, optimizer=Adam(rate))
        group = _group(engine, rows, train)
        parts = {role: engine.part([r[role] for r in rows], [r[role] for r in rows]) for role in ROLES}
        state = start(engine, model, int(engine.data.x.shape[1]), 1, group)
        state = fit(engine, group, state, parts["validation"], lambda *_: None)
        predicted = {role: engine.predict(group, state.best_params, state.best_buffers, parts[role]) for role in ROLES}
        for i in _improved(state, lowest):
            scores = {role: np.array([logits[0] for _, logits, _ in predicted[role][i]]) for role in ROLES}
            best[i] = Fitted(rate, int(state.best_epoch[i]) + 1, scores)
    kept = [one for one in best if one is not None]
    if len(kept) < len(draws):
        missing = [i for i, one in enumerate(best) if one is None]
        raise NonFiniteError(
            f"{model}: the loss was not finite on draws {missing} with learning rates {recipe.learning_rates}; "
            "try smaller ones."
        )
    return kept


def _improved(state: RunState, lowest: np.ndarray) -> list[int]:
    """The draws whose validation loss is the smallest so far; `lowest` is brought up to date."""
    loss = np.where(np.asarray(state.failed), np.inf, np.asarray(state.best_loss, np.float64))
    better = np.flatnonzero(loss < lowest)
    lowest[better] = loss[better]
    return better.tolist()


def _engine(model: Any, draws: Sequence[Draw], train: Train) -> tuple[Engine, list[dict[str, np.ndarray]]]:
    """All bags of all draws on the device, and the rows of each draw's roles."""
    bags: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rows: list[dict[str, np.ndarray]] = []
    for one in draws:
        rows.append({})
        for role in ROLES:
            part = getattr(one, role)
            rows[-1][role] = np.arange(len(bags), len(bags) + len(part.x))
            bags += part.x
            labels.append(part.labels)
    lengths = np.array([len(b) for b in bags], np.int64)
    data = Packed(
        x=jnp.asarray(np.concatenate(bags)),
        coords_um=None,
        offsets=jnp.asarray(np.r_[0, np.cumsum(lengths)[:-1]], jnp.int32),
        lengths=jnp.asarray(lengths, jnp.int32),
        target=jnp.asarray(np.concatenate(labels), jnp.int32),
    )
    parts = [r["train"] for r in rows]
    smallest = getattr(model, "min_instances", 1)
    shape = ladder(lengths[np.concatenate(parts)], train.buckets, smallest)
    setup = Setup(
        graph=graph_of(model, int(data.x.shape[1]), 1),
        train=train,
        task=TASK,
        loss=for_task(TASK).fn,
        objective=getattr(model, "objective", None),
    )
    evaluation = ladder(lengths, 2, smallest)  # false_frequency's test bags are far longer than its training bags
    layout = train_layout(lengths, shape, train.batch_bags, parts)
    return Engine(setup, data, layout, evaluation, lengths, seed=0), rows


def _group(engine: Engine, rows: Sequence[dict[str, np.ndarray]], train: Train) -> Group:
    """One run a draw, all with the learning rate of `train`; a draw's keys do not depend on the rate."""
    numbers = tuple((i, 0, 0, 0) for i in range(len(rows)))
    target = np.asarray(engine.data.target)
    hyper = [
        Hyper(
            jax.tree.map(np.float32, optim.rates(train, engine.layout.updates(r["train"]))),
            None,
            None,
            loss_params(TASK, target[r["train"]], 2),
        )
        for r in rows
    ]
    return Group(
        keys=jnp.stack([run_key(engine.seed, *n) for n in numbers]),
        numbers=numbers,
        train=tuple(r["train"] for r in rows),
        validation=tuple(r["validation"] for r in rows),
        hyper=jax.tree.map(lambda *v: jnp.asarray(np.stack(v)), *hyper),
        active=np.ones(len(rows), bool),
    )
