"""Raff & Holt's generators hold what the paper says, and tell models that keep an assumption from those that do not."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.metrics import roc_auc_score

from milkit.models import ABMIL, EmbeddingPooling, InstanceNet, InstancePooling
from milkit.testing.algorithmic import (
    ALGORITHMIC_TESTS,
    BACKGROUND,
    CONCEPT_A,
    CONCEPT_B,
    POISON,
    false_frequency,
    multi_concept,
    single_concept,
)
from milkit.types import Bags


def by_label(bags, label):
    """Counts of each kind of instance, for the bags of one label."""
    return [Counter(k.tolist()) for k, y in zip(bags.kinds, bags.labels, strict=True) if y == label]


@pytest.mark.parametrize("draw", [single_concept, multi_concept])
def test_poison_is_in_negative_training_bags_and_positive_test_bags_only(draw):
    drawn = draw(0, bags=40)
    for bags, poisoned in ((drawn.train, 0), (drawn.test, 1)):
        assert all(c[POISON] == 1 for c in by_label(bags, poisoned))
        assert all(c[POISON] == 0 for c in by_label(bags, 1 - poisoned))


def test_single_concept_holds_one_to_three_positives_in_positive_bags_only():
    drawn = single_concept(0, bags=100, background=10)
    for bags in (drawn.train, drawn.test):
        positives = [c[CONCEPT_A] + c[CONCEPT_B] for c in by_label(bags, 1)]
        assert set(positives) == {1, 2, 3}
        assert all(c[CONCEPT_A] + c[CONCEPT_B] == 0 for c in by_label(bags, 0))
        assert all(c[BACKGROUND] == 10 for c in by_label(bags, 0) + by_label(bags, 1))


def test_multi_concept_needs_both_concepts():
    drawn = multi_concept(0, bags=100)
    for bags in (drawn.train, drawn.test):
        assert {c[CONCEPT_A] for c in by_label(bags, 1)} == {1, 2, 3}
        assert all(c[CONCEPT_A] == c[CONCEPT_B] for c in by_label(bags, 1))
        assert {(c[CONCEPT_A], c[CONCEPT_B]) for c in by_label(bags, 0)} == {(1, 0), (0, 1)}
        assert {c[BACKGROUND] for c in by_label(bags, 0)} == set(range(1, 10))


def test_false_frequency_repeats_one_concept_at_test_only_and_draws_both_concepts():
    drawn = false_frequency(0, bags=400)
    for bags, times in ((drawn.train, {1}), (drawn.test, set(range(35, 45)))):
        assert all((c[CONCEPT_A], c[CONCEPT_B]) == (1, 1) for c in by_label(bags, 1))
        negatives = by_label(bags, 0)
        assert {max(c[CONCEPT_A], c[CONCEPT_B]) for c in negatives} == times
        assert all(min(c[CONCEPT_A], c[CONCEPT_B]) == 0 for c in negatives)
        assert 60 < sum(c[CONCEPT_A] > 0 for c in negatives) < 140  # of 200; torchmil's has 200
        assert all(c[POISON] == 0 for c in negatives)


def test_features_have_the_stated_distributions():
    # (mean, sd) of each kind in each test; single_concept's second concept differs from the background by its mean
    expected = {
        "single_concept": {BACKGROUND: (0, 1), CONCEPT_A: (0, 3), CONCEPT_B: (1, 1), POISON: (-10, 0.1)},
        "multi_concept": {BACKGROUND: (0, 1), CONCEPT_A: (2, 0.1), CONCEPT_B: (3, 0.1), POISON: (-10, 0.1)},
        "false_frequency": {BACKGROUND: (0, 1), CONCEPT_A: (2, 0.1), CONCEPT_B: (3, 0.1)},
    }
    for name, (_, draw) in ALGORITHMIC_TESTS.items():
        train = draw(3).train
        x, kinds = np.concatenate(train.x), np.concatenate(train.kinds)
        assert x.dtype == np.float32
        assert set(kinds) == set(expected[name])
        for kind, (mean, sd) in expected[name].items():
            values = x[kinds == kind]
            assert abs(values.mean() - mean) < 5 * sd / np.sqrt(values.size)
            np.testing.assert_allclose(values.std(), sd, rtol=0.1)


def test_draws_repeat_with_the_seed_and_roles_differ():
    a, b, c = single_concept(1), single_concept(1), single_concept(2)
    assert all((x == y).all() for x, y in zip(a.train.x + a.test.x, b.train.x + b.test.x, strict=True))
    assert not np.array_equal(a.train.x[1], c.train.x[1])
    assert a.train.x[0].shape != a.test.x[0].shape or not np.array_equal(a.train.x[0], a.test.x[0])
    assert a.train.labels.sum() == 100


def aurocs(config, drawn, steps=150):
    """AUROC on training and test bags after full-batch Adam."""
    train, test = Bags.of(drawn.train.x), Bags.of(drawn.test.x)
    graph, params = nnx.split(config.build(train.x.shape[2], 1, rngs=nnx.Rngs(0)))
    optimizer, target = optax.adam(1e-2), jnp.asarray(drawn.train.labels, jnp.float32)

    @jax.jit
    def fit(params):
        def loss(params):
            logits = nnx.merge(graph, params)(train).logits[:, 0]
            return optax.sigmoid_binary_cross_entropy(logits, target).mean()

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, steps)[0][0]

    module = nnx.merge(graph, fit(params))
    return [roc_auc_score(r.labels, module(b).logits[:, 0]) for r, b in ((drawn.train, train), (drawn.test, test))]


STANDARD = [InstanceNet((32,), dropout=0.0), InstancePooling("max", encoder=(32,))]
NOT_STANDARD = [ABMIL(encoder=(32,), attention=16), EmbeddingPooling("mean", encoder=(32,))]


@pytest.mark.parametrize("config", STANDARD, ids=repr)
def test_models_that_claim_the_standard_assumption_keep_it(config):
    assert config.claims == {"standard"}
    for seed in range(3):
        train, test = aurocs(config, single_concept(seed))
        assert train > 0.95
        assert test > 0.7, f"seed {seed}: the poison turned the model ({test:.3f})"


@pytest.mark.parametrize("config", NOT_STANDARD, ids=repr)
def test_models_that_do_not_claim_it_are_turned_by_the_poison(config):
    """The test can fail: these two learn "positive unless poisoned" and are wrong about nearly every test bag."""
    assert "standard" not in config.claims
    train, test = aurocs(config, single_concept(0))
    assert train > 0.95
    assert test < 0.5
