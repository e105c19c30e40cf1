"""Pooling over the real instances of a bag. Padding never counts, and a bag that is all padding gives 0.

Every function takes x [b, n, d] and mask [b, n] (True = real) and gives [b, d]; values and gradients are
finite for any finite x, also where the mask has no True. Sums, logarithms and softmaxes of half-precision numbers are
taken, and given, in float32.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Pooling = Literal["mean", "max", "lse", "gm", "topk"]


def _summable(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """At least in float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _count(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b 1"]:
    """Number of real instances, at least 1."""
    return jnp.maximum(mask.sum(1, keepdims=True), 1).astype(x.dtype)


def masked_mean(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """Mean over real instances."""
    x = _summable(x)
    return jnp.where(mask[..., None], x, 0).sum(1) / _count(x, mask)


def masked_max(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """Maximum over real instances, feature by feature; ties share the gradient equally."""
    top = jnp.where(mask[..., None], x, -jnp.inf).max(1)
    return jnp.where(mask.any(1, keepdims=True), top, 0)


def masked_sd(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """Standard deviation over real instances, dividing by n: 0 for one instance, and then with gradient 0."""
    x = _summable(x)
    centred = x - masked_mean(x, mask)[:, None]
    variance = masked_mean(jnp.square(centred), mask)
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)


def masked_lse(x: Float[Array, "b n d"], mask: Bool[Array, "b n"], r: float) -> Float[Array, "b d"]:
    """Log-mean-exp with sharpness r > 0: log(mean exp(r x)) / r.

    Tends to the mean for r -> 0 and to the maximum for r -> inf. The mean, not the sum, is inside the
    logarithm, so that the result does not grow with the number of instances.

    References:
        Pinheiro & Collobert (2015, CVPR).
    """
    x = _summable(x)
    # Any constant may be taken out of the logarithm, so the peak needs no gradient. expm1 and log1p keep all
    # digits where the result is near the peak, which the log-probabilities of `gm_of_probabilities` need.
    peak = jax.lax.stop_gradient(masked_max(x, mask))
    below = jnp.where(mask[..., None], r * (x - peak[:, None]), 0)
    return peak + jnp.log1p(jnp.expm1(below).sum(1) / _count(x, mask)) / r


def masked_gm(x: Float[Array, "b n d"], mask: Bool[Array, "b n"], r: float) -> Float[Array, "b d"]:
    """Generalised mean (mean x^r)^(1/r) of values x >= 0, r >= 1.

    It is the mean for r = 1 and tends to the maximum for r -> inf. Where all values are 0 the root has no
    derivative; it is taken as 0 there.
    """
    x = jnp.where(mask[..., None], _summable(x), 0)
    peak = jax.lax.stop_gradient(x.max(1))
    # Homogeneous of degree 1: dividing by the peak changes nothing, but keeps x^r from overflowing.
    peak = jnp.where(peak > 0, peak, 1)
    power = jnp.power(x / peak[:, None], r).sum(1) / _count(x, mask)
    positive = power > 0
    return jnp.where(positive, peak * jnp.power(jnp.where(positive, power, 1), 1 / r), 0)


def masked_topk(
    x: Float[Array, "b n d"], mask: Bool[Array, "b n"], *, k: int = 0, fraction: float = 0.0
) -> Float[Array, "b d"]:
    """Mean of the highest values, feature by feature: of k, or of a fraction of the bag's real instances.

    Args:
        x: values.
        mask: True on real instances.
        k: how many; all of them in a smaller bag. 0 when `fraction` is given.
        fraction: in (0, 1], rounded up to whole instances, so at least one. 0 when `k` is given.
    """
    # how many, by bag size; rounded in float64 first: 0.1 * 30 must round up to 3, not to 4
    sizes = np.arange(x.shape[1] + 1)
    wanted = np.minimum(sizes, k) if k else np.ceil(np.round(fraction * sizes, 6)).astype(int)
    width = int(wanted[-1])
    top = jax.lax.top_k(jnp.where(mask[..., None], x, -jnp.inf).swapaxes(1, 2), width)[0]  # [b, d, width]
    kept = jnp.asarray(wanted)[mask.sum(1)][:, None, None]
    total = jnp.where(jnp.arange(width) < kept, _summable(top), 0).sum(2)
    return total / jnp.maximum(kept[..., 0], 1).astype(total.dtype)


def masked_softmax(
    scores: Float[Array, "b n k"], mask: Bool[Array, "b n"], *, steep: bool = False
) -> Float[Array, "b n k"]:
    """Softmax over real instances: exact zeros on padding, all zeros for a bag that is all padding.

    Args:
        scores: any finite values.
        mask: True on real instances.
        steep: for scores of which one often outweighs all others. The value is the same. The gradient, whose terms then
            nearly cancel, keeps its digits, at the price of looking for the highest weight.
    """
    if steep:
        return _steep_softmax(_summable(scores), mask)
    return jax.nn.softmax(_summable(scores), axis=1, where=mask[..., None])


@jax.custom_jvp
def _steep_softmax(scores: Float[Array, "b n k"], mask: Bool[Array, "b n"]) -> Float[Array, "b n k"]:
    return jax.nn.softmax(scores, axis=1, where=mask[..., None])


@_steep_softmax.defjvp
def _steep_softmax_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    """A softmax does not change when all scores move together, so they may be taken as moving round the highest.

    That one's own gradient is then minus the sum of the others', instead of a small difference of large terms.
    """
    weight = _steep_softmax(*primals)
    moved = tangents[0] - jnp.take_along_axis(tangents[0], weight.argmax(1, keepdims=True), 1)
    return weight, weight * moved - weight * (weight * moved).sum(1, keepdims=True)


def _logit_of_log(log_p: Float[Array, "b d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """The logit of a probability that is given by its logarithm; 0 for bags that are all padding."""
    log_p = jnp.where(mask.any(1, keepdims=True), log_p, -math.log(2.0))
    log_p = jnp.minimum(log_p, -jnp.finfo(log_p.dtype).tiny)  # logits end at about 87 in float32
    return log_p - jnp.log(-jnp.expm1(log_p))


def gm_of_probabilities(logits: Float[Array, "b n c"], mask: Bool[Array, "b n"], r: float) -> Float[Array, "b c"]:
    """Generalised mean of the instances' probabilities sigmoid(logits), given back as a logit.

    r = 1 is their plain mean. Worked in log space, so that confident instances keep their gradient.
    """
    return _logit_of_log(masked_lse(jax.nn.log_sigmoid(_summable(logits)), mask, r), mask)


def lse_of_probabilities(logits: Float[Array, "b n c"], mask: Bool[Array, "b n"], r: float) -> Float[Array, "b c"]:
    """Log-mean-exp of the instances' probabilities sigmoid(logits), given back as a logit.

    The pooled value lies between the lowest and the highest probability, so it has a logit.
    """
    logits = _summable(logits)
    any_real = mask.any(1, keepdims=True)

    def log_pooled(p: Float[Array, "b n c"], sign: float) -> Float[Array, "b c"]:
        grown = jnp.where(mask[..., None], jnp.expm1(sign * r * p), 0).sum(1) / _count(p, mask)
        pooled = jnp.where(any_real, sign * jnp.log1p(grown) / r, 0.5)
        return jnp.log(jnp.maximum(pooled, jnp.finfo(p.dtype).tiny))

    # 1 - log(mean exp(r p)) / r equals -log(mean exp(-r (1 - p))) / r: no digit is lost at either end
    return log_pooled(jax.nn.sigmoid(logits), 1.0) - log_pooled(jax.nn.sigmoid(-logits), -1.0)
