"""Optimisers from a small dataclass: optax's pieces, with every rate a per-run array.

optax's ready-made optimisers want Python numbers (a traced learning rate or horizon fails in its schedules), so the
chain here stops before the learning rate: `update = -learning_rate * shape(count) * direction`, where the learning rate
rides on the run axis and the shape of the schedule is a unit function of the run's own update count.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from milkit.train.config import Adam, AdamW, Optimizer, Sgd, Train


class Rates(NamedTuple):
    """Continuous choices of the optimiser, one value a run.

    Attributes:
        learning_rate: peak of the schedule.
        weight_decay: strength of the decay (coupled or decoupled, as the optimiser says).
        momentum: of SGD; unused by Adam.
        clip: largest global gradient norm; unused when the configuration does not clip.
        warmup: updates of linear rise.
        horizon: updates the run will make in all.
    """

    learning_rate: Any
    weight_decay: Any
    momentum: Any
    clip: Any
    warmup: Any
    horizon: Any


def rates(train: Train, updates_an_epoch: int) -> Rates:
    """The configuration's numbers for a run that makes so many updates an epoch."""
    optimizer = train.optimizer
    return Rates(
        learning_rate=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        momentum=optimizer.momentum if isinstance(optimizer, Sgd) else 0.0,
        clip=train.clip if train.clip is not None else 0.0,
        warmup=train.warmup_epochs * updates_an_epoch,
        horizon=float(train.epochs * updates_an_epoch),
    )


def direction(train: Train, rate: Rates) -> optax.GradientTransformation:
    """The optimiser without its learning rate; decay, momentum and clipping may be traced arrays."""
    optimizer: Optimizer = train.optimizer
    steps = [] if train.clip is None else [optax.clip_by_global_norm(rate.clip)]
    # A decay of exactly 0 costs an operation a parameter and changes nothing, so it is left out.
    decay = [optax.add_decayed_weights(rate.weight_decay)] if optimizer.weight_decay else []
    match optimizer:
        case Sgd():
            steps += [*decay, optax.trace(decay=rate.momentum, nesterov=optimizer.nesterov)]
        case Adam():
            steps += [*decay, optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps)]
        case AdamW():
            steps += [optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps), *decay]
    return optax.chain(*steps)


def schedule(train: Train, rate: Rates, count: Int[Array, ""]) -> Float[Array, ""]:
    """Height of the learning rate in [0, 1] at the run's update `count` (from 0)."""
    done = count.astype(jnp.result_type(float))  # float64 where x64 is on, for checks against oracles
    rise = jnp.minimum(1.0, (done + 1.0) / jnp.maximum(rate.warmup, 1.0))
    if train.schedule == "constant":
        return rise
    share = (done - rate.warmup) / jnp.maximum(rate.horizon - rate.warmup, 1.0)
    return rise * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))


def apply(
    train: Train, rate: Rates, count: Int[Array, ""], gradient: Any, optimizer_state: Any, params: Any
) -> tuple[Any, Any]:
    """One update of one run: new parameters and optimiser state."""
    step, optimizer_state = direction(train, rate).update(gradient, optimizer_state, params)
    scale = rate.learning_rate * schedule(train, rate, count)
    return jax.tree.map(lambda p, u: (p - scale * u).astype(p.dtype), params, step), optimizer_state
