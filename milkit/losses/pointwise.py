"""Losses of one bag alone: classification and regression.

Letters: b bags, c outputs (classes, labels or values). All are computed from logits, in the log domain, so
that values and gradients stay finite at any finite logit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from milkit.errors import ConfigError


def bce(
    logits: Float[Array, "b c"],
    target: Int[Array, "b"] | Float[Array, "b c"],
    class_weights: Float[Array, "2"] | Float[Array, "c 2"] | None = None,
) -> Float[Array, "b"]:
    """Binary cross-entropy, the mean over labels where there are several.

    Args:
        logits: [b, 1] for one label, [b, c] for several.
        target: 0 or 1, [b] for one label; [b, c] in [0, 1] for several (soft labels are allowed).
        class_weights: weight of (negative, positive), one pair for all labels or one a label.
    """
    positive, negative = _sides(logits, target, class_weights)
    return -(positive * jax.nn.log_sigmoid(logits) + negative * jax.nn.log_sigmoid(-logits)).mean(-1)


def focal(
    logits: Float[Array, "b c"],
    target: Int[Array, "b"] | Float[Array, "b c"],
    gamma: float | Float[Array, ""] = 2.0,
    class_weights: Float[Array, "2"] | Float[Array, "c 2"] | None = None,
) -> Float[Array, "b"]:
    """Focal loss of sigmoid outputs, the mean over labels: (1 - p_t)^gamma times the cross-entropy.

    Args:
        logits: [b, 1] for one label, [b, c] for several.
        target: 0 or 1, [b] or [b, c].
        gamma: at least 0; 0 gives `bce`.
        class_weights: as in `bce`; Lin's alpha is the pair (1 - alpha, alpha).

    References:
        Lin et al. (2017), Focal loss for dense object detection, equations 4 and 5.
    """
    positive, negative = _sides(logits, target, class_weights)
    log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    # (1 - p)^gamma as exp(gamma log(1 - p)): a power of an exact 0 has no finite gradient for gamma < 1
    loss = positive * jnp.exp(gamma * log_q) * log_p + negative * jnp.exp(gamma * log_p) * log_q
    return -loss.mean(-1)


def cross_entropy(
    logits: Float[Array, "b c"], target: Int[Array, "b"], class_weights: Float[Array, "c"] | None = None
) -> Float[Array, "b"]:
    """Cross-entropy of the softmax, times the weight of the bag's class.

    The weighted value is not divided by the weights of the batch (torch's `weight=` with mean reduction does
    that): weights whose mean over the training part is 1 need no second normalisation, which would vary by
    batch.

    Args:
        logits: one a class.
        target: class index, 0 to c - 1.
        class_weights: weight of each class.
    """
    value = -_pick(jax.nn.log_softmax(logits), target)
    return value if class_weights is None else value * class_weights[target]


def focal_multiclass(
    logits: Float[Array, "b c"],
    target: Int[Array, "b"],
    gamma: float | Float[Array, ""] = 2.0,
    class_weights: Float[Array, "c"] | None = None,
) -> Float[Array, "b"]:
    """Focal loss of the softmax: (1 - p_t)^gamma times the cross-entropy; needs at least two classes.

    Args:
        logits: one a class.
        target: class index, 0 to c - 1.
        gamma: at least 0; 0 gives `cross_entropy`.
        class_weights: weight of each class.

    References:
        Lin et al. (2017), equation 4, with the softmax in the place of the sigmoid.
    """
    is_target = jnp.arange(logits.shape[-1]) == target[:, None]
    others = jnp.where(is_target, -jnp.inf, logits)
    log_rest = jax.nn.logsumexp(others, -1) - jax.nn.logsumexp(logits, -1)
    return jnp.exp(gamma * log_rest) * cross_entropy(logits, target, class_weights)


def mse(logits: Float[Array, "b c"], target: Float[Array, "b c"]) -> Float[Array, "b"]:
    """Squared error, the mean over the values of a bag."""
    return jnp.square(logits - target).mean(-1)


def huber(
    logits: Float[Array, "b c"], target: Float[Array, "b c"], delta: float | Float[Array, ""] = 1.0
) -> Float[Array, "b"]:
    """Huber's loss, the mean over the values of a bag.

    The error e costs e^2 / 2 up to |e| = delta, and delta (|e| - delta / 2) from there.

    Args:
        logits: predicted values.
        target: true values, in the same unit.
        delta: where the loss turns from quadratic to linear, in the target's unit; above 0.

    References:
        Huber (1964), Robust estimation of a location parameter.
    """
    error = jnp.abs(logits - target)
    inner = jnp.minimum(error, delta)
    return (0.5 * inner**2 + delta * (error - inner)).mean(-1)


def _sides(
    logits: Array, target: Array, class_weights: Array | None
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """How much the positive and the negative term of each output weigh."""
    if target.ndim == 1:
        if logits.shape[-1] != 1:
            raise ConfigError(
                f"A target of one label a bag needs logits [bags, 1], but they are {logits.shape}; "
                "use `cross_entropy` for several classes or a target [bags, labels] for several labels."
            )
        target = target[:, None]
    positive = target.astype(logits.dtype)
    if class_weights is None:
        return positive, 1 - positive
    return positive * class_weights[..., 1], (1 - positive) * class_weights[..., 0]


def _pick(values: Float[Array, "b c"], index: Int[Array, "b"]) -> Float[Array, "b"]:
    """The entry of each row that `index` names."""
    return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]
