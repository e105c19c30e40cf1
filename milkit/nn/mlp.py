"""A stack of fully connected layers with ReLU."""

from itertools import pairwise

import jax
from flax import nnx
from jaxtyping import Array, Float

from milkit.nn.dropout import dropout_or_none
from milkit.nn.initialisers import Init, linear


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
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
            if self.dropout is not None:
                x = self.dropout(x, deterministic=deterministic, rngs=rngs)
        return x
