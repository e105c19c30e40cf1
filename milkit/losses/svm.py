"""A smooth multi-class SVM loss, used by models that train on instances of which they guess the class.

It belongs to no task, so a model's own objective may use it.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
