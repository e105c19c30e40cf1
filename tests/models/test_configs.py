"""What is particular to single models: values by hand, refusals, and the list of models."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.models import ABMIL, BagStatistics, EmbeddingPooling, InstancePooling, Model, PatchCNN
from milkit.types import Bags

POSITION_AWARE = {
    "TransMIL",
    "S4MIL",
    "SmABMIL",
    "RRT",
    "PatchGCN",
    "SmTransformerABMIL",
    "SETMIL",
    "MambaMIL",
    "DeepGraphSurv",
    "SmoothABMIL",
    "ProbSmoothABMIL",
    "SumOfPatches",
    "GTP",
    "PSDeVCEM",
    "CAMIL",
    "SpatialSparse",
}
"""Models for which the order or the places of instances matter."""
BAGS = Bags.of([np.array([[1.0, -2.0], [3.0, 4.0]], np.float32), np.array([[5.0, 0.0]], np.float32)])


@pytest.mark.parametrize("kind", get_args(Model), ids=lambda k: k.__name__)
def test_every_model_declares_what_it_claims_and_describes_itself(kind):
    config = kind()
    assert config.claims <= {"standard", "threshold", "collective"}
    assert config.claims
    assert config.position_aware is (kind.__name__ in POSITION_AWARE)
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")


def test_only_a_maximum_over_scores_claims_the_standard_assumption():
    assert InstancePooling("max").claims == InstancePooling("topk", k=1).claims == {"standard"}
    for config in (InstancePooling("mean"), InstancePooling("topk", k=2), EmbeddingPooling("max"), ABMIL()):
        assert config.claims == {"collective"}


def test_bag_statistics_by_hand():
    output = BagStatistics().build(2, 1, rngs=nnx.Rngs(0))(BAGS)
    # mean, sd (n), min, max of each of two features
    assert output.embedding.tolist() == [[2, 1, 1, 3, 1, -2, 3, 4], [5, 0, 0, 0, 5, 0, 5, 0]]
    assert (output.logits == 0).all()  # starts at zero, as solvers of logistic regression do
    picked = BagStatistics(("max", "mean")).build(2, 1, rngs=nnx.Rngs(0))(BAGS)
    assert picked.embedding.tolist() == [[3, 4, 2, 1], [5, 0, 5, 0]]


def linear_scores(module, kernel, bias):
    module.scorer.kernel[...], module.scorer.bias[...] = jnp.array(kernel), jnp.array(bias)
    return module(BAGS)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # scores x1 + x2: bag 0 has -1 and 7, bag 1 has 5
        (InstancePooling("mean", ()), [3.0, 5.0]),
        (InstancePooling("max", ()), [7.0, 5.0]),
        (InstancePooling("lse", (), r=1.0), [np.log((np.exp(-1) + np.exp(7)) / 2), 5.0]),
        (InstancePooling("topk", (), k=2), [3.0, 5.0]),
        (InstancePooling("topk", (), fraction=0.5), [7.0, 5.0]),
    ],
    ids=repr,
)
def test_linear_instance_model_by_hand(config, expected):
    output = linear_scores(config.build(2, 1, rngs=nnx.Rngs(0)), [[1.0], [1.0]], [0.0])
    np.testing.assert_allclose(output.logits[:, 0], expected, rtol=1e-6)
    assert output.instance_logits[..., 0].tolist() == [[-1.0, 7.0], [5.0, 0.0]]


def test_gm_in_instance_space_with_r_1_is_the_mean_probability():
    output = linear_scores(InstancePooling("gm", (), r=1.0).build(2, 1, rngs=nnx.Rngs(0)), [[1.0], [1.0]], [0.0])
    p = 1 / (1 + np.exp(-np.array([-1.0, 7.0])))
    np.testing.assert_allclose(jax.nn.sigmoid(output.logits[0, 0]), p.mean(), rtol=1e-6)


def test_embedding_pooling_pools_before_it_classifies():
    module = EmbeddingPooling("max", ()).build(2, 1, rngs=nnx.Rngs(0))
    module.classifier.kernel[...], module.classifier.bias[...] = jnp.array([[1.0], [-1.0]]), jnp.array([0.5])
    output = module(BAGS)
    assert output.embedding.tolist() == [[3.0, 4.0], [5.0, 0.0]]
    assert output.logits.tolist() == [[-0.5], [5.5]]


def test_heads_are_concatenated_and_an_instance_alone_gives_its_own_logits():
    module = ABMIL(encoder=(4,), attention=3, heads=2).build(2, 1, rngs=nnx.Rngs(0))
    output = module(BAGS)
    assert output.attention.shape == (2, 2, 2)
    assert output.embedding.shape == (2, 8)
    np.testing.assert_allclose(output.instance_logits[1, 0], output.logits[1], rtol=1e-5)


def test_float64_bags_are_computed_in_float64():
    for kind in get_args(Model):
        config = PatchCNN(channels=2, filters=(), kernels=()) if kind is PatchCNN else kind()  # one pixel
        graph, state = nnx.split(nnx.eval_shape(lambda config=config: config.build(2, 1, rngs=nnx.Rngs(0))))
        with jax.enable_x64(True):
            places = jnp.asarray([[[0, 0], [256, 0]], [[0, 0], [0, 0]]], jnp.float32)
            bags = Bags(jnp.asarray(np.asarray(BAGS.x, np.float64)), BAGS.mask, places)
            said = jax.eval_shape(lambda s, b, graph=graph: nnx.merge(graph, s)(b).logits, state, bags)
            assert said.dtype == jnp.float64, kind.__name__


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InstancePooling("topk"), "give one of them"),
        (lambda: InstancePooling("topk", k=2, fraction=0.1), "give one of them"),
        (lambda: InstancePooling("topk", fraction=1.5), r"in \[0, 1\]"),
        (lambda: InstancePooling("topk", k=-1), "k is -1"),
        (lambda: InstancePooling("max", k=2), "pooling='topk' only"),
        (lambda: InstancePooling("lse", r=0.0), "above 0"),
        (lambda: InstancePooling("max", (), dropout=0.5), "has none"),
        (lambda: EmbeddingPooling("gm", ()), "not negative"),
        (lambda: EmbeddingPooling("gm", r=0.5), "r >= 1"),
        (lambda: EmbeddingPooling("max", (), dropout=0.5), "have none"),
        (lambda: ABMIL(encoder=(), dropout=0.5), "has none"),
        (lambda: ABMIL(heads=0), "at least 1"),
        (lambda: BagStatistics(("mean", "mean")), "none twice"),
        (lambda: BagStatistics(()), "at least one"),
    ],
)
def test_contradictions_are_refused_when_the_config_is_made(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
