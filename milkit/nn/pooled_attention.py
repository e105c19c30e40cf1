"""Attention from every pixel to every position of a coarser map of the same image.

Full attention between all pixels needs their number squared. Here keys and values are max-pooled first, the
subsampling of non-local networks, which leaves every pixel a view of the whole image.

References:
    Wang et al. (2018, CVPR), Non-local neural networks, section 3.3.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.images import Conv, max_pool, pooled_mask

AT_ONCE = 1 << 20
"""Weights held at a time, 4 bytes each."""


class PooledAttention(nnx.Module):
    """x + gamma * attention of x to itself pooled; gamma starts at 0, so that it begins as the identity.

    Args:
        channels: channels of `x`; queries and keys have an eighth of them, at least 1.
        halvings: how often keys and values are pooled by 2.
    """

    def __init__(self, channels: int, *, halvings: int, rngs: nnx.Rngs):
        narrow = max(1, channels // 8)
        self.halvings = halvings
        self.query = Conv(channels, narrow, 1, rngs=rngs)
        self.key = Conv(channels, narrow, 1, rngs=rngs)
        self.value = Conv(channels, channels, 1, rngs=rngs)
        self.gamma = nnx.Param(jnp.zeros(1))

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
        """The same shape as `x`; an image that pooling leaves nothing of attends to nothing."""
        key, value, seen = self.key(x, mask), self.value(x, mask), mask
        for _ in range(self.halvings):
            key, value, seen = max_pool(key), max_pool(value), pooled_mask(seen)
        if not seen.size:
            return x
        found = _attend(self.query(x, mask), key, value, seen)
        return x + (self.gamma[...] * found).astype(x.dtype)


def _attend(
    query: Float[Array, "b h w e"],
    key: Float[Array, "b i j e"],
    value: Float[Array, "b i j c"],
    seen: Bool[Array, "b i j"],
) -> Float[Array, "b h w c"]:
    b, _, w, _ = query.shape
    wide = jnp.promote_types(query.dtype, jnp.float32)
    keys, values, real = (a.reshape(b, -1, *a.shape[3:]) for a in (key, value, seen))

    def row(query: Float[Array, "b w e"]) -> Float[Array, "b w c"]:
        energy = jnp.einsum("bwe,bne->bwn", query, keys, preferred_element_type=wide)
        weight = jax.nn.softmax(energy, where=real[:, None])
        return jnp.einsum("bwn,bnc->bwc", weight.astype(value.dtype), values, preferred_element_type=wide)

    rows = max(1, AT_ONCE // (b * w * keys.shape[1]))
    # recomputed for the gradient, so that neither direction holds all weights
    return jax.lax.map(jax.checkpoint(row), query.swapaxes(0, 1), batch_size=rows).swapaxes(0, 1)
