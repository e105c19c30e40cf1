"""Layer normalisation as PyTorch has it by default."""

from flax import nnx


def layer_norm(features: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm as PyTorch has it (epsilon 1e-5), its variance taken in two passes."""
    return nnx.LayerNorm(features, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
