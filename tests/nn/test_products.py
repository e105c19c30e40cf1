"""The product of linear layers: the same numbers on either side of its threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.nn.products import MANY, tall_dot


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 5), (MANY + 1, 5), (2, MANY // 2, 5), (2, 1, MANY, 5)])
def test_value_and_gradient_are_those_of_the_plain_product(shape):
    """In float64, and with runs side by side."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = (jnp.asarray(rng.normal(size=s)) for s in (shape, (5, 4)))
        weight = jnp.asarray(rng.normal(size=(*shape[:-1], 4)))
        both = [
            jax.value_and_grad(lambda x, k, dot=dot: jnp.sum(jnp.sin(dot(x, k)) * weight), (0, 1))(x, kernel)
            for dot in (tall_dot, lambda x, k: x @ k)
        ]
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        kernels = jnp.stack([kernel, -kernel, 2 * kernel])
        runs = jax.vmap(jax.grad(lambda k: jnp.sum(tall_dot(x, k) * weight)))(kernels)
        np.testing.assert_allclose(runs[2], jax.grad(lambda k: jnp.sum((x @ k) * weight))(kernel), rtol=1e-12)


def test_few_rows_are_left_to_the_compiler():
    """Small networks keep the plain product: the barrier would cost them a copy a step."""
    few, many = (
        str(jax.make_jaxpr(jax.grad(lambda k, n=n: tall_dot(jnp.ones((n, 3)), k).sum()))(jnp.ones((3, 2))))
        for n in (MANY - 1, MANY)
    )
    assert "optimization_barrier" not in few
    if jax.default_backend() == "cpu":
        assert "optimization_barrier" in many
