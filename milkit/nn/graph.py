"""Graphs of the instances of a bag: which tiles lie beside each other, and what an instance reads off its neighbours.

A graph is two arrays: `index` [b, n, j], the neighbours of each instance as rows of its own bag, and `exists`
[b, n, j], False where there is no such neighbour (`index` is then -1). Only instances that are real have neighbours,
and only they are neighbours, so padding neither says nor hears anything. An instance is never its own neighbour unless
a graph is given in which it is.

Everything is linear in the number of instances in memory; finding the neighbours takes time quadratic in it, which
`milkit.data.neighbours` on the host does not.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import DataError
from milkit.nn.row_blocks import in_row_blocks
from milkit.types import Bags

AT_ONCE = 1 << 22
"""Distances or products that are held at a time (16 MiB): the instances are gone through in blocks."""
TOGETHER = 8
"""Neighbours that are added in one pass, at most."""
TENTH_UM = 10.0
"""Distances that are equal to a tenth of a micrometre tie: positions carry the dust of float32."""


def neighbours_of(
    bags: Bags, count: int, radius_um: float | None = None, *, model: str = "This model", at_once: int = AT_ONCE
) -> tuple[Int[Array, "b n j"], Bool[Array, "b n j"]]:
    """Each instance's neighbours: those of `bags.neighbours` as they are, or else the nearest tiles, exactly.

    The nearest come by distance, ties by row of the slide, then column (y, then x), never by the order of instances:
    the graph does not change when the instances of a bag are shuffled (unless two lie in one place). It is the graph of
    `milkit.data.neighbours.Nearest`.

    Args:
        bags: with `neighbours`, or with `coords_um`.
        count: how many of the nearest; all others in a bag that has no more.
        radius_um: tiles further away are no neighbours; None: however far.
        model: who asks, for the error.
        at_once: distances to hold at a time.

    Returns:
        `index` and `exists`; j is `count`, or what `bags.neighbours` has.

    Raises:
        DataError: there are neither neighbours nor positions.
    """
    if bags.neighbours is not None:
        return as_graph(bags.neighbours, bags.mask)
    if bags.coords_um is None:
        raise DataError(
            f"{model} works on a graph of neighbouring tiles, but the bags have neither positions in micrometres "
            "(coords_um) nor neighbours; open features that have coordinates with their mpp (docs/data.md), or choose "
            "a model without positions."
        )
    xy = jax.lax.stop_gradient(bags.coords_um.astype(jnp.promote_types(bags.coords_um.dtype, jnp.float32)))
    return _nearest(xy, bags.mask, count, radius_um, at_once)


def as_graph(
    neighbours: Int[Array, "b n j"], mask: Bool[Array, "b n"]
) -> tuple[Int[Array, "b n j"], Bool[Array, "b n j"]]:
    """A given graph without what leads from or to padding; -1 is no neighbour."""
    index = neighbours.astype(jnp.int32)
    real = jnp.take_along_axis(mask[:, :, None], jnp.maximum(index, 0).reshape(len(mask), -1, 1), 1)
    exists = (index >= 0) & real.reshape(index.shape) & mask[:, :, None]
    return jnp.where(exists, index, -1), exists


def _nearest(
    xy: Float[Array, "b n 2"], mask: Bool[Array, "b n"], count: int, radius_um: float | None, at_once: int
) -> tuple[Int[Array, "b n j"], Bool[Array, "b n j"]]:
    b, n = mask.shape
    # of equal values top_k takes the earlier, so instances in the order of ties make the ties right
    order = jnp.lexsort((xy[..., 0], xy[..., 1], ~mask), axis=1)
    placed = jnp.take_along_axis(xy, order[..., None], 1)
    there = jnp.take_along_axis(mask, order, 1)
    width = min(count, n)

    def of_rows(rows: tuple[Array, Array, Array]) -> tuple[Int[Array, "b r j"], Bool[Array, "b r j"]]:
        own, real, row = rows
        distance = jnp.sqrt(jnp.square(own[:, :, None] - placed[:, None]).sum(-1))
        near = there[:, None] & (row[:, :, None] != jnp.arange(n))
        if radius_um is not None:  # it includes what lies on it
            near &= distance <= radius_um * (1 + 1e-6)
        rank, column = jax.lax.top_k(jnp.where(near, -jnp.round(distance * TENTH_UM), -jnp.inf), width)
        exists = jnp.isfinite(rank) & real[..., None]
        index = jnp.take_along_axis(order, column.reshape(b, -1), 1).reshape(column.shape)
        return jnp.where(exists, index, -1).astype(jnp.int32), exists

    numbers = jnp.broadcast_to(jnp.arange(n), (b, n))
    index, exists = in_row_blocks(of_rows, (placed, there, numbers), n, at_once)
    # back to the order of the bag
    back = jnp.argsort(order, axis=1)[..., None]
    index, exists = (jnp.take_along_axis(a, back, 1) for a in (index, exists))
    more = ((0, 0), (0, 0), (0, count - width))
    return jnp.pad(index, more, constant_values=-1), jnp.pad(exists, more)


def gather(h: Float[Array, "b n e"], index: Int[Array, "b m j"]) -> Float[Array, "b m j e"]:
    """What the neighbours of each of some instances hold; anything where there is none."""
    flat = jnp.maximum(index, 0).reshape(len(h), -1, 1)
    return jnp.take_along_axis(h, flat, 1).reshape(*index.shape, h.shape[-1])


def neighbour_sum(
    h: Float[Array, "b n e"],
    index: Int[Array, "b n j"],
    exists: Bool[Array, "b n j"],
    weight: Float[Array, "b n j"] | None = None,
) -> Float[Array, "b n e"]:
    """Sum, or weighted sum, over the neighbours: the product of the adjacency matrix and h. 0 where there are none.

    A few neighbours of all instances at a time, so that no [b, n, j, e] is held, nor kept for the gradient.
    """
    amount = exists.astype(h.dtype) if weight is None else jnp.where(exists, weight, 0).astype(h.dtype)
    return _summed(h, jnp.maximum(index, 0), amount)


@jax.custom_vjp
def _summed(
    h: Float[Array, "b n e"], index: Int[Array, "b n j"], amount: Float[Array, "b n j"]
) -> Float[Array, "b n e"]:
    """Some neighbours at a time: one at a time the sum is read and written for each, and all at once, without a loop
    round them, XLA sums them anew wherever the result is read.
    """
    wide = jnp.promote_types(h.dtype, jnp.float32)
    count = index.shape[2]
    together = max(1, min(TOGETHER, -(-count // 2)))
    more = ((0, 0), (0, 0), (0, -count % together))

    def add(total: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
        for where, much in zip(*columns, strict=True):
            total = total + (jnp.take_along_axis(h, where[..., None], 1) * much[..., None]).astype(wide)
        return total, None

    def blocks(a: Array) -> Array:
        return jnp.moveaxis(jnp.pad(a, more), 2, 0).reshape(-1, together, *a.shape[:2])

    columns = (blocks(index), blocks(amount))
    return jax.lax.scan(add, jnp.zeros(h.shape, wide), columns)[0].astype(h.dtype)


def _summed_forward(h: Array, index: Array, amount: Array) -> tuple[Array, Any]:
    return _summed(h, index, amount), (h, index, amount)


def _summed_backward(kept: Any, g: Array) -> tuple[Array, None, Array]:
    h, index, amount = kept

    def back(total: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        where, much = column
        said = (g * much[..., None]).astype(total.dtype)
        total = jax.vmap(lambda t, i, v: t.at[i].add(v))(total, where, said)
        return total, (jnp.take_along_axis(h, where[..., None], 1) * g).sum(-1)

    columns = (jnp.moveaxis(index, 2, 0), jnp.moveaxis(amount, 2, 0))
    start = jnp.zeros(h.shape, jnp.promote_types(h.dtype, jnp.float32))
    of_h, of_amount = jax.lax.scan(back, start, columns)
    return of_h.astype(h.dtype), None, jnp.moveaxis(of_amount, 0, 2).astype(amount.dtype)


_summed.defvjp(_summed_forward, _summed_backward)


def neighbour_mean(
    h: Float[Array, "b n e"], index: Int[Array, "b n j"], exists: Bool[Array, "b n j"]
) -> Float[Array, "b n e"]:
    """Mean over the neighbours; 0 where there are none."""
    count = jnp.maximum(exists.sum(2), 1)[..., None]
    return neighbour_sum(h, index, exists) / count.astype(h.dtype)


def neighbour_max(
    h: Float[Array, "b n e"], index: Int[Array, "b n j"], exists: Bool[Array, "b n j"]
) -> Float[Array, "b n e"]:
    """Maximum over the neighbours, feature by feature; 0 where there are none."""
    top = jnp.where(exists[..., None], gather(h, index), -jnp.inf).max(2)
    return jnp.where(exists.any(2)[..., None], top, 0).astype(h.dtype)


def neighbour_softmax(
    h: Float[Array, "b n e"], sharpness: Float[Array, "1"], index: Int[Array, "b n j"], exists: Bool[Array, "b n j"]
) -> Float[Array, "b n e"]:
    """Mean over the neighbours, feature by feature, weighted by a softmax of `sharpness` times the values themselves.

    Sharpness 0 is the mean, much of it the maximum; 0 where there are no neighbours. As in `neighbour_sum` it takes one
    neighbour of all instances at a time.

    References:
        Li, Xiong, Thabet & Ghanem (2020, arXiv:2006.07739), definition 2.
    """
    wide = jnp.promote_types(h.dtype, jnp.float32)
    sharp = sharpness.astype(wide)
    columns = (jnp.moveaxis(index, 2, 0), jnp.moveaxis(exists, 2, 0))

    def read(column: tuple[Array, Array]) -> tuple[Array, Array]:
        where, there = column
        said = jnp.take_along_axis(h, jnp.maximum(where, 0)[..., None], 1).astype(wide)
        return said, jnp.where(there[..., None], sharp * said, -jnp.inf)

    def highest(peak: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
        return jnp.maximum(peak, read(column)[1]), None

    def add(carry: tuple[Array, Array], column: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        said, score = read(column)
        weight = jnp.exp(score - peak)
        return (carry[0] + weight, carry[1] + weight * said), None

    # what is taken out of the exponential cancels, so it needs no gradient
    start = jnp.full(h.shape, -jnp.inf, wide)
    peak = jax.lax.stop_gradient(jax.lax.scan(highest, start, columns)[0])
    peak = jnp.where(exists.any(2)[..., None], peak, 0)
    nothing = jnp.zeros(h.shape, wide)
    again = jax.checkpoint(add, prevent_cse=False)
    total, heard = jax.lax.scan(again, (nothing, nothing), columns)[0]
    return (heard / jnp.where(total > 0, total, 1)).astype(h.dtype)


def attend(scores: Float[Array, "b m j k"], exists: Bool[Array, "b m j"]) -> Float[Array, "b m j k"]:
    """Softmax over the neighbours, at least in float32: 0 on what does not exist, all 0 where there are none."""
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return jax.nn.softmax(wide, axis=2, where=exists[..., None])
