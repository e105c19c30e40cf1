"""What models over neighbouring tiles have in common: the order of instances does not matter, their places do."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.models import CAMIL, ProbSmoothABMIL, SmABMIL, SmoothABMIL, SmTransformerABMIL, SpatialSparse
from milkit.testing.model_battery import check_permutation
from milkit.types import Bags, Batch


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@dataclass(frozen=True)
class ShuffledSm(SmABMIL):
    """Held to the contract of shuffled instances, which move with their coordinates."""

    position_aware: ClassVar[bool] = False


@dataclass(frozen=True)
class ShuffledSmTransformer(SmTransformerABMIL):
    """Likewise."""

    position_aware: ClassVar[bool] = False


SHUFFLED = [
    SpatialSparse(smoothness=0.0, encoder=(), selector=4, attention=4),
    ShuffledSm("mid", "exact", attention=8),
    ShuffledSmTransformer("late", steps=2, attention=8, heads=2, width=8, mlp=False, add_self=False),
]


@pytest.mark.parametrize("config", SHUFFLED, ids=repr)
def test_shuffled_with_their_places_instances_give_the_same(config):
    check_permutation(config, 6, 1)


@pytest.mark.parametrize(
    "config",
    [SmABMIL(attention=4), SmTransformerABMIL(attention=4, width=8, heads=2), CAMIL(8, 2, 4, attention=4)],
    ids=lambda c: type(c).__name__,
)
def test_places_matter_and_are_asked_for_and_given_neighbours_are_taken(config):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    line, other = (
        np.stack([np.arange(5) * 256, np.zeros(5)], 1),
        np.array([[0, 0], [9, 9], [1, 0], [0, 1], [9, 8]]) * 256,
    )
    module = replace(config, radius_um=300.0).build(3, 1, rngs=nnx.Rngs(0))
    said = jax.jit(lambda bags: module(bags).logits)
    on_a_line, elsewhere = (said(Bags.of(x, xy)) for xy in (line, other))
    assert not np.allclose(on_a_line, elsewhere, atol=1e-4)
    chain = jnp.asarray([[[1, -1], [0, 2], [1, 3], [2, 4], [3, -1]]])
    told = said(replace(Bags.of(x), neighbours=chain))
    np.testing.assert_allclose(told, on_a_line, rtol=1e-6)
    with pytest.raises(DataError, match=f"{type(config).__name__} works on a graph"):
        module(Bags.of(x))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (SmoothABMIL(attention=2, radius_um=300.0), "roughness"),
        (ProbSmoothABMIL(2, 2, attention=2, radius_um=300.0), "divergence"),
        (SpatialSparse(encoder=(), selector=2, attention=2, radius_um=300.0), "roughness"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_what_a_loss_reads_goes_by_places(config, name):
    x, xy = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.stack([np.arange(5), np.zeros(5)], 1)
    near, far = (Bags.of(x, xy * step) for step in (256.0, 512.0))
    module = config.build(3, 1, rngs=nnx.Rngs(0))
    said = jax.jit(lambda bags: module(bags))
    np.testing.assert_allclose(said(near).logits, said(far).logits)
    assert not np.allclose(said(near).extras[name], said(far).extras[name], rtol=1e-3)
    with pytest.raises(DataError, match=f"{type(config).__name__}.* works on a graph"):
        module(Bags.of(x))


def test_a_selection_without_smoothness_looks_at_no_places():
    config = SpatialSparse("topk", 2, smoothness=0.0, encoder=(), selector=2, attention=2)
    bags = Bags.of(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    output = jax.jit(lambda bags: config.build(3, 1, rngs=nnx.Rngs(0))(bags))(bags)
    batch = Batch(bags, jnp.asarray([1]), jnp.ones(1), jnp.asarray([0]))
    assert config.position_aware is False
    assert config.objective(output, batch, lambda logits: logits[:, 0])[1].keys() == {"bag"}
    assert (np.asarray(output.attention) > 0).sum() == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmABMIL(alpha=1.0), "alpha is 1.0; expected"),
        (lambda: SmABMIL(dropout=0.5), "has none"),
        (lambda: SmTransformerABMIL(width=10, heads=4), "width"),
        (lambda: SmTransformerABMIL(layers=0), "layers is 0"),
        (lambda: CAMIL(width=10, heads=4), "width"),
        (lambda: SmoothABMIL(bag_weight=0.0), "bag_weight is 0"),
        (lambda: SmoothABMIL(dropout=0.5), "has none"),
        (lambda: SpatialSparse(k=3), "k is how many tiles"),
        (lambda: SpatialSparse("topk"), "k is how many tiles"),
        (lambda: SpatialSparse(encoder=(), dropout=0.5), "has none"),
        (lambda: ProbSmoothABMIL(draws=0), "draws is 0"),
        (lambda: ProbSmoothABMIL(dropout=0.5), "has none"),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
