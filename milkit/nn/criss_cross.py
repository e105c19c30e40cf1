"""Criss-cross attention: every pixel attends to the pixels of its own row and its own column.

Applied twice with the same weights, every pixel hears of every other one, at H + W keys a pixel instead of H * W.

The softmax over H + W keys is joint, but rows and columns are worked apart: each line of pixels gives an unnormalised
sum, its normaliser and its largest energy, and the two parts are put together by these. Lines are worked a few at a
time and recomputed for the gradient, so that neither direction ever holds the H * W * (H + W) weights; the gradient is
exact.

References:
    Huang et al. (2019, ICCV), CCNet, section 3.2; Li et al. (2023, Medical Image Analysis 86:102791), section 3.2.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.images import Conv, masked

Compat = Literal["correct", "authors"]
"""`correct`: softmax over a pixel's H + W keys, itself counted once, as CCNet writes it. `authors`: as the published
code of SA-MIL computes it, with the softmax over the rows of the queries and each pixel counted twice, so that a
pixel's weights do not sum to 1."""

AT_ONCE = {"cpu": 1 << 18}
AT_ONCE_ELSEWHERE = 1 << 26
"""Weights held at a time, 4 bytes each: on a CPU what its caches hold (`benchmarks/criss_cross.py`)."""


def criss_cross(
    query: Float[Array, "b h w e"],
    key: Float[Array, "b h w e"],
    value: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    compat: Compat = "correct",
    at_once: int | None = None,
) -> Float[Array, "b h w c"]:
    """The weighted sum of values over each pixel's row and column, in float32 at least; see `Compat`.

    Args:
        query, key: projected pixels; energies are their products, not scaled.
        value: what is summed.
        mask: True on real pixels; others get no weight. What is given for them is finite and says nothing.
        compat: which softmax.
        at_once: weights held at a time, in either direction; None is `AT_ONCE`.
    """
    if compat == "authors":
        return _authors(query, key, value, mask)
    at_once = at_once or AT_ONCE.get(jax.default_backend(), AT_ONCE_ELSEWHERE)
    row, row_sum, row_top = _lines((query, key, value, mask), True, at_once)
    across = tuple(a.swapaxes(1, 2) for a in (query, key, value, mask))
    column, column_sum, column_top = (a.swapaxes(1, 2) for a in _lines(across, False, at_once))
    top = jnp.maximum(row_top, column_top)
    of_row, of_column = jnp.exp(row_top - top)[..., None], jnp.exp(column_top - top)[..., None]
    total = row_sum[..., None] * of_row + column_sum[..., None] * of_column
    return (row * of_row + column * of_column) / jnp.where(total > 0, total, 1)


def _lines(
    pixels: tuple[Array, ...], itself: bool, at_once: int
) -> tuple[Float[Array, "b s n c"], Float[Array, "b s n"], Float[Array, "b s n"]]:
    """Attention within lines: the sum of exp(energy - top) * value, that of exp(energy - top), and top.

    Args:
        pixels: query, key, value [b, s, n, channels] and mask [b, s, n] of b * s lines of n pixels.
        itself: whether a pixel is among its own keys.
        at_once: weights held at a time.
    """
    b, s, n = pixels[0].shape[:3]
    flat = tuple(a.reshape(b * s, *a.shape[2:]) for a in pixels)
    many = max(1, at_once // (n * n))

    def line(given: tuple[Array, ...]) -> tuple[Array, ...]:
        query, key, value, mask = given
        return _line(query, key, value, mask, itself)

    if many >= b * s:
        found = jax.checkpoint(jax.vmap(line))(flat)
    else:
        found = jax.lax.map(jax.checkpoint(line), flat, batch_size=many)
    total, normaliser, top = (a.reshape(b, s, *a.shape[1:]) for a in found)
    return total, normaliser, top


def _line(
    query: Float[Array, "n e"],
    key: Float[Array, "n e"],
    value: Float[Array, "n c"],
    mask: Bool[Array, "n"],
    itself: bool,
) -> tuple[Float[Array, "n c"], Float[Array, "n"], Float[Array, "n"]]:
    wide = jnp.promote_types(query.dtype, jnp.float32)
    energy = jnp.matmul(query, key.T, preferred_element_type=wide)
    seen = mask[None] if itself else mask[None] & ~jnp.eye(len(mask), dtype=bool)
    energy = jnp.where(seen, energy, -jnp.inf)
    top = jax.lax.stop_gradient(energy.max(1))  # it cancels, so it needs no gradient
    top = jnp.where(jnp.isfinite(top), top, jnp.finfo(wide).min / 4)
    weight = jnp.exp(energy - top[:, None])
    total = jnp.matmul(weight.astype(value.dtype), value, preferred_element_type=wide)
    return total, weight.sum(1), top


def _authors(
    query: Float[Array, "b h w e"],
    key: Float[Array, "b h w e"],
    value: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
) -> Float[Array, "b h w c"]:
    wide = jnp.promote_types(query.dtype, jnp.float32)

    def product(subscripts: str, a: Array, b: Array) -> Array:
        return jnp.einsum(subscripts, a, b, preferred_element_type=wide)

    # i j: the query's row and column; y: a key's row; x: a key's column. Both softmaxes are over i.
    column = jax.nn.softmax(product("bije,byje->bijy", query, key), axis=1, where=mask[..., None])
    row = jax.nn.softmax(product("bije,bixe->bijx", query, key), axis=1, where=mask[..., None])
    real = masked(value, mask)
    return product("bijy,byjc->bijc", column.astype(value.dtype), real) + product(
        "bijx,bixc->bijc", row.astype(value.dtype), real
    )


class CrissCross(nnx.Module):
    """x + gamma * criss-cross attention of x; gamma starts at 0, so that it begins as the identity.

    Args:
        channels: channels of `x`; queries and keys have an eighth of them, at least 1.
        compat: see `Compat`.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs, compat: Compat = "correct"):
        narrow = max(1, channels // 8)
        self.compat: Compat = compat
        self.query = Conv(channels, narrow, 1, rngs=rngs)
        self.key = Conv(channels, narrow, 1, rngs=rngs)
        self.value = Conv(channels, channels, 1, rngs=rngs)
        self.gamma = nnx.Param(jnp.zeros(1))

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
        """The same shape as `x`."""
        found = criss_cross(self.query(x, mask), self.key(x, mask), self.value(x, mask), mask, self.compat)
        return x + (self.gamma[...] * found).astype(x.dtype)
