"""Entmax: a softmax that gives exact zeros, over the real instances of a bag.

1.5-entmax of scores s is p = max(s / 2 - t, 0)^2 with the threshold t by which p sums to 1. Scores that lie 2 or more
below the highest get nothing.

References:
    Peters, Niculae & Martins (2019, ACL, arXiv:1905.05702).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

STEPS = 32
"""Newton steps for the threshold: of a million equal scores 10 halve the distance, and some 6 more reach rounding."""


def masked_entmax(scores: Float[Array, "b n k"], mask: Bool[Array, "b n"]) -> Float[Array, "b n k"]:
    """1.5-entmax over real instances, in float32 at least: 0 on padding, all 0 for a bag that is all padding."""
    return _entmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), mask)


@jax.custom_jvp
def _entmax(scores: Float[Array, "b n k"], mask: Bool[Array, "b n"]) -> Float[Array, "b n k"]:
    there = mask[..., None]
    half = jnp.where(there, scores / 2, -jnp.inf)
    top = half.max(1, keepdims=True)
    half = jnp.where(there, half - jnp.where(jnp.isfinite(top), top, 0), -1)  # -1 and below get nothing

    def step(_: Any, t: Float[Array, "b 1 k"]) -> Float[Array, "b 1 k"]:
        # sum max(half - t, 0)^2 - 1 is convex and falls, so that from the left Newton's steps never pass its root
        above = jnp.maximum(half - t, 0)
        slope = 2 * above.sum(1, keepdims=True)
        return t + jnp.where(
            slope > 0, (jnp.square(above).sum(1, keepdims=True) - 1) / jnp.where(slope > 0, slope, 1), 0
        )

    start = jnp.full_like(top, -1)
    t = jax.lax.fori_loop(0, STEPS, step, start)
    return jnp.where(there, jnp.square(jnp.maximum(half - t, 0)), 0)


@_entmax.defjvp
def _entmax_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    """With g the roots of p: dp = g (ds - sum(g ds) / sum g)."""
    p = _entmax(*primals)
    g = jnp.sqrt(p)
    total = g.sum(1, keepdims=True)
    moved = (g * tangents[0]).sum(1, keepdims=True) / jnp.where(total > 0, total, 1)
    return p, g * (tangents[0] - moved)
