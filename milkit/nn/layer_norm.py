"""Layer normalisation as PyTorch has it by default."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.nn.products import tall_dot


class LayerNorm(nnx.LayerNorm):
    """nnx's parameters, with a gradient that suits a CPU.

    Of a batch [b, n, d] XLA on a CPU takes three times as long for the gradient as of the same [b * n, d]; and what it
    derives spreads the scale over all rows, there and back.
    """

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:  # type: ignore[override]
        """Normalise the last axis."""
        scale, shift = self._affine()
        y = _flat_plain(x, self.epsilon) * scale + shift
        return y.astype(jnp.result_type(x, scale)).reshape(x.shape)

    def plain(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Less its mean, over its standard deviation; neither scaled nor shifted. In float32 at least."""
        return _flat_plain(x, self.epsilon).reshape(x.shape)

    def then(self, layer: nnx.Linear, x: Float[Array, "*batch d"]) -> Float[Array, "*batch e"]:
        """`layer(self(x))`, with scale and shift taken into the layer's kernel and bias."""
        kernel, bias = self.into(layer)
        return tall_dot(self.plain(x).astype(x.dtype), kernel) + bias

    def into(self, layer: nnx.Linear) -> tuple[Float[Array, "d e"], Float[Array, "e"]]:
        """Kernel and bias with which a linear layer makes of `plain(x)` what it makes of `self(x)`.

        The gradient by what enters the layer, which scale and shift would need in between, is then worked out only
        where x has one itself: not where features are normalised first of all.
        """
        (scale, shift), kernel = self._affine(), layer.kernel[...]
        bias = shift @ kernel
        return scale[:, None] * kernel, bias if layer.bias is None else bias + layer.bias[...]

    def _affine(self) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
        assert self.scale is not None
        assert self.bias is not None
        return self.scale[...], self.bias[...]


def _flat_plain(x: Float[Array, "*batch d"], epsilon: float) -> Float[Array, "n d"]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return _normalised(wide.reshape(-1, x.shape[-1]), epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalised(x: Float[Array, "n d"], epsilon: float) -> Float[Array, "n d"]:
    return _forward(x, epsilon)[0]


def _forward(x: Array, epsilon: float) -> tuple[Array, Any]:
    centred = x - x.mean(1, keepdims=True)
    over = jax.lax.rsqrt(jnp.square(centred).mean(1, keepdims=True) + epsilon)
    y = centred * over
    return y, (y, over)


def _backward(epsilon: float, kept: Any, g: Array) -> tuple[Array]:
    y, over = kept
    return (over * (g - g.mean(1, keepdims=True) - y * (g * y).mean(1, keepdims=True)),)


_normalised.defvjp(_forward, _backward)


def layer_norm(features: int, rngs: nnx.Rngs, epsilon: float = 1e-5) -> LayerNorm:
    """Layer norm as PyTorch has it, its variance taken in two passes."""
    return LayerNorm(features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
