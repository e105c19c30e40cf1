"""The first layer of slide-level models: patch embeddings brought to a smaller width."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from milkit.nn.initialisers import linear


class Projection(nnx.Module):
    """ReLU of a linear layer without bias, then residual blocks x + ReLU(B ReLU(A x)), also without biases.

    References:
        Zhang et al. (2022, CVPR) and Zhang et al. (2024, ECCV), whose code has it under the name DimReduction.
    """

    def __init__(
        self, in_features: int, width: int, *, rngs: nnx.Rngs, residual_blocks: int = 0, use_bias: bool = False
    ):
        self.first = linear(in_features, width, rngs=rngs, use_bias=use_bias)
        pairs = [[linear(width, width, rngs=rngs, use_bias=False) for _ in range(2)] for _ in range(residual_blocks)]
        self.blocks = nnx.List([nnx.List(pair) for pair in pairs])

    def __call__(self, x: Float[Array, "*shape d"]) -> Float[Array, "*shape e"]:
        """Project the last axis."""
        h = jax.nn.relu(self.first(x))
        for one, other in self.blocks:
            h = h + jax.nn.relu(other(jax.nn.relu(one(h))))
        return h
