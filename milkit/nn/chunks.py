"""Bags too long to be held whole: instances are encoded a chunk at a time and pooled as they come.

The forward pass is a scan over chunks, and each chunk is computed anew in the backward pass, so that memory is that of
one chunk (and of what is kept of every instance: its scores) while value and gradient stay those of the whole bag. The
price is a second forward pass. Nothing is approximated and nothing is left out.

A model takes part by pooling with `over_instances`, and says so by `chunked = True` in its configuration.

References:
    Chen et al. (2016, arXiv:1604.06174) on computing again instead of keeping.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.nn.running import Rule
from milkit.types import Bags

Read = Callable[[Int[Array, "b m"], Bool[Array, "b m"]], Float[Array, "b m d"]]
Encode = Callable[[Float[Array, "b m d"], nnx.Rngs | None], tuple[Sequence[Any], Any]]


class LongBags(Bags):
    """Bags whose features are read when they are needed, `at_once` instances at a time.

    Attributes:
        read: (rows [b, m], mask [b, m]) -> features [b, m, d], 0 on padding.
        rows: what `read` is asked for, [b, n].
        at_once: instances of a chunk, at most.
    """

    read: Read
    rows: Int[Array, "b n"]
    at_once: int

    def __init__(
        self,
        read: Read,
        rows: Int[Array, "b n"],
        mask: Bool[Array, "b n"],
        at_once: int,
        coords_um: Float[Array, "b n 2"] | None = None,
        covariates: Float[Array, "b v"] | None = None,
    ):
        values = {"read": read, "rows": rows, "mask": mask, "at_once": at_once, "coords_um": coords_um}
        for name, value in {**values, "neighbours": None, "covariates": covariates}.items():
            object.__setattr__(self, name, value)  # its base is frozen

    @property
    def x(self) -> Float[Array, "b n d"]:
        """All features at once: what a model that knows no chunks is given, and what chunks are there to avoid."""
        return self.read(self.rows, self.mask)

    def cast(self, dtype: Any) -> "LongBags":
        """The same bags with features of another type."""
        read = self.read
        return LongBags(
            lambda rows, mask: read(rows, mask).astype(dtype),
            self.rows,
            self.mask,
            self.at_once,
            self.coords_um,
            self.covariates,
        )


def over_instances(
    bags: Bags, encode: Encode, rules: Sequence[Rule], rngs: nnx.Rngs | None = None
) -> tuple[tuple[Array, ...], Any]:
    """Encode the instances of bags and pool them; long bags chunk by chunk, with the same value and gradient.

    Args:
        bags: a padded batch.
        encode: (features [b, m, d], rngs) -> (values to pool, what to keep of every instance). Instances must not see
            each other in it, and it must not change the module (batch statistics).
        rules: how each of the values is pooled (`milkit.nn.running`).
        rngs: what `encode` draws from in training; every chunk has its own draws. None is deterministic.

    Returns:
        The pooled values, and what was kept, [b, n, ...] (anything on padding).
    """
    if not isinstance(bags, LongBags):
        values, kept = encode(bags.x, rngs)
        return tuple(rule.whole(v, bags.mask) for rule, v in zip(rules, values, strict=True)), kept
    n = bags.mask.shape[1]
    chunks = -(-n // bags.at_once)
    rows, mask = _split(bags.rows, chunks), _split(bags.mask, chunks)
    key = None if rngs is None else rngs.dropout()

    def one_chunk(i: Array, rows: Array, mask: Array) -> tuple[Sequence[Any], Any]:
        own = None if key is None else nnx.Rngs(jax.random.fold_in(key, i))
        return encode(bags.read(rows, mask), own)

    def add(carry: Any, chunk: Any) -> tuple[Any, Any]:
        values, kept = one_chunk(*chunk)
        return tuple(r.add(c, v, chunk[2]) for r, c, v in zip(rules, carry, values, strict=True)), kept

    shapes, _ = jax.eval_shape(one_chunk, jnp.int32(0), rows[0], mask[0])
    carry = tuple(rule.start(shape) for rule, shape in zip(rules, shapes, strict=True))
    # inside a scan nothing can be merged with the forward pass, so the barriers against that are not needed
    scanned = jax.lax.scan(jax.checkpoint(add, prevent_cse=False), carry, (jnp.arange(chunks), rows, mask))
    pooled = tuple(rule.finish(c, bags.mask) for rule, c in zip(rules, scanned[0], strict=True))
    return pooled, jax.tree.map(lambda a: _join(a, n), scanned[1])


def _split(a: Array, chunks: int) -> Array:
    """[b, n] to [chunks, b, m], filled up with zeros (False)."""
    b, n = a.shape
    m = -(-n // chunks)
    return jnp.pad(a, ((0, 0), (0, chunks * m - n))).reshape(b, chunks, m).swapaxes(0, 1)


def _join(a: Array, n: int) -> Array:
    """[chunks, b, m, ...] to [b, n, ...]."""
    joined = a.swapaxes(0, 1)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])[:, :n]
