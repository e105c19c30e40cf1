"""Wang et al.'s four networks against the paper's formulas in plain numpy, one bag at a time and with probabilities.

No arrays of the authors' code exist for them, so this reference was written from the paper's description: it works
on one unpadded bag in float64, keeps the sigmoids where the paper has them, and shares no line with milkit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.models import BagNet, BagNetDS, BagNetRC, InstanceNet
from milkit.nn.dropout import Rate
from milkit.types import Bags, Batch

D, LENGTHS = 7, (4, 1, 6)
POOL = {
    "max": lambda v: v.max(0),
    "mean": lambda v: v.mean(0),
    "lse": lambda v: np.log(np.exp(v).mean(0)),
}


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def relu(v):
    return np.maximum(v, 0)


def make(config):
    """A module whose biases are not zero, its weights as float64 arrays by path, and three bags."""
    module = config.build(D, 1, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    weights = {}
    for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        leaf[...] = leaf[...] + jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32)
        weights["/".join(map(str, path))] = np.asarray(leaf[...], np.float64)
    return module, weights, [rng.normal(size=(n, D)).astype(np.float32) for n in LENGTHS]


def layers(weights, x):
    """Outputs of the three layers for one bag."""
    outputs = []
    for i in range(3):
        x = relu(x @ weights[f"trunk/layers/{i}/kernel"] + weights[f"trunk/layers/{i}/bias"])
        outputs.append(x)
    return outputs


def unit(weights, name, v):
    """The paper's last layer: one sigmoid unit."""
    return sigmoid(v @ weights[f"{name}/kernel"] + weights[f"{name}/bias"])


def paper_instance_net(w, x, pool):
    return POOL[pool](unit(w, "scorer", layers(w, x)[-1]))


def paper_bag_net(w, x, pool):
    return unit(w, "classifier", POOL[pool](layers(w, x)[-1]))


def paper_levels(w, x, pool):
    return np.array([unit(w, f"classifiers/{i}", POOL[pool](h)) for i, h in enumerate(layers(w, x))])


def paper_deep_supervision(w, x, pool):
    return paper_levels(w, x, pool).mean(0)


def paper_residual(w, x, pool):
    return unit(w, "classifier", sum(POOL[pool](h) for h in layers(w, x)))


PAPER = {
    InstanceNet: paper_instance_net,
    BagNet: paper_bag_net,
    BagNetDS: paper_deep_supervision,
    BagNetRC: paper_residual,
}


@pytest.mark.parametrize("pool", POOL)
@pytest.mark.parametrize("kind", PAPER, ids=lambda k: k.__name__)
def test_bag_probability_is_the_papers(kind, pool):
    module, weights, bags = make(kind(pooling=pool))
    got = sigmoid(np.asarray(jax.jit(lambda b: module(b).logits)(Bags.of(bags)), np.float64))
    np.testing.assert_allclose(got, [PAPER[kind](weights, x, pool) for x in bags], rtol=1e-5)


def test_widths_are_the_papers():
    shapes = {kind: [layer.kernel.shape for layer in make(kind())[0].trunk.layers] for kind in PAPER}
    assert shapes.pop(BagNetRC) == [(D, 128), (128, 128), (128, 128)]
    assert all(s == [(D, 256), (256, 128), (128, 64)] for s in shapes.values())


def test_instance_scores_are_the_papers():
    module, weights, bags = make(InstanceNet())
    scores = module(Bags.of(bags)).instance_logits
    for i, x in enumerate(bags):
        want = unit(weights, "scorer", layers(weights, x)[-1])
        np.testing.assert_allclose(sigmoid(np.asarray(scores[i, : len(x)], np.float64)), want, rtol=1e-5)


@pytest.mark.parametrize("kind", [BagNet, BagNetDS, BagNetRC], ids=lambda k: k.__name__)
def test_instance_logits_are_those_of_a_bag_that_holds_it_alone(kind):
    module, _, bags = make(kind())
    together = module(Bags.of(bags)).instance_logits[2, :6, 0]
    alone = module(Bags.of([x[None] for x in bags[2]])).logits[:, 0]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_deep_supervision_is_trained_on_the_sum_of_the_levels_losses():
    config = BagNetDS()
    module, weights, bags = make(config)
    batch = Batch(Bags.of(bags), jnp.array([1, 0, 1]), jnp.ones(3), jnp.arange(3))
    target = np.array([1.0, 0.0, 1.0])
    loss, parts = config.objective(
        module(batch.bags),
        batch,
        lambda logits: optax.sigmoid_binary_cross_entropy(logits[:, 0], jnp.asarray(target, jnp.float32)),
    )
    p = np.array([paper_levels(weights, x, "max")[:, 0] for x in bags])  # [bags, levels]
    want = -(target[:, None] * np.log(p) + (1 - target[:, None]) * np.log(1 - p))
    np.testing.assert_allclose(loss, want.sum(1), rtol=1e-5)
    assert list(parts) == ["level1", "level2", "level3"]
    np.testing.assert_allclose(parts["level2"], want[:, 1], rtol=1e-5)


def test_average_of_logits():
    module, weights, bags = make(BagNetDS(average="logits"))
    p = paper_levels(weights, bags[0], "max")
    np.testing.assert_allclose(module(Bags.of(bags[0])).logits[0], np.log(p / (1 - p)).mean(0), rtol=1e-4)


@pytest.mark.parametrize("kind", [BagNetDS, BagNetRC], ids=lambda k: k.__name__)
def test_dropout_acts_on_the_way_to_the_pooling_and_not_between_layers(kind):
    """At rate 1 nothing reaches a pooling: the logits are what the last layers make of zeros."""
    module, weights, bags = make(kind(dropout=0.5))
    rates = nnx.state(module, Rate)
    nnx.update(module, jax.tree.map(jnp.ones_like, rates))  # a configuration refuses 1; the layer itself does not
    output = module(Bags.of(bags), deterministic=False, rngs=nnx.Rngs(0))
    assert (output.embedding == 0).all()
    if kind is BagNetRC:
        np.testing.assert_allclose(output.logits, np.tile(weights["classifier/bias"], (3, 1)), rtol=1e-6)
    # Between the layers nothing is dropped: what is dropped at rate .5 is a scaled copy or zero of what is not.
    module, *_ = make(kind(dropout=0.5))
    (*_, free) = module.trunk(Bags.of(bags).x, True, None, every=True)
    (*_, dropped) = module.trunk(Bags.of(bags).x, False, nnx.Rngs(0), every=True)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 2 * free[kept], rtol=1e-5)
    assert 0.3 < kept.mean() / (free != 0).mean() < 0.7


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="equal"):
        BagNetRC(widths=(128, 64))
    for kind in PAPER:
        with pytest.raises(ConfigError, match="no layer"):
            kind(widths=())
