"""Many runs as one compiled program.

`Engine` holds what all runs of a study share (packed data, shapes, compiled functions); `fit` trains one group of
runs side by side. A single run is the group of size one. The functions inside see arrays with a leading run axis
(`milkit.train.run_axis`); the random sequence of padded lengths is shared by the runs, so the `switch` between lengths
stands outside the vmap (inside it, every branch would be computed at every step).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from milkit.data.batches import PartLayout, TrainLayout, compact, draw_epoch, part_layout
from milkit.train.config import Select
from milkit.train.images import judge_images
from milkit.train.run_axis import SHARED, Spread, over_blocks, side_by_side
from milkit.train.setup import Hyper, Packed, Setup
from milkit.train.state import RunState, initial_state
from milkit.train.step import (
    check_parameters,
    judge_epoch,
    keep_where,
    learn_gathered,
    predict_step,
    settle,
)


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


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def initialise(
    model: Any, in_features: int, out_features: int, train: Any, covariates: int, keys: jax.Array
) -> RunState:
    """States of several runs before their first step; jitted, as eager initialisation takes seconds."""
    start = partial(initial_state, model, in_features, out_features, train, covariates=covariates)
    return jax.vmap(start)(jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def train_epoch(
    setup: Setup,
    rungs: tuple[int, ...],
    spread: Spread,
    careful: bool,
    data: Packed,
    epoch: jax.Array,
    hyper: Hyper,
    keys: jax.Array,
    state: RunState,
    order: tuple[jax.Array, ...],
) -> tuple[RunState, jax.Array]:
    """One epoch of all runs: the new states and each run's mean training loss, [runs].

    Args:
        setup, rungs, spread: fixed at compile time.
        careful: see `milkit.train.step.settle`.
        data: the packed study.
        epoch: its number.
        hyper, keys, state: of each run.
        order: the fields of `Steps`.
    """
    keys = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys)
    # What only `validate` changes stays out of the loop, which would carry it along.
    moving = state._replace(best_params=(), best_buffers=())
    block = partial(_train_block, setup, rungs, spread, careful)
    moved, loss = over_blocks(spread, block, shared=2)(data, epoch, hyper, keys, moving, order)
    return moved._replace(best_params=state.best_params, best_buffers=state.best_buffers), loss


def _train_block(
    setup: Setup,
    rungs: tuple[int, ...],
    spread: Spread,
    careful: bool,
    data: Packed,
    epoch: jax.Array,
    hyper: Hyper,
    keys: jax.Array,
    state: RunState,
    order: tuple[jax.Array, ...],
) -> tuple[RunState, jax.Array]:
    count, number, rung = (x[0] if spread.axes else x for x in order[:3])  # the runs of a block share them
    bags = order[3:]

    def learn_at(length: int, operands: Any) -> Any:
        step, params, buffers, index, weight = operands
        one_run = partial(learn_gathered, setup, length, data)
        every_run = side_by_side(spread, one_run, (0, 0, SHARED, 0, 0, 0, 0))
        return every_run(hyper, keys, (epoch, step), params, buffers, index, weight)

    branches = [partial(learn_at, length) for length in rungs]

    def one_step(i: jax.Array, carry: Any) -> Any:
        state, loss, seen = carry
        index, weight, update = (jax.lax.dynamic_index_in_dim(b, i, spread.axes, keepdims=False) for b in bags)
        step = number[i]
        # Only the gradient passes through the switch: it copies whatever its branches give back.
        learned = jax.lax.switch(rung[i], branches, (step, state.params, state.buffers, index, weight))
        every_run = side_by_side(spread, partial(settle, setup, careful), (0, SHARED, 0, 0, 0, 0, 0))
        state, (value, bags_seen) = every_run(hyper, (epoch, step), state, learned, index, weight, update)
        return state, loss + value, seen + bags_seen

    zero = jnp.zeros(keys.shape, jnp.result_type(float))
    state, loss, seen = jax.lax.fori_loop(0, count, one_step, (state, zero, zero))
    state = side_by_side(spread, check_parameters, (0, SHARED))(state, epoch)
    return state, loss / jnp.maximum(seen, 1.0)


@partial(jax.jit, static_argnums=(0, 1, 2))
def predict(
    setup: Setup,
    lengths: tuple[int, ...],
    spread: Spread,
    data: Packed,
    hyper: Hyper,
    params: Any,
    buffers: Any,
    index: tuple[jax.Array, ...],
    weight: tuple[jax.Array, ...],
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array | None, ...]]:
    """Logits [r, s, b, c] and attention [r, s, b, n] (or None) of each block of a part, [r, s, b]."""
    block = partial(_predict_block, setup, lengths, spread)
    return over_blocks(spread, block, shared=1)(data, hyper, params, buffers, index, weight)


def _predict_block(
    setup: Setup, lengths: tuple[int, ...], spread: Spread, data: Packed, hyper: Hyper, params: Any, buffers: Any,
    index: Any, weight: Any, step: Callable[..., Any] = predict_step,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array | None, ...]]:  # fmt: skip
    logits, attention = [], []
    for length, i, w in zip(lengths, index, weight, strict=True):
        every_run = side_by_side(spread, partial(step, setup, length, data), (0, 0, 0, 0, 0))
        steps = (jnp.moveaxis(i, spread.axes, 0), jnp.moveaxis(w, spread.axes, 0))
        out = jax.lax.map(lambda bags, f=every_run: f(hyper, params, buffers, *bags), steps)
        out = jax.tree.map(lambda x: jnp.moveaxis(x, 0, spread.axes), out)
        logits.append(out[0])
        attention.append(out[1])
    return tuple(logits), tuple(attention)


@partial(jax.jit, static_argnums=(0, 1, 2))
def validate(
    setup: Setup,
    lengths: tuple[int, ...],
    spread: Spread,
    data: Packed,
    epoch: jax.Array,
    hyper: Hyper,
    state: RunState,
    index: tuple[jax.Array, ...],
    weight: tuple[jax.Array, ...],
) -> tuple[RunState, tuple[jax.Array, jax.Array]]:
    """Judge an epoch on each run's validation part: new states, and (loss, criterion), each [runs].

    With pixel supervision the loss is the model's own, on the masks of the validation images.
    """
    block = partial(_validate_block, setup, lengths, spread)
    return over_blocks(spread, block, shared=2)(data, epoch, hyper, state, index, weight)


def _validate_block(
    setup: Setup, lengths: tuple[int, ...], spread: Spread, data: Packed, epoch: jax.Array, hyper: Hyper,
    state: RunState, index: Any, weight: Any,
) -> tuple[RunState, tuple[jax.Array, jax.Array]]:  # fmt: skip
    masks = data.truth is not None
    step = judge_images if masks else predict_step
    blocks, seen = _predict_block(
        setup, lengths, spread, data, hyper, state.params, state.buffers, index, weight, step
    )  # fmt: skip
    k = spread.axes  # then steps, then bags, which are one axis to a judge
    logits, bags, weights, *losses = (
        jnp.concatenate([x.reshape(*x.shape[:k], -1, *x.shape[k + 2 :]) for x in parts], k)
        for parts in (blocks, index, weight, *([seen] if masks else []))
    )
    judge = side_by_side(spread, partial(judge_epoch, setup), (0, SHARED, 0, 0, 0, 0, 0, *[0] * masks))
    return judge(hyper, epoch, state, logits, data.target[bags], weights, bags, *losses)


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
        spread: how the runs of a group are spread; None computes them all side by side on one device.
    """

    def __init__(
        self,
        setup: Setup,
        data: Packed,
        layout: TrainLayout,
        rungs: tuple[int, ...],
        lengths: np.ndarray,
        seed: int,
        spread: Spread | None = None,
    ) -> None:
        self.setup, self.layout, self.rungs, self.lengths, self.seed = setup, layout, rungs, lengths, seed
        self._given = spread
        self.data = data if spread is None else spread.put(data)

    def judging(self, select: Select) -> "Engine":
        """The same engine, which judges epochs by another criterion and ends no run; shares data and compiled code."""
        other = copy.copy(self)
        other.setup = self.setup._replace(train=replace(self.setup.train, select=select, patience=None))
        return other

    def spread(self, group: "Group") -> Spread:
        """How the runs of this group are spread."""
        return self._given or Spread(len(group.numbers))

    def part(self, parts: Sequence[np.ndarray], all_parts: Sequence[np.ndarray]) -> PartLayout:
        """The reading order of a part of several runs; `all_parts` of the plan fix its shapes."""
        return part_layout(self.lengths, self.rungs, parts, all_parts)

    def epoch(
        self, group: Group, state: RunState, epoch: int, validation: PartLayout | None
    ) -> tuple[RunState, EpochLog]:
        """Train one epoch and judge it on validation (where there is any)."""
        learning = ~np.asarray(state.finished | state.failed)
        state, train_loss = self._train(group, state, epoch, learning)
        loss = metric = jnp.full(train_loss.shape, jnp.nan)
        if validation is not None:
            state, (loss, metric) = self._validate(group, state, epoch, validation)
        log = EpochLog(train_loss, loss, metric, state.best_epoch, learning, state.finished, state.failed)
        return state, EpochLog(*jax.device_get(tuple(log)))

    def lower(self, group: Group, state: RunState) -> Any:
        """The program of an epoch, lowered and not compiled: what it holds and costs can be asked of it."""
        static, values = self._arguments(group, state, 0, group.active)
        return train_epoch.lower(*static, False, *values)

    def _arguments(
        self, group: Group, state: RunState, epoch: int, learning: np.ndarray
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What `train_epoch` is given, before and after `careful`."""
        spread = self.spread(group)
        order = draw_epoch(self.layout, group.train, group.numbers, self.seed, epoch, self.setup.train.accumulate)
        steps = compact(order, spread.width, learning)
        bags = spread.put((steps.count, steps.number, steps.rung, steps.index, steps.weight, steps.update), 0)
        # a state that is not yet where the program wants it would make JAX compile the program twice
        own = spread.put((group.hyper, group.keys, state), 0)
        static = (self.setup, self.layout.rungs, spread)
        return static, (self.data, spread.put(np.int32(epoch)), *own, bags)

    def _train(self, group: Group, state: RunState, epoch: int, learning: np.ndarray) -> tuple[RunState, jax.Array]:
        static, values = self._arguments(group, state, epoch, learning)

        def train(careful: bool) -> tuple[RunState, jax.Array]:
            return train_epoch(*static, careful, *values)

        after, loss = train(False)
        newly = np.asarray(after.failed) & learning
        if newly.any():
            # Once more for those that failed, now with a look at every gradient, to stop at the very step.
            slow, slow_loss = train(True)
            found = jnp.asarray(newly) & slow.failed
            pick = jax.vmap(keep_where)
            after, loss = pick(found, slow, after), jnp.where(found, slow_loss, loss)
        return after, loss

    def _validate(
        self, group: Group, state: RunState, epoch: int, part: PartLayout
    ) -> tuple[RunState, tuple[jax.Array, jax.Array]]:
        spread = self.spread(group)
        index, weight = _by_run(part.index), _by_run(part.weight)
        hyper, state, index, weight = spread.put((group.hyper, state, index, weight), 0)
        number = spread.put(np.int32(epoch))
        return validate(self.setup, part.lengths, spread, self.data, number, hyper, state, index, weight)

    def judge(self, group: Group, state: RunState, epoch: int, part: PartLayout) -> RunState:
        """The state with its best epoch so far on a part, which `epoch` may be; training is not touched."""
        return self._validate(group, state, epoch, part)[0]

    def predict(
        self, group: Group, params: Any, buffers: Any, part: PartLayout
    ) -> list[list[tuple[int, np.ndarray, np.ndarray | None]]]:
        """Predict every bag of a part once.

        Returns:
            For each run, a list of (row of the study, logits [c], attention [n] or None), in the part's order.
        """
        spread = self.spread(group)
        own = spread.put((group.hyper, params, buffers, _by_run(part.index), _by_run(part.weight)), 0)
        logits, attention = jax.device_get(predict(self.setup, part.lengths, spread, self.data, *own))
        runs: list[list[tuple[int, np.ndarray, np.ndarray | None]]] = [[] for _ in group.numbers]
        for index, weight, out, att in zip(part.index, part.weight, logits, attention, strict=True):
            for s, r, b in np.argwhere(weight > 0):
                row = int(index[s, r, b])
                seen = None if att is None else self._own(att[r, s, b], row)
                runs[r].append((row, out[r, s, b], seen))
        return [sorted(run, key=lambda p: p[0]) for run in runs]

    def _own(self, seen: np.ndarray, row: int) -> np.ndarray:
        """What is said of a bag's own instances, [n], or of an image's own pixels, [h, w, c]."""
        if self.setup.canvas is None:
            return seen[: self.lengths[row]]
        height, width = np.asarray(self.data.sizes)[row]
        return seen[:height, :width]


def _by_run(blocks: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """[s, r, b] to [r, s, b]."""
    return tuple(b.swapaxes(0, 1) for b in blocks)
