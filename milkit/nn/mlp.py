"""A stack of fully connected layers with ReLU."""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from milkit.nn.dropout import dropout_or_none
from milkit.nn.initialisers import Init, linear
from milkit.nn.products import tall_dot


class MLP(nnx.Module):
    """Linear, ReLU, dropout for each of `widths`; without widths it is the identity.

    Attributes:
        layers: the linear layers, in order.
        out_features: width of the result.
    """

    def __init__(
        self,
        in_features: int,
        widths: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        dropout: float = 0.0,
        init: Init = "torch",
    ):
        sizes = (in_features, *widths)
        self.layers = nnx.List([linear(a, b, rngs=rngs, init=init) for a, b in pairwise(sizes)])
        self.dropout = dropout_or_none(dropout)
        self.out_features = sizes[-1]

    def __call__(
        self, x: Float[Array, "*shape d"], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "*shape e"]:
        """Encode the last axis of `x`."""
        return self.joined([x], deterministic=deterministic, rngs=rngs)

    def joined(
        self, parts: Sequence[Float[Array, "*shape _"]], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "*shape e"]:
        """Encode arrays as if they stood side by side, without the copies that putting them so would cost."""
        if not self.layers:
            return jnp.concatenate(parts, -1)
        first, *others = self.layers
        x = beside_dot(first, parts) if len(parts) > 1 else first(parts[0])
        x = self._activated(x, deterministic, rngs)
        for layer in others:
            x = self._activated(layer(x), deterministic, rngs)
        return x

    def _activated(
        self, x: Float[Array, "*shape e"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "*shape e"]:
        x = jax.nn.relu(x)
        return x if self.dropout is None else self.dropout(x, deterministic=deterministic, rngs=rngs)


def beside_dot(layer: nnx.Linear, parts: Sequence[Float[Array, "*shape _"]]) -> Float[Array, "*shape e"]:
    """What a linear layer makes of arrays that stand side by side: the sum of each by its rows of the kernel."""
    dtype = jnp.result_type(layer.kernel[...], *parts)
    kernel, starts = layer.kernel[...].astype(dtype), np.cumsum([0, *[part.shape[-1] for part in parts]])
    rows = zip(parts, pairwise(starts), strict=True)
    total = reduce(add, [tall_dot(x.astype(dtype), kernel[a:b]) for x, (a, b) in rows])
    return total if layer.bias is None else total + layer.bias[...].astype(dtype)
