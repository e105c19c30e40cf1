"""Smooth multi-class SVM losses, top-1 and top-k.

They belong to no task: a model's own objective may use them, as those do that train on instances of guessed classes.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from milkit.errors import ConfigError

HARD_GAP = math.log(1000.0)
"""Gap between the two best scores, in units of the temperature, from which the authors' code is hard."""


def smooth_top1_svm(
    logits: Float[Array, "*shape c"],
    target: Int[Array, "*shape"],
    *,
    temperature: float = 1.0,
    margin: float = 1.0,
    hard_when_far: bool = False,
) -> Float[Array, "*shape"]:
    """How far the best score with margin lies above the target's, with a smooth maximum.

    temperature * log sum_j exp((s_j + margin [j != y] - s_y) / temperature); at temperature 0 its limit, the hard loss
    max_j (s_j + margin [j != y]) - s_y of Crammer & Singer (2001). Never below 0.

    Args:
        logits: scores s, one a class.
        target: class index y, 0 to c - 1.
        temperature: at least 0; how smooth.
        margin: by how much the target's score must win.
        hard_when_far: what the authors' code does: where the two best scores (without margin) are log(1000)
            temperatures apart or more, the hard loss takes the place of the smooth one. The two differ by at most
            temperature * log(1 + (c - 1) e^(margin / temperature) / 1000) there, but not in gradient: it is exactly 0
            where the target wins. Computed in the log domain, the smooth loss has no need of it.

    References:
        Berrada, Zisserman & Kumar (2018, arXiv:1802.07595), Smooth loss functions for deep top-k classification,
        equation 7 with k = 1.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    is_target = jnp.arange(logits.shape[-1]) == target[..., None]
    own = jnp.take_along_axis(logits, target[..., None], -1)
    above = jnp.where(is_target, 0.0, logits + margin - own)
    if temperature == 0:
        return above.max(-1)
    smooth = temperature * jax.nn.logsumexp(above / temperature, -1)
    if not hard_when_far:
        return smooth
    best, second = jnp.moveaxis(jax.lax.top_k(logits, 2)[0], -1, 0)
    return jnp.where(best - second >= temperature * HARD_GAP, above.max(-1), smooth)


def smooth_topk_svm(
    logits: Float[Array, "*shape c"],
    target: Int[Array, "*shape"],
    *,
    k: int,
    temperature: float = 1.0,
    margin: float = 1.0,
    hard_when_far: bool = False,
) -> Float[Array, "*shape"]:
    """How far the best k classes without the target, with margin, lie above the best k with it: smooth maxima of both.

    With A a set of k classes, m(A) the mean of its scores and t the temperature: t log sum over all A of exp((m(A) +
    margin [y not in A]) / t) - t log sum over the A that hold y of exp(m(A) / t). At temperature 0 its limit, in which
    the two sums are maxima. Never below 0, and for k = 1 `smooth_top1_svm`.

    Args:
        logits: scores, one a class.
        target: class index, 0 to c - 1.
        k: how many guesses are allowed; 1 to c - 1 (with all classes allowed nothing can be wrong).
        temperature: at least 0; how smooth.
        margin: by how much the sets that hold the target must win.
        hard_when_far: as of `smooth_top1_svm`: the hard loss where the k-th and the next best score are k log(1000)
            temperatures apart or more. (Their code also approximates the gradient to a score far above the others; this
            is exact.)

    Raises:
        ConfigError: k is below 1, or not below the number of classes.

    References:
        Berrada, Zisserman & Kumar (2018, arXiv:1802.07595), equations 5 and 7.
    """
    classes = logits.shape[-1]
    if not 1 <= k < classes:
        raise ConfigError(f"The top-k SVM loss got k={k} with {classes} classes; expected 1 to {classes - 1}.")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    rest = jnp.arange(classes - 1)
    others = jnp.take_along_axis(logits, rest + (rest >= target[..., None]), -1)
    own = jnp.take_along_axis(logits, target[..., None], -1)[..., 0]

    def hard() -> Float[Array, "*shape"]:
        best = jax.lax.top_k(others, k)[0]
        # both sets share the best k - 1 of the others
        return jnp.maximum(best[..., k - 1] / k + margin - own / k, 0)

    if temperature == 0:
        return hard()
    # sets with the target and without it: e^own times those of k - 1 others, and those of k others
    sets = log_symmetric(others / (k * temperature), k)
    above = (margin - own / k) / temperature + sets[..., k] - sets[..., k - 1]
    smooth = temperature * jax.nn.softplus(above)
    if not hard_when_far:
        return smooth
    best = jax.lax.top_k(logits, k + 1)[0]
    return jnp.where(best[..., k - 1] - best[..., k] >= k * temperature * HARD_GAP, hard(), smooth)


def log_symmetric(x: Float[Array, "*shape c"], k: int) -> Float[Array, "*shape j"]:
    """Logarithms of the elementary symmetric polynomials of e^x of degrees 0 to min(k, c).

    That of degree j is the sum over all sets of j entries of the product of e^x. They are the coefficients of prod (1 +
    e^x z), which is multiplied out pair by pair, in log space and no further than degree k.
    """
    factors = jnp.stack([jnp.zeros_like(x), x], -1)  # [*shape, factors, degrees]; all finite, whatever the degree
    over: Array | None = None
    while (number := factors.shape[-2]) > 1:
        if number % 2:
            last = factors[..., -1, :]
            over = last if over is None else _log_product(over, last, k)
        factors = _log_product(factors[..., 0 : number - 1 : 2, :], factors[..., 1:number:2, :], k)
    whole = factors[..., 0, :]
    return whole if over is None else _log_product(whole, over, k)


def _log_product(a: Float[Array, "*shape p"], b: Float[Array, "*shape q"], k: int) -> Float[Array, "*shape j"]:
    """Coefficients of the product of two polynomials up to degree k, all given by their logarithms."""
    p, q = a.shape[-1], b.shape[-1]
    terms = [
        [a[..., i] + b[..., degree - i] for i in range(max(0, degree - q + 1), min(p - 1, degree) + 1)]
        for degree in range(min(p + q - 2, k) + 1)
    ]
    return jnp.stack([jax.nn.logsumexp(jnp.stack(of, -1), -1) for of in terms], -1)
