"""Generalised mean of an image's pixel probabilities: the probability of its label, computed in log space.

GM_r(p) = (mean p^r)^(1/r) over real pixels: the mean for r = 1, the maximum for r = inf. Written as it stands it fails
three ways: p^r underflows, its gradient at all-zero maps is 0 times infinity, and a map that is 1 everywhere has no
logarithm of 1 - GM. Here all is finite, in float32 and in bfloat16 (which is computed in as float32).

References:
    Li et al. (2023, Medical Image Analysis 86:102791), equation of the bag probability; r = 4.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def generalised_mean(
    p: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    r: float,
    complement: Float[Array, "b h w c"] | None = None,
) -> Float[Array, "b c"]:
    """The logit of GM_r of the probabilities of an image's real pixels, for each label.

    Args:
        p: probabilities, in [0, 1].
        mask: True on real pixels; an image without any (a filler) gives 0.
        r: above 0; `math.inf` is the maximum.
        complement: 1 - p where it is known better than p tells, such as sigmoid(-logit): beyond 1 - 6e-8 float32 has
            no numbers, and without it a map that is sure everywhere learns nothing more.
    """
    return logit_of_log(log_generalised_mean(log_probability(p, complement), mask, r), mask)


def log_probability(
    p: Float[Array, "*shape"], complement: Float[Array, "*shape"] | None = None
) -> Float[Array, "*shape"]:
    """The logarithm of p, finite with a finite gradient at p = 0, and with all digits near p = 1 where 1 - p is given.

    1e-35 is added in float32: nothing to any p above 1e-28, and its reciprocal, times the few maps of a model, is
    still a number.
    """
    p = p.astype(jnp.promote_types(p.dtype, jnp.float32))
    low = jnp.log(p + 2.0**10 * jnp.finfo(p.dtype).tiny)
    if complement is None:
        return low
    small = p < 0.5
    return jnp.where(small, low, jnp.log1p(-jnp.where(small, 0, complement.astype(p.dtype))))


def log_generalised_mean(log_p: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], r: float) -> Float[Array, "b c"]:
    """The logarithm of GM_r from those of the pixels; `math.inf` takes the maximum; fillers give 0."""
    real = mask[..., None]
    some = mask.any((1, 2))[:, None]
    peak = jnp.where(some, jnp.where(real, log_p, -jnp.inf).max((1, 2)), 0)
    if math.isinf(r):
        return peak
    # any constant may be taken out of the logarithm, so the peak needs no gradient
    peak = jax.lax.stop_gradient(peak)
    below = jnp.where(real, r * (log_p - peak[:, None, None]), 0)
    count = jnp.maximum(mask.sum((1, 2)), 1)[:, None].astype(log_p.dtype)
    # the mean of exp(below), whose logarithm keeps its digits as the mean itself if small, as its distance to 1 if not
    short = jnp.expm1(below).sum((1, 2)) / count
    mean = jnp.where(real, jnp.exp(below), 0).sum((1, 2)) / count
    near = short > -0.5
    log_mean = jnp.where(near, jnp.log1p(jnp.where(near, short, 0)), jnp.log(jnp.where(near, 1, mean)))
    return peak + log_mean / r


def logit_of_log(log_p: Float[Array, "b c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b c"]:
    """The logit of a probability given by its logarithm, within +-87 in float32; 0 for fillers."""
    log_p = jnp.where(mask.any((1, 2))[:, None], log_p, -math.log(2.0))
    log_p = jnp.minimum(log_p, -jnp.finfo(log_p.dtype).tiny)
    return log_p - jnp.log(-jnp.expm1(log_p))
