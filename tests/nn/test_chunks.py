"""Pooling in chunks against the same models on whole bags: value, gradient, padding, draws, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.models import (
    ABMIL,
    CLAMMB,
    DSMIL,
    BagNet,
    BagNetDS,
    BagNetRC,
    Chowder,
    DeepSets,
    EmbeddingPooling,
    InstanceNet,
    InstancePooling,
)
from milkit.nn import LongBags, Max, over_instances
from milkit.types import Bags

D, C = 5, 2
LENGTHS = (13, 1, 0, 7)  # one bag is all padding
MODELS = [
    ABMIL(encoder=(6,), attention=4, gated=True, heads=3),
    ABMIL(encoder=(), attention=4, gated=False),
    *(InstancePooling(pooling=p, encoder=(6,)) for p in ("mean", "max", "lse", "gm")),
    InstancePooling(pooling="topk", encoder=(6,), fraction=0.3),
    *(EmbeddingPooling(pooling=p, encoder=(6,), head=(4,)) for p in ("mean", "max", "lse", "gm")),
    EmbeddingPooling(pooling="topk", encoder=(6,), k=3),
    *(InstanceNet(widths=(6, 4), pooling=p, dropout=0.0) for p in ("max", "mean", "lse")),
    *(BagNet(widths=(6, 4), pooling=p, dropout=0.0) for p in ("max", "mean", "lse")),
    BagNetDS(widths=(6, 4), pooling="lse", dropout=0.0),
    BagNetRC(widths=(6, 6), pooling="mean", dropout=0.0),
    CLAMMB(encoder=(6,), attention=4, dropout=0.0, k=3),
    DSMIL(encoder=(6,), query=4, values=3),
    Chowder(top=3, bottom=2, encoder=(6,), head=(4,)),
    DeepSets(encoder=(6,), head=(4,), dropout=0.0),
    ABMIL(encoder=(6,), attention=4, head=(5,)),
]


def long_bags(packed, rows, mask, at_once):
    """Long bags over rows of `packed`; padding holds what `read` must hide."""

    def read(rows, mask):
        return jnp.where(mask[..., None], packed[rows], 0)

    return LongBags(read, rows, mask, at_once)


def example(dtype=np.float64, garbage=1e3, lengths=LENGTHS):
    """(packed instances, rows, mask) of some bags; the last packed row is what padding points at."""
    rng = np.random.default_rng(0)
    packed = np.concatenate([rng.normal(size=(sum(lengths), D)), np.full((1, D), garbage)]).astype(dtype)
    rows = np.full((len(lengths), max(lengths)), len(packed) - 1, np.int32)
    starts = np.cumsum((0, *lengths))
    for i, n in enumerate(lengths):
        rows[i, :n] = np.arange(starts[i], starts[i + 1])
    return jnp.asarray(packed), jnp.asarray(rows), jnp.asarray(rows < len(packed) - 1)


def taken_apart(model, dtype=jnp.float64):
    graph, params, rest = nnx.split(model.build(D, C, rngs=nnx.Rngs(3)), nnx.Param, ...)
    return graph, jax.tree.map(lambda a: a.astype(dtype), params), rest


def loss_and_gradient(model, bags_of, params, graph, rest, packed):
    """A scalar that every field of the output enters, with its gradient by parameters and by features."""

    def loss(params, packed):
        out = nnx.merge(graph, params, rest, copy=True)(bags_of(packed), deterministic=True)
        fields = [out.logits, out.attention, out.instance_logits, out.embedding, *out.extras.values()]
        total = sum(
            jnp.sum(jnp.sin(1.7 * f) * jnp.cos(jnp.arange(f.size, dtype=f.dtype)).reshape(f.shape))
            for f in fields
            if f is not None and jnp.issubdtype(f.dtype, jnp.floating)
        )
        return total, out

    (value, out), gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, packed)
    return value, out, gradient


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{type(m).__name__}-{getattr(m, 'pooling', m)}"[:40])
def test_value_and_gradient_are_those_of_the_whole_bag(model):
    """In float64 to 1e-10: every field of the output, and the gradients by parameters and by features."""
    with jax.enable_x64(True):
        packed, rows, mask = example()
        graph, params, rest = taken_apart(model)
        whole = lambda p: Bags(jnp.where(mask[..., None], p[rows], 0), mask)  # noqa: E731
        want = loss_and_gradient(model, whole, params, graph, rest, packed)
        for at_once in (5, 40):  # several chunks with a remainder; more room than needed
            chunked = lambda p, m=at_once: long_bags(p, rows, mask, m)  # noqa: E731
            got = loss_and_gradient(model, chunked, params, graph, rest, packed)
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                assert a.dtype == b.dtype in (jnp.float64, jnp.bool_)
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("model", [MODELS[0], MODELS[7], MODELS[10]], ids=["attention", "mean", "gm"])
def test_padding_and_what_it_holds_change_nothing(model):
    packed, rows, mask = example(np.float32)
    graph, params, rest = taken_apart(model, jnp.float32)
    wider = jnp.pad(rows, ((0, 0), (0, 9)), constant_values=len(packed) - 1)
    outputs = [
        nnx.merge(graph, params, rest)(long_bags(packed, r, m, 4))
        for r, m in ((rows, mask), (wider, jnp.pad(mask, ((0, 0), (0, 9)))))
    ]
    np.testing.assert_allclose(outputs[0].logits, outputs[1].logits, rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
    if outputs[1].attention is not None:
        assert (np.asarray(outputs[1].attention)[:, 13:] == 0).all()
        np.testing.assert_allclose(np.asarray(outputs[1].attention).sum(1)[[0, 1, 3]], 1.0, rtol=1e-6)


def test_ties_share_the_gradient_of_a_maximum_in_whatever_chunks_they_lie():
    """Four instances, the highest three times, in chunks of two: a third each; worked by hand."""
    x = jnp.array([[[2.0], [1.0], [2.0], [2.0]]])
    mask = jnp.ones((1, 4), bool)

    def pooled(x):
        bags = LongBags(lambda r, m: x[:, r[0]] * m[..., None], jnp.arange(4)[None], mask, 2)
        return over_instances(bags, lambda x, _: ((x,), None), (Max(),))[0][0][0, 0]

    value, gradient = jax.value_and_grad(pooled)(x)
    assert value == 2.0
    np.testing.assert_allclose(gradient[0, :, 0], [1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.slow
def test_what_is_not_finite_in_a_bag_stays_so():
    """A NaN in any chunk must reach the loss: a run is stopped by it, not quietly trained on the rest."""
    packed, rows, mask = example(np.float32)
    for model in MODELS:
        graph, params, rest = taken_apart(model, jnp.float32)
        for bad in (2, 12):
            out = nnx.merge(graph, params, rest)(long_bags(packed.at[bad].set(jnp.nan), rows, mask, 5))
            assert not np.isfinite(np.asarray(out.logits)[0]).any(), model
            assert np.isfinite(np.asarray(out.logits)[3]).all(), model


def test_every_chunk_has_its_own_draws():
    """With dropout, equal instances in different chunks are dropped differently; the same key draws the same."""
    graph, params, rest = nnx.split(
        ABMIL(encoder=(16,), attention=4, dropout=0.5).build(D, C, rngs=nnx.Rngs(0)), nnx.Param, ...
    )
    rows, mask = jnp.zeros((1, 12), jnp.int32), jnp.ones((1, 12), bool)
    packed = jnp.ones((1, D))

    def said(key):
        module = nnx.merge(graph, params, rest, copy=True)
        return module(long_bags(packed, rows, mask, 4), deterministic=False, rngs=nnx.Rngs(key)).instance_logits[0]

    one, again, other = said(jax.random.key(1)), said(jax.random.key(1)), said(jax.random.key(2))
    assert (one == again).all()
    assert not (one == other).all()
    assert not (one[:4] == one[4:8]).all()
    assert not (one[4:8] == one[8:]).all()


def test_a_share_of_all_values_cannot_be_carried():
    model = EmbeddingPooling(pooling="topk", fraction=0.5, encoder=(4,))
    assert not model.chunked
    assert EmbeddingPooling(pooling="topk", k=2).chunked
    with pytest.raises(ConfigError, match="instances_at_once"):
        model.build(D, C, rngs=nnx.Rngs(0))(long_bags(*example(np.float32), 4))


def held_bytes(n, at_once, model, d=64):
    """Temporary bytes of a compiled gradient step on one bag of n half-precision instances."""
    graph, params, rest = nnx.split(model.build(d, 1, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, packed):
        rows, mask = jnp.arange(n, dtype=jnp.int32)[None], jnp.ones((1, n), bool)

        def read(rows, mask):
            return jnp.where(mask[..., None], packed[rows].astype(jnp.float32), 0)

        bags = LongBags(read, rows, mask, at_once)
        return nnx.merge(graph, params, rest, copy=True)(bags).logits.sum()

    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    compiled = jax.jit(jax.grad(loss)).lower(shapes, jax.ShapeDtypeStruct((n, d), jnp.float16)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "model",
    [ABMIL(encoder=(64,), attention=16), EmbeddingPooling(encoder=(64,)), BagNet(widths=(64, 32), dropout=0.0)],
    ids=lambda m: type(m).__name__,
)
def test_memory_is_that_of_a_chunk_and_not_of_the_bag(model):
    """Eight times the instances: what is held grows by scores, rows and masks alone, 64 bytes an instance at most."""
    short, long = held_bytes(4096, 512, model), held_bytes(32768, 512, model)
    assert long < short + 64 * (32768 - 4096)
    assert long < held_bytes(32768, 32768, model) / 4
