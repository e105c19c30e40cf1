"""The matrix product of linear layers, with a gradient that suits a CPU."""

from typing import Any

import jax
from jaxtyping import Array, Float

MANY = 2048
"""Rows of a product from which its gradient is worth another order."""


def tall_dot(x: Float[Array, "*shape d"], kernel: Float[Array, "d e"], *_: Any, **__: Any) -> Float[Array, "*shape e"]:
    """`x @ kernel`; takes the place of `jax.lax.dot_general` in a linear layer.

    Over many rows the kernel's gradient is taken as (g' x)' on a CPU, where XLA's x' g is slow: it packs the wrong
    operand (10,000 x 1024 by 10,000 x 512, one core: 91 ms against 61). XLA would turn the one into the other, hence
    the barrier. Elsewhere, and over few rows, it is the plain product.

    All axes but the last become one: of [b, n, d] XLA on a CPU makes slower gradients, of this product and of what
    stands between it and the next (three layers with norms, 1,000 x 512: 40 ms against 59).
    """
    flat = x.reshape(-1, x.shape[-1])
    tall = len(flat) >= MANY and jax.default_backend() == "cpu"
    return (_tall(flat, kernel) if tall else flat @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _tall(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return g @ kernel.T, jax.lax.optimization_barrier(g.T @ x).T


_tall.defvjp(_forward, _backward)
