"""What JAX compiles is counted, and time is not counted twice."""

import jax
import jax.numpy as jnp
import pytest

from milkit.watch.compiles import _COMPILED, _TRACED, Compiles, _Counter, compiles


def test_a_function_is_compiled_once_for_each_shape():
    f = jax.jit(lambda x: jnp.sin(x) * 3.0 + 1.0)
    values = [jnp.ones(n) for n in (3, 5)]
    before = compiles()
    for x in (*values, *values):
        f(x).block_until_ready()
    new = compiles() - before
    assert new.count == 2
    assert new.seconds > 0.0


def test_what_was_traced_inside_another_function_counts_once(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("milkit.watch.compiles.time.monotonic", lambda: now[0])
    counter = _Counter()
    counter.duration(_TRACED[0], 1.0)  # from 9 to 10
    now[0] = 12.0
    counter.duration(_TRACED[0], 5.0)  # from 7 to 12, with the first inside
    now[0] = 15.0
    counter.duration(_COMPILED, 2.0)  # from 13 to 15
    counter.duration("/jax/something/else", 9.0)
    assert counter.seconds == pytest.approx(7.0)
    assert counter.count == 1


def test_differences():
    assert Compiles(5, 2.0, 3) - Compiles(2, 0.5, 1) == Compiles(3, 1.5, 2)
