"""Attention pooling without biases, as Tang et al. (2023, 2024) have it."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.nn.gelu import gelu
from milkit.nn.initialisers import Init, linear

Activation = Literal["relu", "gelu", "tanh"]


def activated(x: Float[Array, "*shape d"], by: Activation) -> Float[Array, "*shape d"]:
    """ReLU, the exact GELU or tanh."""
    if by == "gelu":
        return gelu(x)
    return jax.nn.relu(x) if by == "relu" else jnp.tanh(x)


class BiasFreeAttention(nnx.Module):
    """Scores w' f(V h), or w' (f(V h) * sigmoid(U h)) when gated, none of the three with a bias.

    Args:
        in_features: width of an instance.
        width: width of V and U.
        activation: f.
        gated: whether there is U.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        rngs: nnx.Rngs,
        activation: Activation,
        gated: bool = False,
        init: Init = "torch",
    ):
        self.activation: Activation = activation
        self.hidden = linear(in_features, width, rngs=rngs, init=init, use_bias=False)
        self.gate = linear(in_features, width, rngs=rngs, init=init, use_bias=False) if gated else None
        self.score = linear(width, 1, rngs=rngs, init=init, use_bias=False)

    def __call__(self, h: Float[Array, "b n e"]) -> Float[Array, "b n 1"]:
        """What the softmax is taken of."""
        hidden = activated(self.hidden(h), self.activation)
        if self.gate is not None:
            hidden = hidden * jax.nn.sigmoid(self.gate(h))
        return self.score(hidden)
