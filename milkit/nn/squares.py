"""Bags laid out as squares: as Shao et al. (2021) do it, each bag in a square of its own whatever it is batched with.

A bag of n instances becomes s * s tokens, s the root of n rounded up: its instances in their order, then the first ones
again. A batch is held in a canvas of S * S tokens, S the root of its longest row rounded up; a bag's own square fills
the front of the sequence, or the upper left of the canvas.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Squares(NamedTuple):
    """Where each token comes from.

    Attributes:
        side: tokens a side of each bag's square; 0 of a bag that is all padding.
        mask: which tokens there are, in sequence.
        rows: the instance that a token repeats, -1 where there is no token.
        tokens: the one or two tokens of each instance, -1 where there is none.
    """

    side: Int[Array, "b"]
    mask: Bool[Array, "b l"]
    rows: Int[Array, "b l"]
    tokens: Int[Array, "b n 2"]


def squares_of(mask: Bool[Array, "b n"]) -> Squares:
    """The squares of bags with these instances."""
    n = mask.shape[1]
    count, rank = mask.sum(1)[:, None], jnp.cumsum(mask, 1) - 1
    sides = np.array([root(i) for i in range(n + 1)], np.int32)  # whole numbers: no rounding of a root
    side = jnp.asarray(sides)[count]
    token = jnp.arange(root(n) ** 2)[None]
    there = token < side**2
    first = jnp.argsort(~mask, axis=1, stable=True)  # real instances in their order, whatever stands between them
    rows = jnp.take_along_axis(first, jnp.where(there, token % jnp.maximum(count, 1), 0), 1)
    again = jnp.where(rank + count < side**2, rank + count, -1)
    tokens = jnp.where(mask[..., None], jnp.stack([rank, again], -1), -1)
    return Squares(side[:, 0], there, jnp.where(there, rows, -1), tokens)


def root(n: int) -> int:
    """The root of a whole number, rounded up."""
    return math.isqrt(n - 1) + 1 if n else 0


def as_tokens(x: Float[Array, "b n d"], squares: Squares) -> Float[Array, "b l d"]:
    """Instances as tokens; 0 where there is none."""
    return take_rows(x, squares.rows[..., None], squares.tokens)


def as_instances(x: Float[Array, "b l d"], squares: Squares) -> Float[Array, "b n d"]:
    """The sum over each instance's tokens; 0 on padding."""
    return take_rows(x, squares.tokens, squares.rows[..., None])


def to_canvas(x: Float[Array, "b l d"], side: Int[Array, "b"]) -> Float[Array, "b s s d"]:
    """Each bag's tokens as a square, row by row, in the upper left of the canvas; 0 elsewhere."""
    token, cell = _places(x.shape[1], side)
    s = math.isqrt(x.shape[1])
    return take_rows(x, token, cell).reshape(x.shape[0], s, s, -1)


def from_canvas(x: Float[Array, "b s s d"], side: Int[Array, "b"]) -> Float[Array, "b l d"]:
    """The inverse of `to_canvas`."""
    token, cell = _places(x.shape[1] ** 2, side)
    return take_rows(x.reshape(x.shape[0], -1, x.shape[-1]), cell, token)


def _places(tokens: int, side: Int[Array, "b"]) -> tuple[Int[Array, "b l 1"], Int[Array, "b l 1"]]:
    """The token in each cell of the canvas, and the cell of each token; -1 for none."""
    s, own = math.isqrt(tokens), side[:, None]
    at = jnp.arange(tokens)[None]
    row, column = at // max(s, 1), at % max(s, 1)
    token = jnp.where((row < own) & (column < own), row * own + column, -1)
    each = jnp.maximum(own, 1)
    cell = jnp.where(at < own**2, at // each * s + at % each, -1)
    return token[..., None], cell[..., None]


@jax.custom_vjp
def take_rows(x: Float[Array, "b n d"], rows: Int[Array, "b l i"], back: Int[Array, "b n j"]) -> Float[Array, "b l d"]:
    """The sum of each bag's `x[rows]`, where -1 is no row.

    `back` names, for each row of x, all places that took it, with -1 for none: with it the gradient is such a sum too,
    where JAX would scatter, which a CPU does slowly.
    """
    parts = []
    for i in range(rows.shape[-1]):
        taken = jnp.take_along_axis(x, jnp.maximum(rows[..., i], 0)[..., None], 1)
        parts.append(jnp.where(rows[..., i, None] >= 0, taken, 0))
    return sum(parts[1:], parts[0])


def _forward(x: Array, rows: Array, back: Array) -> tuple[Array, tuple[Array, Array]]:
    return take_rows(x, rows, back), (rows, back)


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, None, None]:
    rows, back = kept
    return take_rows(g, back, rows), None, None


take_rows.defvjp(_forward, _backward)
