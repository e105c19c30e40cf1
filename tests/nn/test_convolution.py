"""Convolution and its gradients against those that JAX derives, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from milkit.nn import convolution as module
from milkit.nn.convolution import convolution, kernel_gradient


def derived(x: Array, kernel: Array, dilation: int) -> Array:
    sides = [(dilation * (size - 1) // 2,) * 2 for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), sides, rhs_dilation=(dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_kernel_gradient_by_hand():
    """One pixel of gradient: each tap's gradient is the pixel that it sees from there, 0 beyond the edge."""
    x = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    g = jnp.zeros((1, 3, 3, 1)).at[0, 0, 1, 0].set(2.0)
    assert kernel_gradient(x, g, (3, 3))[..., 0, 0].tolist() == [[0, 0, 0], [2, 4, 6], [8, 10, 12]]


@pytest.mark.parametrize(("size", "dilation", "height", "at_once"), [(3, 1, 7, 24), (3, 2, 6, 1), (5, 1, 5, 4096)])
def test_gradients_are_those_that_jax_derives(monkeypatch, size, dilation, height, at_once):
    """With a last turn that is not full, with one line a turn, and all in one turn."""
    monkeypatch.setattr(module, "_FEW", 0)
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    rng = np.random.default_rng(size + dilation)
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(rng.normal(size=(2, height, 6, 2))), jnp.asarray(rng.normal(size=(size, size, 2, 3)))
        turn = jnp.asarray(rng.normal(size=(2, height, 6, 3)))

        @jax.jit
        def both(x: Array, kernel: Array) -> list[tuple[Array, Array]]:
            return [jax.grad(lambda x, k, f=f: (jnp.sin(f(x, k, dilation)) * turn).sum(), (0, 1))(x, kernel)
                    for f in (convolution, derived)]  # fmt: skip

        ours, theirs = both(x, kernel)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_many_runs_side_by_side(monkeypatch):
    """Under vmap over images and kernels each run has its own gradient."""
    monkeypatch.setattr(module, "_FEW", 0)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 1, 5, 4, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(2, 3, 3, 2, 2)), jnp.float32)

    def gradient(x: Array, kernel: Array) -> Array:
        return jax.grad(lambda k: jnp.square(convolution(x, k)).sum())(kernel)

    together = jax.jit(jax.vmap(gradient))(x, kernel)
    alone = jnp.stack([jax.jit(gradient)(a, k) for a, k in zip(x, kernel, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_bfloat16_sums_in_float32(monkeypatch):
    """4,096 ones: a sum kept in bfloat16 would stop at 256."""
    monkeypatch.setattr(module, "_FEW", 0)
    ones = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    found = jax.grad(lambda k: convolution(ones, k).sum().astype(float))(jnp.ones((1, 1, 1, 1), jnp.bfloat16))
    assert float(found[0, 0, 0, 0]) == 4096.0
