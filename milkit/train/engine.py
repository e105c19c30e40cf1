"""Many runs as one compiled program: the one place where the run axis is added.

`Engine` holds what all runs of a study share (packed data, shapes, compiled functions); `fit` trains one group of
runs side by side. A single run is the group of size one. The functions inside see arrays with a leading run axis;
the random sequence of padded lengths is shared by the runs, so the `switch` between lengths stands outside the vmap
(inside it, every branch would be computed at every step).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from milkit.data.batches import PartLayout, TrainLayout, draw_epoch, part_layout
from milkit.train.state import RunState, initial_state
from milkit.train.step import Hyper, Packed, Setup, check_parameters, judge_epoch, predict_step, train_step

RUN_AXIS = 0
_SHARED = None


class EpochLog(NamedTuple):
    """What an epoch says about each run: arrays of shape [runs]."""

    train_loss: Any
    validation_loss: Any
    validation_metric: Any
    best_epoch: Any
    learning: Any
    finished: Any
    failed: Any


def run_key(seed: int, *numbers: int) -> jax.Array:
    """The key of a run, from what it is (`Group.numbers`) and never from its place in a program."""
    key = jax.random.key(seed)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def initialise(model: Any, in_features: int, out_features: int, train: Any, rates: Any, keys: jax.Array) -> RunState:
    """States of several runs before their first step; jitted, as eager initialisation takes seconds."""
    start = partial(initial_state, model, in_features, out_features, train)
    return jax.vmap(start)(rates, jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(5,))
def train_epoch(
    setup: Setup,
    rungs: tuple[int, ...],
    data: Packed,
    hyper: Hyper,
    keys: jax.Array,
    state: RunState,
    epoch: jax.Array,
    order: tuple[jax.Array, ...],
) -> tuple[RunState, jax.Array]:
    """One epoch of all runs: the new states and each run's mean training loss, [runs]."""

    def at_length(length: int, operands: Any) -> Any:
        state, step, (index, weight, update) = operands
        one_run = partial(train_step, setup, length, data)
        return jax.vmap(one_run, (0, 0, _SHARED, 0, 0, 0, 0))(hyper, keys, (epoch, step), state, index, weight, update)

    branches = [partial(at_length, length) for length in rungs]

    def one_step(state: RunState, inputs: Any) -> Any:
        step, rung, *bags = inputs
        return jax.lax.switch(rung, branches, (state, step, tuple(bags)))

    steps = jnp.arange(order[0].shape[0], dtype=jnp.int32)
    keys = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys)
    # What only `validate` changes stays out of the loop: a `switch` copies all that passes through it.
    moving, (loss, seen) = jax.lax.scan(one_step, state._replace(best_params=(), best_buffers=()), (steps, *order))
    state = moving._replace(best_params=state.best_params, best_buffers=state.best_buffers)
    state = jax.vmap(check_parameters, (0, _SHARED))(state, epoch)
    return state, loss.sum(0) / jnp.maximum(seen.sum(0), 1.0)


@partial(jax.jit, static_argnums=(0, 1))
def predict(
    setup: Setup,
    lengths: tuple[int, ...],
    data: Packed,
    hyper: Hyper,
    params: Any,
    buffers: Any,
    index: tuple[jax.Array, ...],
    weight: tuple[jax.Array, ...],
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array | None, ...]]:
    """Logits [s, r, b, c] and attention [s, r, b, n] (or None) of each block of a part."""
    logits, attention = [], []
    for length, i, w in zip(lengths, index, weight, strict=True):
        one_run = partial(predict_step, setup, length, data)
        all_runs = jax.vmap(one_run, (0, 0, 0, 0, 0))
        out = jax.lax.map(lambda bags, f=all_runs: f(hyper, params, buffers, *bags), (i, w))
        logits.append(out[0])
        attention.append(out[1])
    return tuple(logits), tuple(attention)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(4,))
def validate(
    setup: Setup,
    lengths: tuple[int, ...],
    data: Packed,
    hyper: Hyper,
    state: RunState,
    epoch: jax.Array,
    index: tuple[jax.Array, ...],
    weight: tuple[jax.Array, ...],
) -> tuple[RunState, tuple[jax.Array, jax.Array]]:
    """Judge an epoch on each run's validation part: new states, and (loss, criterion), each [runs]."""
    blocks, _ = predict(setup, lengths, data, hyper, state.params, state.buffers, index, weight)
    logits = jnp.concatenate([_by_run(b) for b in blocks], 1)
    bags = jnp.concatenate([_by_run(i) for i in index], 1)
    weights = jnp.concatenate([_by_run(w) for w in weight], 1)
    judge = partial(judge_epoch, setup)
    return jax.vmap(judge, (0, _SHARED, 0, 0, 0, 0, 0))(hyper, epoch, state, logits, data.target[bags], weights, bags)


def _by_run(block: jax.Array) -> jax.Array:
    """[s, r, b, ...] to [r, s * b, ...]."""
    moved = jnp.swapaxes(block, 0, 1)
    return moved.reshape(moved.shape[0], -1, *moved.shape[3:])


class Group(NamedTuple):
    """The runs of one program, as arrays with a leading run axis.

    Attributes:
        keys: of each run (`run_key`).
        numbers: (repeat, fold, inner, replicate) of each run, and the draw of one with few labels, from which
            orders are drawn.
        train, validation: row indices of each run's parts; validation may be empty arrays.
        hyper: stacked.
        active: False for the dummies that fill the last program.
    """

    keys: jax.Array
    numbers: tuple[tuple[int, ...], ...]
    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    hyper: Hyper
    active: np.ndarray


class Engine:
    """Trains and predicts groups of runs of one study; groups share compiled code.

    Args:
        setup: what is fixed at compile time.
        data: the packed study.
        layout: shape of an epoch.
        rungs: padded lengths for evaluation.
        lengths: instances of each bag (numpy).
        seed: the experiment's number.
    """

    def __init__(
        self,
        setup: Setup,
        data: Packed,
        layout: TrainLayout,
        rungs: tuple[int, ...],
        lengths: np.ndarray,
        seed: int,
    ) -> None:
        self.setup, self.data, self.layout, self.rungs, self.lengths, self.seed = (
            setup, data, layout, rungs, lengths, seed,
        )  # fmt: skip

    def part(self, parts: Sequence[np.ndarray], all_parts: Sequence[np.ndarray]) -> PartLayout:
        """The reading order of a part of several runs; `all_parts` of the plan fix its shapes."""
        return part_layout(self.lengths, self.rungs, parts, all_parts)

    def epoch(
        self, group: Group, state: RunState, epoch: int, validation: PartLayout | None
    ) -> tuple[RunState, EpochLog]:
        """Train one epoch and judge it on validation (where there is any)."""
        order = draw_epoch(self.layout, group.train, group.numbers, self.seed, epoch, self.setup.train.accumulate)
        learning = ~np.asarray(state.finished | state.failed)
        number = jnp.asarray(epoch, jnp.int32)
        state, train_loss = train_epoch(
            self.setup, self.layout.rungs, self.data, group.hyper, group.keys, state, number,
            tuple(jnp.asarray(a) for a in (order.rung, order.index, order.weight, order.update)),
        )  # fmt: skip
        loss = metric = jnp.full(train_loss.shape, jnp.nan)
        if validation is not None:
            state, (loss, metric) = validate(
                self.setup, validation.lengths, self.data, group.hyper, state, number,
                tuple(map(jnp.asarray, validation.index)), tuple(map(jnp.asarray, validation.weight)),
            )  # fmt: skip
        log = EpochLog(train_loss, loss, metric, state.best_epoch, learning, state.finished, state.failed)
        return state, EpochLog(*jax.device_get(tuple(log)))

    def judge(self, group: Group, state: RunState, epoch: int, part: PartLayout) -> RunState:
        """The state with its best epoch so far on a part, which `epoch` may be; training is not touched."""
        shown = jax.tree.map(jnp.copy, state)  # `validate` consumes what it is given
        judged, _ = validate(
            self.setup, part.lengths, self.data, group.hyper, shown, jnp.asarray(epoch, jnp.int32),
            tuple(map(jnp.asarray, part.index)), tuple(map(jnp.asarray, part.weight)),
        )  # fmt: skip
        return judged

    def predict(
        self, group: Group, params: Any, buffers: Any, part: PartLayout
    ) -> list[list[tuple[int, np.ndarray, np.ndarray | None]]]:
        """Predict every bag of a part once.

        Returns:
            For each run, a list of (row of the study, logits [c], attention [n] or None), in the part's order.
        """
        logits, attention = predict(
            self.setup, part.lengths, self.data, group.hyper, params, buffers,
            tuple(map(jnp.asarray, part.index)), tuple(map(jnp.asarray, part.weight)),
        )  # fmt: skip
        runs: list[list[tuple[int, np.ndarray, np.ndarray | None]]] = [[] for _ in group.numbers]
        for index, weight, out, att in zip(part.index, part.weight, logits, attention, strict=True):
            out, att = np.asarray(out), None if att is None else np.asarray(att)
            for s, r, b in np.argwhere(weight > 0):
                row = int(index[s, r, b])
                seen = None if att is None else att[s, r, b, : self.lengths[row]]
                runs[r].append((row, out[s, r, b], seen))
        return [sorted(run, key=lambda p: p[0]) for run in runs]
