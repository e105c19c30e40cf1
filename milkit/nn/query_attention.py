"""Multi-head attention of one learned query over the instances of a bag, in the order of products that is cheap.

With one query q the key projection need not be applied to instances: q'K h = (K'q)'h, one vector a head. Nor need the
value projection: the weighted sum of V h is V times the weighted sum of h. So time and memory are those of instances
times heads, not times width.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.nn.dropout import dropout_or_none
from milkit.nn.initialisers import linear
from milkit.nn.layer_norm import layer_norm


def check_heads(width: int, heads: int) -> None:
    """Raise a ConfigError where `heads` do not share out `width`."""
    if width % heads:
        raise ConfigError(f"heads={heads} do not share out width={width} evenly; choose a divisor of it.")


class Values(nnx.Module):
    """What follows the weighing: value projection (a head each), output projection, dropout, layer norm."""

    def __init__(self, width: int, heads: int, dropout: float, *, rngs: nnx.Rngs):
        self.heads = heads
        self.value = linear(width, width, rngs=rngs)
        self.out = linear(width, width, rngs=rngs)
        self.dropout = dropout_or_none(dropout)
        self.norm = layer_norm(width, rngs, epsilon=1e-6)

    def __call__(
        self, z: Float[Array, "b h e"], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b e"]:
        """Embed a bag whose instances each head has summed by its own weights (which sum to 1)."""
        kernel = self.value.kernel[...]
        kernel = kernel.reshape(len(kernel), self.heads, -1)
        assert self.value.bias is not None
        hidden = jnp.einsum("bhe,ehc->bhc", z, kernel).reshape(len(z), -1) + self.value.bias[...]
        hidden = self.out(hidden)
        if self.dropout is not None:
            hidden = self.dropout(hidden, deterministic=deterministic, rngs=rngs)
        return self.norm(hidden)


class Scores(nnx.Module):
    """How well each instance fits a query, in each head. Keys have no bias: a softmax takes it away."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.query = linear(width, width, rngs=rngs)
        self.key = linear(width, width, rngs=rngs, use_bias=False)

    def __call__(self, query: Float[Array, "e"], h: Float[Array, "b n e"]) -> Float[Array, "b n h"]:
        """Dot products of query and key over the square root of a head's width."""
        q = self.query(query).reshape(self.heads, -1)
        kernel = self.key.kernel[...]
        folded = jnp.einsum("ehc,hc->eh", kernel.reshape(len(kernel), self.heads, -1), q)
        return h @ (folded / math.sqrt(q.shape[1])).astype(h.dtype)
