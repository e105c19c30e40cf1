"""Which epoch is kept: validation criteria computed inside the program. Larger is better; NaN where undefined.

Ranking is by all pairs: parts are small, pairs need no sorting under the run axis, and ties count one half as they do
in `milkit.metrics`. The numbers here choose epochs and are written to `history.jsonl`; reported metrics are recomputed
from the prediction files.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from milkit.task import Binary, MultiClass, MultiLabel, Survival, Task
from milkit.train.config import Select


def criterion(
    select: Select,
    task: Task,
    logits: Float[Array, "v c"],
    target: Array,
    weight: Float[Array, "v"],
    loss: Float[Array, ""],
) -> Float[Array, ""]:
    """The criterion of one run over its validation part.

    Args:
        select: which; `loss` gives minus the loss.
        task: how to read logits and target.
        logits: of every validation bag (fillers included).
        target: as `milkit.task` says.
        weight: 0 for fillers.
        loss: mean validation loss.
    """
    real = weight > 0
    if select in ("loss", "last"):
        return -loss
    if select == "c_index":
        return _c_index(_risk(task, logits), target[:, 0], target[:, 1] > 0, real)
    if select == "auroc":
        scores, positives = _one_against_rest(task, logits, target)
        each = jax.vmap(_auroc, (1, 1, None))(scores, positives, real)
        return jnp.nanmean(each) if each.shape[0] > 1 else each[0]
    if isinstance(task, MultiLabel):
        right, classes = (logits > 0) == (target > 0), target > 0
        if select == "accuracy":
            return jnp.sum(right.mean(-1), where=real) / jnp.sum(real)
        return jnp.nanmean(jax.vmap(_balanced, (1, 1, None, None))(right, classes.astype(jnp.int32), 2, real))
    guess = (logits[:, 0] > 0).astype(jnp.int32) if isinstance(task, Binary) else jnp.argmax(logits, -1)
    right = guess == target
    if select == "accuracy":
        return jnp.sum(right, where=real) / jnp.sum(real)
    return _balanced(right, target, max(2, logits.shape[-1]), real)


def _one_against_rest(task: Task, logits: Array, target: Array) -> tuple[Array, Array]:
    """Scores [v, c] and booleans [v, c], a column a class that is ranked against the rest."""
    if isinstance(task, Binary):
        return logits, (target > 0)[:, None]
    if isinstance(task, MultiClass):
        return jax.nn.softmax(logits, -1), target[:, None] == jnp.arange(logits.shape[-1])
    return logits, target > 0


def _risk(task: Task, logits: Float[Array, "v c"]) -> Float[Array, "v"]:
    if isinstance(task, Survival) and task.loss == "nll":
        return -jnp.cumprod(jax.nn.sigmoid(-logits), -1).sum(-1)
    return logits[:, 0]


def _auroc(score: Float[Array, "v"], positive: Bool[Array, "v"], real: Bool[Array, "v"]) -> Float[Array, ""]:
    pairs = (positive & real)[:, None] & (~positive & real)[None, :]
    won = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    return jnp.sum(won, where=pairs) / jnp.sum(pairs)


def _c_index(
    risk: Float[Array, "v"], time: Float[Array, "v"], event: Bool[Array, "v"], real: Bool[Array, "v"]
) -> Float[Array, ""]:
    """Harrell's: pairs whose earlier time is an event; of a pair with equal times, only event against censored."""
    earlier = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & ~event[None, :])
    pairs = earlier & event[:, None] & real[:, None] & real[None, :]
    won = (risk[:, None] > risk[None, :]) + 0.5 * (risk[:, None] == risk[None, :])
    return jnp.sum(won, where=pairs) / jnp.sum(pairs)


def _balanced(right: Bool[Array, "v"], target: Array, classes: int, real: Bool[Array, "v"]) -> Float[Array, ""]:
    """Mean recall over the classes that are present."""
    members = (target[:, None] == jnp.arange(classes)) & real[:, None]
    recall = jnp.sum(right[:, None], 0, where=members) / jnp.sum(members, 0)
    return jnp.nanmean(recall)
