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
    """
    rows = 1
    for size in x.shape[:-1]:
        rows *= size
    if rows < MANY or jax.default_backend() != "cpu":
        return x @ kernel
    return _tall(x, kernel)


@jax.custom_vjp
def _tall(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    flat_x, flat_g = (a.reshape(-1, a.shape[-1]) for a in (x, g))
    return g @ kernel.T, jax.lax.optimization_barrier(flat_g.T @ flat_x).T


_tall.defvjp(_forward, _backward)
