"""Work on the rows of a bag block by block, so that what is as wide as the bag is never as high as it too.

Attention between all pairs of instances costs instances squared in time. It need not cost that in memory: a block of
queries at a time is compared with all keys, and each block is computed anew in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

AT_ONCE = 1 << 24
"""Numbers that a block may hold at once: 64 MiB in float32."""


def in_row_blocks(step: Callable[[Any], Any], rows: Any, per_row: int, at_once: int = AT_ONCE) -> Any:
    """`step` of rows, some at a time; the same value and gradient as `step(rows)`, whose rows must not see each other.

    Args:
        step: arrays [b, r, ...] to arrays [b, r, ...], both trees of any shape.
        rows: arrays [b, n, ...].
        per_row: how many numbers `step` holds for one row of one bag, such as heads times keys.
        at_once: how many it may hold for all rows of a block, over all bags; a block has at least one row.

    References:
        Rabe & Staats (2021, arXiv:2112.05682) on attention in blocks; Chen et al. (2016, arXiv:1604.06174) on computing
        again instead of keeping.
    """
    b, n = jax.tree.leaves(rows)[0].shape[:2]
    size = max(1, at_once // max(1, b * per_row))
    blocks = -(-n // size)
    if blocks <= 1:
        return step(rows)
    size = -(-n // blocks)

    def split(a: Any) -> Any:
        padded = jnp.pad(a, [(0, 0), (0, blocks * size - n)] + [(0, 0)] * (a.ndim - 2))
        return padded.reshape(b, blocks, size, *a.shape[2:]).swapaxes(0, 1)

    def join(a: Any) -> Any:
        return a.swapaxes(0, 1).reshape(b, blocks * size, *a.shape[3:])[:, :n]

    # inside a scan nothing can be merged with the forward pass, so the barriers against that are not needed
    again = jax.checkpoint(step, prevent_cse=False)
    _, found = jax.lax.scan(lambda _, block: (None, again(block)), None, jax.tree.map(split, rows))
    return jax.tree.map(join, found)
