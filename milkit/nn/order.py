"""The order in which a network that reads bags as sequences takes their instances, each bag by its own length.

Sequences stand at the front of their rows, whatever padding stands between a bag's instances; a bag can be read in
another order than its own: backwards, or first every r-th instance and then the ones after them.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from milkit.nn.squares import take_rows


class Order(NamedTuple):
    """Which row comes at which place.

    Attributes:
        rows: the row that is read at each place, -1 where there is none.
        places: the place of each row, -1 of one that is not read.
    """

    rows: Int[Array, "b l"]
    places: Int[Array, "b n"]

    def read(self, x: Float[Array, "b n d"]) -> Float[Array, "b l d"]:
        """The rows in this order; 0 where there is none."""
        return take_rows(x, self.rows[..., None], self.places[..., None])

    def undo(self, y: Float[Array, "b l d"]) -> Float[Array, "b n d"]:
        """What stands at each row's place; 0 for rows that are not read."""
        return take_rows(y, self.places[..., None], self.rows[..., None])


def as_given(mask: Bool[Array, "b n"]) -> Order:
    """The real instances in the order of their rows, without gaps."""
    first = jnp.argsort(~mask, axis=1, stable=True)
    there = jnp.arange(mask.shape[1]) < mask.sum(1, keepdims=True)
    return Order(jnp.where(there, first, -1), jnp.where(mask, jnp.cumsum(mask, 1) - 1, -1))


def backwards(count: Int[Array, "b"], length: int) -> Order:
    """The last of a bag's `count` rows first."""
    place = jnp.arange(length)[None]
    turned = jnp.where(place < count[:, None], count[:, None] - 1 - place, -1)
    return Order(turned, turned)


def strided(count: Int[Array, "b"], length: int, rate: int, *, gaps: bool = False) -> Order:
    """Rows 0, rate, 2 rate ... of a bag, then 1, rate + 1 ..., and so on.

    Args:
        count: rows of each bag.
        length: rows of the array.
        rate: the step, at least 1.
        gaps: whether each of the `rate` runs is as long as the longest, places without a row included; there are then
            up to rate - 1 places more than rows.
    """
    n, row = count[:, None], jnp.arange(length)[None]
    place = jnp.arange(length + (rate - 1 if gaps else 0))[None]
    whole = jnp.maximum(n // rate, 1)
    long = jnp.where(gaps, rate, n % rate)  # so many runs have one row more than the others
    each = jnp.where(gaps, -(-n // rate), n // rate + 1)
    each = jnp.maximum(each, 1)
    run, step = row % rate, row // rate
    places = jnp.minimum(run, long) * each + jnp.maximum(run - long, 0) * whole + step
    later = place - long * each  # places of the shorter runs, counted from their start
    column = jnp.where(later < 0, place // each, long + later // whole)
    rows = jnp.where(later < 0, place % each, later % whole) * rate + column
    return Order(
        jnp.where((rows < n) & (column < rate), rows, -1),
        jnp.where(row < n, places, -1),
    )
