"""A step of all runs on one batch that was read for all of them: features have no run axis.

What is asked of one run is in `milkit.train.step`; here stands what differs when bags are at hand instead of gathered.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from milkit.nn.chunks import LongBags
from milkit.train.config import Train
from milkit.train.run_axis import SHARED
from milkit.train.setup import Hyper, Setup
from milkit.train.state import RunState, forward
from milkit.train.step import (
    check_parameters,
    drop_instances,
    judge_epoch,
    keep_where,
    scaled,
    standardised,
    step_key,
    step_on,
    subsample,
)
from milkit.types import Bags, Batch


class Read(NamedTuple):
    """A batch as it came from the disk, shared by all runs.

    Attributes:
        x: features as stored, [b, n, d]; anything beyond a bag's own instances.
        coords_um: [b, n, 2] or None.
        lengths: instances of each bag, [b]; 0 for a filler.
        rows: of the study, [b].
        covariates: as the table has them, [b, v], or None.
    """

    x: Num[Array, "b n d"]
    coords_um: Float[Array, "b n 2"] | None
    lengths: Int[Array, "b"]
    rows: Int[Array, "b"]
    covariates: Float[Array, "b v"] | None = None


def shown(train: Train, hyper: Hyper, read: Read, weight: Float[Array, "b"], key: Key[Array, ""] | None) -> Bags:
    """What one run sees of a batch; with `key` as in training, else all instances.

    Features stay without a run axis unless runs differ in them: by scalers of their own, or by instance dropout.
    """
    place = jnp.broadcast_to(jnp.arange(read.x.shape[1], dtype=jnp.int32), read.x.shape[:2])
    real = place < read.lengths[:, None]
    # Beside other bags, one of weight 0 is all padding to the run (batch statistics must not see it); a single one
    # needs no mask of its own, as nothing comes of such a step.
    mask = real if len(read.rows) == 1 else real & (weight > 0)[:, None]
    if key is not None and train.instance_dropout > 0.0:
        mask = real = drop_instances(key, mask, train.instance_dropout)
    xy = None if read.coords_um is None else jnp.where(real[..., None], read.coords_um, 0.0)
    beside = None if read.covariates is None else standardised(hyper, read.covariates, weight)
    at_once = train.instances_at_once
    if at_once is not None and read.x.shape[1] > at_once:

        def some(rows: Int[Array, "b m"], mask: Bool[Array, "b m"]) -> Float[Array, "b m d"]:
            return scaled(hyper, jnp.take_along_axis(read.x, rows[..., None], 1), mask)

        return LongBags(some, place, mask, at_once, xy, beside)
    return Bags(scaled(hyper, read.x, real), mask, xy, covariates=beside)


def subsampled(read: Read, most: int | None, key: Key[Array, ""]) -> Read:
    """The batch with at most so many instances of each bag; one draw for all runs, so that they still share it."""
    if most is None or read.x.shape[1] <= most:
        return read
    n = read.lengths[:, None]
    place = jnp.broadcast_to(jnp.arange(most, dtype=jnp.int32), (len(read.rows), most))
    place = jnp.where(n > most, subsample(key, n, most), place)[..., None]
    xy = None if read.coords_um is None else jnp.take_along_axis(read.coords_um, place, 1)
    return read._replace(x=jnp.take_along_axis(read.x, place, 1), coords_um=xy, lengths=jnp.minimum(read.lengths, most))


@partial(jax.jit, static_argnums=(0,), donate_argnums=(4,))
def stream_step(
    setup: Setup,
    hyper: Hyper,
    keys: jax.Array,
    shared: jax.Array,
    carry: tuple[RunState, jax.Array, jax.Array],
    position: tuple[jax.Array, jax.Array],
    read: Read,
    target: jax.Array,
    weight: jax.Array,
    update: jax.Array,
) -> tuple[tuple[RunState, jax.Array, jax.Array], jax.Array]:
    """One step of all runs on one batch.

    Args:
        setup, hyper, keys: of the runs.
        shared: key of the draws that all runs share.
        carry: states, summed loss and summed weight of the epoch so far.
        position: epoch and step.
        read: the batch.
        target: of every bag of the study.
        weight: of each bag in each run, [r, b].
        update: whether a run's parameters move, [r].

    Returns:
        The carry, and the step's summed losses [r]: ready when the step is over.
    """
    state, total, seen = carry
    read = subsampled(read, setup.train.max_instances, step_key(shared, position))

    def one_run(hyper: Hyper, key: Any, state: RunState, weight: Any, update: Any) -> Any:
        draws = step_key(jax.random.fold_in(key, 1), position)
        bags = shown(setup.train, hyper, read, weight, jax.random.fold_in(draws, 0))
        batch = Batch(bags, target[read.rows], weight, read.rows)
        return step_on(setup, hyper, draws, position, state, batch, update)

    state, (loss, counted) = jax.vmap(one_run)(hyper, keys, state, weight, update)
    return (state, total + loss, seen + counted), loss


@partial(jax.jit, static_argnums=(0, 1))
def look(
    setup: Setup,
    attention: bool,
    hyper: Hyper,
    params: Any,
    buffers: Any,
    runs: jax.Array,
    read: Read,
    weight: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
    """Logits [k, b, c], and attention [k, b, n] if it is wanted and there is any, of a batch by k of the runs."""

    def one_run(hyper: Hyper, params: Any, buffers: Any, weight: Any) -> Any:
        output, _ = forward(
            setup.graph, params, buffers, shown(setup.train, hyper, read, weight, None), None, setup.train.precision
        )
        seen = output.attention if attention else None
        return output.logits, None if seen is None else seen.mean(-1)

    of = partial(jax.tree.map, lambda a: a[runs])
    return jax.vmap(one_run)(of(hyper), of(params), of(buffers), weight)


@partial(jax.jit, static_argnums=(0,))
def judge_runs(
    setup: Setup,
    hyper: Hyper,
    epoch: jax.Array,
    state: RunState,
    logits: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    bags: jax.Array,
) -> tuple[RunState, tuple[jax.Array, jax.Array]]:
    """Judge an epoch by its logits [r, v, c] on each run's part: new states, and (loss, criterion), each [r]."""
    judge = jax.vmap(partial(judge_epoch, setup), (0, SHARED, 0, 0, 0, 0, 0))
    return judge(hyper, epoch, state, logits, target[bags], weight, bags)


@partial(jax.jit, donate_argnums=(0,))
def end_epoch(state: RunState, total: jax.Array, seen: jax.Array, epoch: jax.Array) -> tuple[RunState, jax.Array]:
    """States after the last step of an epoch, and each run's mean training loss."""
    return jax.vmap(check_parameters, (0, SHARED))(state, epoch), total / jnp.maximum(seen, 1.0)


@jax.jit
def go_on(judged: RunState, ahead: RunState) -> RunState:
    """Where the runs stand that trained on while they were judged: one that this has ended stays where it ended."""
    ended = judged.finished | judged.failed
    kept = judged._replace(best_params=(), best_buffers=())
    state = jax.vmap(keep_where)(ended, kept, ahead._replace(best_params=(), best_buffers=()))
    best = ("best_params", "best_buffers", "best_metric", "best_loss", "best_epoch")
    return state._replace(**{name: getattr(judged, name) for name in best})
