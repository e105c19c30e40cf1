"""The selective recurrence in both of its forms, and their gradients, against place by place in numpy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit.nn.linear_system import (
    by_association,
    by_association_backwards,
    one_by_one,
    one_by_one_backwards,
    selective_states,
)


def example():
    """Arguments, and gradients to both results."""
    rng, (b, m, d, s) = np.random.default_rng(0), (2, 11, 3, 4)
    step, rate = rng.uniform(0.1, 1, (b, m, d)), rng.uniform(0.1, 2, (d, s))
    given = (step, *(rng.normal(size=(b, m, k)) for k in (d, s, s)), rate, rng.normal(size=(b, d, s)))
    return given, (rng.normal(size=(b, m, d)), rng.normal(size=(b, d, s)))


def by_hand(step, u, write, read, rate, start):
    state, y = start.copy(), np.zeros(u.shape)
    for t in range(u.shape[1]):
        for c in range(u.shape[2]):
            decay = np.exp(-step[:, t, c, None] * rate[c])
            state[:, c] = decay * state[:, c] + (step * u)[:, t, c, None] * write[:, t]
            y[:, t, c] = (state[:, c] * read[:, t]).sum(1)
    return y, state


@pytest.mark.parametrize("form", [by_association, one_by_one, selective_states])
def test_the_recurrence(form):
    given, _ = example()
    with jax.enable_x64(True):
        found = jax.jit(form)(*map(jnp.asarray, given))
    for got, want in zip(found, by_hand(*given), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_its_gradients():
    given, bars = example()
    with jax.enable_x64(True):
        arrays, ends = tuple(map(jnp.asarray, given)), tuple(map(jnp.asarray, bars))
        forms = [
            jax.jit(one_by_one_backwards)(arrays, ends),
            jax.jit(by_association_backwards)(arrays, ends),
            jax.jit(lambda given, bars: jax.vjp(selective_states, *given)[1](bars))(arrays, ends),
        ]
    rng, h = np.random.default_rng(1), 1e-6
    for i, of in enumerate(zip(*forms, strict=True)):  # along a random direction of each argument
        way = rng.normal(size=given[i].shape)
        moved = [[a + (h * sign * way if j == i else 0) for j, a in enumerate(given)] for sign in (1, -1)]
        ahead, behind = (sum((y * bar).sum() for y, bar in zip(by_hand(*m), bars, strict=True)) for m in moved)
        for gradient in of:
            np.testing.assert_allclose((np.asarray(gradient) * way).sum(), (ahead - behind) / (2 * h), rtol=1e-6)
