"""SGD, Adam and AdamW with every rate a per-run array, and steps that may be told to change nothing.

Written out rather than put together from optax's pieces: on a small network an update is bound by memory, and a chain
of transformations followed by a `where` over parameters and state walks over all of it again and again (MUSK1's
attention net with Adam, one core: 121 microseconds an update, against 54 when the condition is part of the update).
Values agree with optax's and PyTorch's (tests/train/test_optim.py, tests/parity/test_optimisers.py).

An update is `p - learning_rate * shape(count) * direction`: the learning rate rides on the run axis, and the shape of
the schedule is a unit function of the run's own count of updates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from milkit.train.config import AdamW, Sgd, Train


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


class Momentum(NamedTuple):
    """State of SGD: the running sum of gradients, shaped as the parameters."""

    trace: Any


class Moments(NamedTuple):
    """State of Adam and AdamW: running means of the gradient and of its square, shaped as the parameters."""

    mean: Any
    square: Any


def start(train: Train, params: Any) -> Momentum | Moments:
    """The optimiser's state before the first update."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Momentum(zeros) if isinstance(train.optimizer, Sgd) else Moments(zeros, zeros)


def schedule(train: Train, rate: Rates, count: Int[Array, ""]) -> Float[Array, ""]:
    """Height of the learning rate in [0, 1] at the run's update `count` (from 0)."""
    done = count.astype(jnp.result_type(float))  # float64 where x64 is on, for checks against oracles
    rise = jnp.minimum(1.0, (done + 1.0) / jnp.maximum(rate.warmup, 1.0))
    if train.schedule == "constant":
        return rise
    if train.schedule == "exponential":
        an_epoch = rate.horizon / train.epochs
        # half an update more, so that a quotient a rounding below a whole number does not count as the epoch before
        epoch = jnp.floor((done - rate.warmup + 0.5) / jnp.maximum(an_epoch, 1.0))
        return rise * train.epoch_decay ** jnp.maximum(epoch, 0.0)
    share = (done - rate.warmup) / jnp.maximum(rate.horizon - rate.warmup, 1.0)
    return rise * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))


def apply(
    train: Train,
    rate: Rates,
    go: Bool[Array, ""],
    count: Int[Array, ""],
    gradient: Any,
    state: Any,
    params: Any,
    scales: tuple[float, ...] = (),
) -> tuple[Any, Any]:
    """One update of one run: new parameters and optimiser state; both as they were where `go` is False.

    Args:
        train, rate: the choices.
        go: whether to move at all.
        count: updates made before.
        gradient: of the mean loss, shaped as the parameters.
        state: from `start`.
        params: the parameters.
        scales: factor on the learning rate of each parameter, in the order of the tree's leaves; () for 1.
    """
    optimizer = train.optimizer
    if train.clip is not None:
        gradient = _clipped(gradient, rate.clip)
    step = rate.learning_rate * schedule(train, rate, count)
    # a factor that all share is no operation a parameter
    steps = [step * s for s in scales] if scales else [step] * len(jax.tree.leaves(params))
    step_of = jax.tree.unflatten(jax.tree.structure(params), steps)
    # A decay of exactly 0 costs an operation a parameter and changes nothing, so it is left out.
    decay = rate.weight_decay if optimizer.weight_decay else None
    coupled = None if isinstance(optimizer, AdamW) else decay

    def full(g: Array, p: Array) -> Array:
        return g if coupled is None else g + coupled * p

    if isinstance(optimizer, Sgd):
        trace = _keep(go, lambda m, g, p: rate.momentum * m + full(g, p), state.trace, gradient, params)
        if not optimizer.nesterov:
            return _keep(go, lambda p, m, s: p - s * m, params, trace, step_of), Momentum(trace)
        ahead = _keep(go, lambda p, m, g, s: p - s * (full(g, p) + rate.momentum * m), params, trace, gradient, step_of)
        return ahead, Momentum(trace)
    b1, b2 = optimizer.b1, optimizer.b2
    done = count.astype(jnp.result_type(float)) + 1.0
    first, second = 1.0 / (1.0 - b1**done), 1.0 / (1.0 - b2**done)
    mean = _keep(go, lambda m, g, p: b1 * m + (1.0 - b1) * full(g, p), state.mean, gradient, params)
    square = _keep(go, lambda v, g, p: b2 * v + (1.0 - b2) * full(g, p) ** 2, state.square, gradient, params)

    def moved(p: Array, m: Array, v: Array, s: Array) -> Array:
        u = first * m / (jnp.sqrt(second * v) + optimizer.eps)
        return p - s * (u + decay * p if isinstance(optimizer, AdamW) and decay is not None else u)

    return _keep(go, moved, params, mean, square, step_of), Moments(mean, square)


def _keep(go: Bool[Array, ""], new: Callable[..., Array], old: Any, *trees: Any) -> Any:
    """`new(old, ...)` leaf by leaf where `go` holds, else `old`, in the leaf's own dtype."""
    return jax.tree.map(lambda o, *more: jnp.where(go, new(o, *more).astype(o.dtype), o), old, *trees)


def _clipped(gradient: Any, largest: Any) -> Any:
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient)))
    # written as a quotient of the norm only where it is too long, so that a gradient of 0 stays 0
    scale = jnp.where(norm > largest, largest / jnp.where(norm > largest, norm, 1.0), 1.0)
    return jax.tree.map(lambda g: g * scale, gradient)
