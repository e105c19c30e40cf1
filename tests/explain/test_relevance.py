"""Relevance: of models whose gradients are known by hand, complete, and blind to padding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import DataError
from milkit.explain import attention, contributions, gradient_times_input, instance_scores, integrated_gradients
from milkit.models import ABMIL, AdditiveMIL, EmbeddingPooling
from milkit.types import Bags, Output

X = [np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]], np.float32), np.array([[2.0, 2.0]], np.float32)]
W = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)  # of two labels, a column each


def squares(bags):
    """Logits sum_i (x_i . w)^2: the gradient by hand is 2 (x_i . w) w."""
    scores = jnp.where(bags.mask[..., None], bags.x @ jnp.asarray(W), 0)
    return Output((scores**2).sum(1), instance_logits=scores**2)


@pytest.mark.parametrize("label", [0, 1])
def test_gradients_of_a_sum_of_squares_by_hand(label):
    bags = Bags.of(X)
    scores = [x @ W[:, label] for x in X]
    first = np.asarray(gradient_times_input(squares, bags, label))
    along = np.asarray(integrated_gradients(squares, bags, label, steps=3))
    for i, s in enumerate(scores):
        np.testing.assert_allclose(first[i, : len(s)], 2 * s**2, rtol=1e-6)
        np.testing.assert_allclose(along[i, : len(s)], s**2, rtol=1e-6)  # the midpoint rule is exact for a line
    assert (first[1, 1:] == 0).all()
    assert (along[1, 1:] == 0).all()


def test_a_baseline_is_what_relevance_is_counted_from():
    base = np.array([1.0, 2.0], np.float32)  # the first instance of the first bag: of no relevance then
    bags = Bags.of(X)
    s, b = X[0] @ W[:, 0], base @ W[:, 0]
    np.testing.assert_allclose(gradient_times_input(squares, bags, 0, base)[0], 2 * s * (s - b), rtol=1e-6, atol=1e-6)
    found = np.asarray(integrated_gradients(squares, bags, 0, base, steps=4))
    np.testing.assert_allclose(found[0], s**2 - b**2, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def gated():
    return ABMIL((8,), 4).build(5, 2, rngs=nnx.Rngs(0))


def test_integrated_gradients_are_complete(gated):
    rng = np.random.default_rng(0)
    bags = Bags.of([rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 3)])
    compiled = jax.jit(lambda b: integrated_gradients(gated, b, 1, steps=400))
    nothing = gated(replace(bags, x=jnp.zeros_like(bags.x))).logits[:, 1]
    np.testing.assert_allclose(compiled(bags).sum(1), gated(bags).logits[:, 1] - nothing, atol=2e-3)


def test_padding_changes_no_relevance_and_has_none(gated):
    rng = np.random.default_rng(1)
    long, short = (rng.normal(size=(n, 5)).astype(np.float32) for n in (6, 2))
    together, alone = Bags.of([long, short]), Bags.of(short)
    dirty = replace(together, x=jnp.where(together.mask[..., None], together.x, 30.0))
    for how in (attention, instance_scores, gradient_times_input, integrated_gradients):
        expected = np.asarray(how(gated, alone))[0]
        for bags in (together, dirty):
            found = np.asarray(how(gated, bags))[1]
            np.testing.assert_allclose(found[:2], expected, rtol=1e-4, atol=1e-6)
            assert (found[2:] == 0).all()


def test_contributions_are_those_of_an_additive_model_only(gated):
    bags = Bags.of(np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32))
    additive = AdditiveMIL((4,), (4,)).build(5, 1, rngs=nnx.Rngs(0))
    parts = contributions(additive, bags)
    np.testing.assert_allclose(parts.sum(1), additive(bags).logits[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(contributions(squares, Bags.of(X), 1).sum(1), squares(Bags.of(X)).logits[:, 1])
    with pytest.raises(DataError, match="not additive"):
        contributions(gated, bags)


def test_what_a_model_does_not_give_is_an_error():
    module = EmbeddingPooling("mean", encoder=(4,)).build(2, 1, rngs=nnx.Rngs(0))
    with pytest.raises(DataError, match="no attention"):
        attention(lambda bags: Output(module(bags).logits), Bags.of(X))
    with pytest.raises(DataError, match="no instance logits"):
        instance_scores(lambda bags: Output(module(bags).logits), Bags.of(X))
    with pytest.raises(DataError, match="steps"):
        integrated_gradients(module, Bags.of(X), steps=0)
