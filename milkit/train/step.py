"""One step of one run, written without a run axis: `milkit.train.engine` adds that in one place."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num, UInt8

from milkit.nn.chunks import LongBags
from milkit.train import optim
from milkit.train.config import Train
from milkit.train.images import gather_images, with_truth
from milkit.train.select import criterion
from milkit.train.setup import Hyper, Packed, Setup, batch_loss
from milkit.train.state import RunState, forward
from milkit.types import Bags, Batch, Images


def gather(
    data: Packed,
    hyper: Hyper,
    index: Int[Array, "b"],
    weight: Float[Array, "b"],
    length: int,
    key: Key[Array, ""] | None = None,
    train: Train | None = None,
    at_once: int | None = None,
) -> Bags:
    """Bags out of the packed study, padded to `length`, scaled for this run.

    Args:
        data: the packed study.
        hyper: the run's values.
        index: rows of the study.
        weight: fillers (0) become all padding.
        length: padded length; a longer bag is subsampled, which needs `key`.
        key, train: given in training only: draws the subsample and the instance dropout.
        at_once: longer bags are read so many instances at a time, when the model asks for them.
    """
    n = data.lengths[index][:, None]
    place = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (len(index), length))
    mask = (place < n) & (weight > 0)[:, None]
    if key is not None and train is not None and train.max_instances is not None:
        place = jnp.where(n > length, subsample(key, n, length), place)
    if key is not None and train is not None and train.instance_dropout > 0.0:
        mask = drop_instances(key, mask, train.instance_dropout)
    rows = data.offsets[index][:, None] + place

    def read(rows: Int[Array, "b m"], mask: Bool[Array, "b m"]) -> Float[Array, "b m d"]:
        return scaled(hyper, jnp.take(data.x, rows, axis=0, mode="clip"), mask)

    xy = None
    if data.coords_um is not None:
        xy = jnp.where(mask[..., None], jnp.take(data.coords_um, rows, axis=0, mode="clip"), 0.0)
    beside = None if data.covariates is None else standardised(hyper, data.covariates[index], weight)
    if at_once is not None and length > at_once:
        return LongBags(read, rows, mask, at_once, xy, beside)
    near = None
    # where instances are left out, a model finds neighbours among those that are there
    if data.neighbours is not None and not (key is not None and leaves_out(train)):
        near = jnp.where(mask[..., None], jnp.take(data.neighbours, rows, axis=0, mode="clip"), -1)
    return Bags(read(rows, mask), mask, xy, near, beside)


def leaves_out(train: Train | None) -> bool:
    """Whether training steps see parts of bags."""
    return train is not None and (train.max_instances is not None or train.instance_dropout > 0.0)


def scaled(hyper: Hyper, x: Num[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b n d"]:
    """Features as stored, at least in float32, scaled for a run, and 0 on padding."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if hyper.shift is not None:
        x = (x - hyper.shift) * hyper.inverse_scale
    return jnp.where(mask[..., None], x, 0.0)


def standardised(hyper: Hyper, covariates: Float[Array, "b v"], weight: Float[Array, "b"]) -> Float[Array, "b v"]:
    """Covariates scaled for a run; 0, the training part's mean, where they are missing, and for fillers."""
    c = (covariates - hyper.covariate_shift) * hyper.covariate_inverse
    return jnp.where(jnp.isnan(c) | (weight == 0)[:, None], 0.0, c)


def drop_instances(key: Key[Array, ""], mask: Bool[Array, "b n"], rate: float) -> Bool[Array, "b n"]:
    """The mask of a training step: each instance is left out with chance `rate`, one always stays."""
    draw = jnp.where(mask, jax.random.uniform(jax.random.fold_in(key, 1), mask.shape), -1.0)
    return mask & ((draw >= rate) | (draw == draw.max(-1, keepdims=True)))


def subsample(key: Key[Array, ""], n: Int[Array, "b 1"], length: int) -> Int[Array, "b n"]:
    """`length` different instances out of n > length, each with the same chance, in O(length).

    The bag is cut into `length` runs of neighbours, one instance is drawn from each, and the whole is rotated by a
    random amount, which makes every instance equally likely although runs differ by one in size.
    """
    i = jnp.arange(length, dtype=jnp.int32)
    # i * n // length without overflow of 32 bits
    start = i * (n // length) + i * (n % length) // length
    end = (i + 1) * (n // length) + (i + 1) * (n % length) // length
    u = jax.random.uniform(key, start.shape)
    turn = jax.random.randint(jax.random.fold_in(key, 2), (n.shape[0], 1), 0, n)
    return (jnp.minimum(start + (u * (end - start)).astype(jnp.int32), end - 1) + turn) % n


class Learned(NamedTuple):
    """What a step's bags say, before anything moves.

    Attributes:
        total: weighted sum of the losses.
        values: loss of each bag, [b].
        gradient: of `total`, shaped as the parameters.
        buffers: the module's, after the forward pass.
    """

    total: Any
    values: Any
    gradient: Any
    buffers: Any


def train_step(
    setup: Setup,
    length: int,
    data: Packed,
    hyper: Hyper,
    key: Key[Array, ""],
    position: tuple[Int[Array, ""], Int[Array, ""]],
    state: RunState,
    index: Int[Array, "b"],
    weight: Float[Array, "b"],
    update: Bool[Array, ""],
) -> tuple[RunState, tuple[Float[Array, ""], Float[Array, ""]]]:
    """One step of one run: the new state, and the summed loss and weight of its bags.

    A step without weight, and any step of a finished or failed run, changes nothing: not the parameters, the optimiser,
    the buffers or a counter (a zero gradient alone would still move Adam).
    """
    learned = learn_gathered(setup, length, data, hyper, key, position, state.params, state.buffers, index, weight)
    return settle(setup, True, hyper, position, state, learned, index, weight, update)


def learn_gathered(
    setup: Setup,
    length: int,
    data: Packed,
    hyper: Hyper,
    key: Key[Array, ""],
    position: tuple[Int[Array, ""], Int[Array, ""]],
    params: Any,
    buffers: Any,
    index: Int[Array, "b"],
    weight: Float[Array, "b"],
) -> Learned:
    """`learn` from bags of the packed study, padded to `length`."""
    draws = step_key(key, position)
    own = jax.random.fold_in(draws, 0)
    bags: Bags | Images
    if setup.canvas is not None:
        bags = gather_images(data, hyper, index, weight, setup.canvas, own, setup.train.augment)
    else:
        at_once = setup.train.instances_at_once
        bags = gather(data, hyper, index, weight, length, own, setup.train, at_once)
    batch = Batch(bags, data.target[index], weight, index)
    if setup.canvas is not None:
        batch = with_truth(batch, data, setup.canvas, own, setup.train.augment)
    return learn(setup, hyper, draws, params, buffers, batch)


def step_key(key: Key[Array, ""], position: tuple[Int[Array, ""], Int[Array, ""]]) -> Key[Array, ""]:
    """The key of one step's draws; position is (epoch, step), each from 0."""
    return jax.random.fold_in(jax.random.fold_in(key, position[0]), position[1])


def learn(setup: Setup, hyper: Hyper, draws: Key[Array, ""], params: Any, buffers: Any, batch: Batch) -> Learned:
    """Loss and gradient on bags that are at hand; `draws` is the key of this step."""
    bags = batch.bags

    def objective(params: Any) -> tuple[Array, Any]:
        key, precision = jax.random.fold_in(draws, 1), setup.train.precision
        output, after = forward(setup.graph, params, buffers, bags, key, precision)
        values = batch_loss(setup, hyper, output, batch)
        return jnp.sum(values * batch.weight), (values, after)

    (total, (values, after)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    return Learned(total, values, gradient, after)


def step_on(
    setup: Setup,
    hyper: Hyper,
    draws: Key[Array, ""],
    position: tuple[Int[Array, ""], Int[Array, ""]],
    state: RunState,
    batch: Batch,
    update: Bool[Array, ""],
) -> tuple[RunState, tuple[Float[Array, ""], Float[Array, ""]]]:
    """`train_step` on bags that are at hand; `draws` is the key of this step."""
    learned = learn(setup, hyper, draws, state.params, state.buffers, batch)
    return settle(setup, True, hyper, position, state, learned, batch.index, batch.weight, update)


def settle(
    setup: Setup,
    careful: bool,
    hyper: Hyper,
    position: tuple[Int[Array, ""], Int[Array, ""]],
    state: RunState,
    learned: Learned,
    index: Int[Array, "b"],
    weight: Float[Array, "b"],
    update: Bool[Array, ""],
) -> tuple[RunState, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Move a run by what it learned, or fail it; see `train_step`.

    Args:
        setup, hyper, position, state, learned, index, weight, update: as there.
        careful: whether to look for a gradient that is not finite beneath a finite loss. The look costs a tenth of a
            small network's step, so the engine looks only once parameters have turned out not to be finite.
    """
    epoch, step = position
    seen = jnp.sum(weight)
    alive = ~(state.finished | state.failed) & (seen > 0)
    finite = jnp.isfinite(learned.total)
    if careful:  # a sum is finite only if all of its terms are
        finite &= jnp.isfinite(sum(jnp.sum(g) for g in jax.tree.leaves(learned.gradient)))
    bad, counts = alive & ~finite, alive & finite
    kept = _move(setup, hyper, counts, state, learned.gradient, seen, update)
    kept = kept._replace(
        buffers=keep_where(counts, learned.buffers, state.buffers),
        failed=state.failed | bad,
        failed_epoch=jnp.where(bad, epoch, state.failed_epoch),
        failed_step=jnp.where(bad, step, state.failed_step),
        failed_bag=jnp.where(bad, index[jnp.argmax(~jnp.isfinite(learned.values))], state.failed_bag),
    )
    return kept, (jnp.where(counts, learned.total, 0.0), jnp.where(counts, seen, 0.0))


def _move(
    setup: Setup,
    hyper: Hyper,
    go: Bool[Array, ""],
    state: RunState,
    gradient: Any,
    seen: Float[Array, ""],
    update: Bool[Array, ""],
) -> RunState:
    """Add a step's summed gradient and, where `update` says so, turn the sum into an update; nothing without `go`."""
    if setup.train.accumulate == 1:
        return _updated(setup, hyper, go, state, gradient, seen)
    total = jax.tree.map(jnp.add, state.gradient, gradient)
    weight = state.gradient_weight + seen
    moved = _updated(setup, hyper, go & update, state, total, weight)
    left = keep_where(update, jax.tree.map(jnp.zeros_like, total), total)
    return moved._replace(
        gradient=keep_where(go, left, state.gradient),
        gradient_weight=jnp.where(go, jnp.where(update, 0.0, weight), state.gradient_weight),
    )


def _updated(
    setup: Setup, hyper: Hyper, go: Bool[Array, ""], state: RunState, total: Any, weight: Float[Array, ""]
) -> RunState:
    share = 1.0 / jnp.maximum(weight, 1.0)
    mean = jax.tree.map(lambda g: g * share.astype(g.dtype), total)
    params, optimizer = optim.apply(
        setup.train, hyper.rate, go, state.updates, mean, state.optimizer, state.params, setup.rate_scales
    )
    return state._replace(params=params, optimizer=optimizer, updates=state.updates + go)


def keep_where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The tree `new` where the condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def predict_step(
    setup: Setup,
    length: int,
    data: Packed,
    hyper: Hyper,
    params: Any,
    buffers: Any,
    index: Int[Array, "b"],
    weight: Float[Array, "b"],
) -> tuple[Float[Array, "b c"], Float[Array, "b n"] | UInt8[Array, "b h w c"] | None]:
    """Logits, and attention averaged over heads, of some bags on all their instances.

    Of images the second is the map of probabilities [b, h, w, c] that the model fused, in the canvas, in steps of
    1/256.
    """
    if setup.canvas is not None:
        images = gather_images(data, hyper, index, weight, setup.canvas)
        output, _ = forward(setup.graph, params, buffers, images, None, setup.train.precision)
        fused = next(iter(output.extras.get("maps", {}).values()), None)
        # a byte a pixel: 128 and more is a probability of 1/2 and more, exactly
        bytes_ = None if fused is None else jnp.minimum(jnp.floor(fused * 256.0), 255.0).astype(jnp.uint8)
        return output.logits, bytes_
    bags = gather(data, hyper, index, weight, length, at_once=setup.train.instances_at_once)
    output, _ = forward(setup.graph, params, buffers, bags, None, setup.train.precision)
    return output.logits, None if output.attention is None else output.attention.mean(-1)


def judge_epoch(
    setup: Setup,
    hyper: Hyper,
    epoch: Int[Array, ""],
    state: RunState,
    logits: Float[Array, "v c"],
    target: Array,
    weight: Float[Array, "v"],
    bags: Int[Array, "v"],
    own_losses: Float[Array, "v"] | None = None,
) -> tuple[RunState, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Keep the epoch's parameters if they are the best on validation so far; returns (state, (loss, criterion)).

    A validation loss that is not finite fails the run, like a training loss that is not. With pixel supervision it is
    the mean of `own_losses`, else the task's.
    """
    shown = weight > 0
    values = jnp.where(shown, setup.loss(logits, target, weight, hyper.loss) if own_losses is None else own_losses, 0.0)
    loss = jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1.0)
    metric = criterion(setup.train.select, setup.task, logits, target, weight, loss).astype(jnp.float32)
    # an undefined criterion (one class in the part) never wins over a defined one; among such, the loss decides
    rank = jnp.where(jnp.isnan(metric), -jnp.inf, metric)
    better = (rank > state.best_metric) | ((rank == state.best_metric) & (loss < state.best_loss))
    alive = ~(state.finished | state.failed)
    bad = alive & ~jnp.isfinite(loss)
    better &= alive & ~bad
    kept = keep_where(
        better,
        state._replace(
            best_params=state.params,
            best_buffers=state.buffers,
            best_metric=rank,
            best_loss=loss.astype(jnp.float32),
            best_epoch=epoch,
        ),
        state,
    )
    kept = kept._replace(
        failed=kept.failed | bad,
        failed_epoch=jnp.where(bad, epoch, kept.failed_epoch),
        failed_bag=jnp.where(bad, bags[jnp.argmax(~jnp.isfinite(values))], kept.failed_bag),
    )
    if setup.train.patience is not None:
        stop = epoch - jnp.maximum(kept.best_epoch, 0) >= setup.train.patience
        kept = kept._replace(finished=kept.finished | (alive & stop))
    return kept, (loss, metric)


def check_parameters(state: RunState, epoch: Int[Array, ""]) -> RunState:
    """Mark a run as failed whose last update of an epoch left parameters that are not finite; a model may have none."""
    finite = jnp.asarray([jnp.isfinite(p).all() for p in jax.tree.leaves(state.params)], bool).all()
    bad = ~finite & ~state.failed
    return state._replace(failed=state.failed | bad, failed_epoch=jnp.where(bad, epoch, state.failed_epoch))
