"""Bags laid out as squares of regions: as Tang et al. (2024) do it, each bag in a square of its own.

A bag of n instances fills a square row by row, whose side is the root of n, rounded up to a multiple of the regions a
side; each region is a smaller square. A batch is held in a canvas that has room for the regions of its longest row; a
bag's own region fills the front of its place there, row by row.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from milkit.nn.squares import root, take_rows


class Regions(NamedTuple):
    """Which instance lies where.

    Attributes:
        rows: the instance in each place of each region, -1 where there is none.
        places: the place of each instance, counted through all regions; -1 on padding.
        inside: which places belong to the bag's square. Its last ones may hold no instance.
    """

    rows: Int[Array, "b w p"]
    places: Int[Array, "b n"]
    inside: Bool[Array, "b w p"]

    @property
    def real(self) -> Bool[Array, "b w p"]:
        """Which places hold an instance."""
        return self.rows >= 0


def regions_of(mask: Bool[Array, "b n"], regions: int) -> Regions:
    """Share bags out over `regions` a side."""
    n = mask.shape[1]
    # whole numbers: no rounding of a root
    sides = np.array([-(-root(i) // regions) for i in range(n + 1)], np.int32)
    size = max(int(sides[n]), 1) ** 2
    count, rank = mask.sum(1)[:, None], jnp.cumsum(mask, 1) - 1
    own = jnp.asarray(sides)[count]  # instances a side of a region; 0 of a bag that is all padding
    side = jnp.maximum(own, 1)
    region, place = jnp.arange(regions**2)[:, None], jnp.arange(size)[None]
    wide = side[..., None]
    row, column = region // regions * wide + place // wide, region % regions * wide + place % wide
    at = row * regions * wide + column
    inside = jnp.broadcast_to(place < jnp.square(own)[..., None], at.shape)
    first = jnp.argsort(~mask, axis=1, stable=True)  # real instances in their order, whatever stands between them
    held = inside & (at < count[..., None])
    rows = jnp.take_along_axis(first, jnp.where(held, at, 0).reshape(len(mask), -1), 1).reshape(at.shape)
    row, column = rank // (side * regions), rank % (side * regions)
    places = (row // side * regions + column // side) * size + row % side * side + column % side
    return Regions(jnp.where(held, rows, -1), jnp.where(mask, places, -1), inside)


def to_regions(x: Float[Array, "b n d"], regions: Regions) -> Float[Array, "b w p d"]:
    """Instances in their places; 0 where there is none."""
    b, w, p = regions.rows.shape
    return take_rows(x, regions.rows.reshape(b, w * p, 1), regions.places[..., None]).reshape(b, w, p, -1)


def from_regions(x: Float[Array, "b w p d"], regions: Regions) -> Float[Array, "b n d"]:
    """The inverse; 0 on padding."""
    b, w, p = regions.rows.shape
    return take_rows(x.reshape(b, w * p, -1), regions.places[..., None], regions.rows.reshape(b, w * p, 1))
