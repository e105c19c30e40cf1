"""Bags read in chunks, through the whole engine: the same study, and who is refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.execute import prepare as module
from milkit.execute.chunking import AT_ONCE, held_by_a_run, instances_at_once
from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.execute.spreading import spread_of
from milkit.models import ABMIL, BagStatistics, EmbeddingPooling
from milkit.predictions import Predictions
from milkit.train.state import initial_state
from milkit.train.step import gather, train_step
from milkit.types import Bags


def chunked(experiment, at_once, **train):
    return replace(experiment, train=replace(experiment.train, instances_at_once=at_once, **train))


def after_a_step(experiment):
    """Parameters after one step of SGD on bag 3 in float64, features scaled by the training part."""
    data = prepare(experiment)
    double = lambda tree: jax.tree.map(  # noqa: E731
        lambda a: jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a), tree
    )
    one = lambda tree: jax.tree.map(lambda a: a[0], tree)  # noqa: E731
    group = data.group(0)
    setup, hyper = data.engine.setup, one(double(group.hyper))
    state = double(initial_state(experiment.model, 6, 1, setup.train, group.keys[0]))
    position = (jnp.array(0), jnp.array(0))
    index, weight = jnp.array([3, 5], jnp.int32), jnp.ones(2)
    packed = double(data.engine.data)
    return train_step(setup, 9, packed, hyper, group.keys[0], position, state, index, weight, jnp.array(True))[0].params


@pytest.mark.slow
def test_a_step_in_chunks_is_the_step():
    """In float64, with scaled features; two bags of different lengths."""
    study = planted.experiment(width=4)
    study = replace(study, train=replace(study.train, standardise=True))
    with jax.enable_x64(True):
        whole, parts = after_a_step(study), after_a_step(chunked(study, 2))
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_a_study_in_chunks_is_the_study(tmp_path):
    """The same predictions up to the rounding of its sums; also with instances left out, drawn for the whole bag."""
    for name, how in (("plain", {}), ("drops", {"instance_dropout": 0.3, "max_instances": 7})):
        study = replace(planted.experiment(width=4), seeds=1)
        study = replace(study, train=replace(study.train, **how))
        execute(study, tmp_path / name)
        execute(chunked(study, 3), tmp_path / f"{name}-chunks")
        a, b = (Predictions.read(tmp_path / f / "predictions.csv") for f in (name, f"{name}-chunks"))
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-3, atol=1e-4)
        assert (tmp_path / f"{name}-chunks" / "top_instances.csv").exists()
        said = [json.loads((tmp_path / f / "config.json").read_text()) for f in (name, f"{name}-chunks")]
        assert [config.get("instances_at_once") for config in said] == [None, 3]


@pytest.mark.slow
def test_features_of_a_long_bag_are_not_read_before_a_model_asks():
    """`gather` touches rows and masks only: neither a gather nor a cast of features is traced."""
    data = prepare(chunked(planted.experiment(width=4), 2))
    hyper = jax.tree.map(lambda a: a[0], data.group(0).hyper)
    index, ones = jnp.array([3]), jnp.ones(1)

    def asks(at_once):
        def bags(packed):
            made = gather(packed, hyper, index, ones, 9, at_once=at_once)
            return made.mask if at_once else made.x

        return str(jax.make_jaxpr(bags)(data.engine.data))

    wide = f"f32[1,9,{data.study.features}]"
    assert wide in asks(None)
    assert wide not in asks(2)


def test_models_that_need_a_bag_whole_say_so_before_anything_is_read():
    for model in (BagStatistics(), EmbeddingPooling(pooling="topk", fraction=0.2)):
        with pytest.raises(ConfigError, match="max_instances"):
            replace(planted.experiment(width=4), model=model, train=chunked(planted.experiment(4), 64).train)
    with pytest.raises(ConfigError, match="instances_at_once"):
        chunked(planted.experiment(width=4), 0)


def test_chunks_are_taken_where_a_single_run_would_hold_too_much(monkeypatch):
    """3,000,000 instances of 6 features in a network 512 wide: 12 x 512 x 3e6 bytes = 18 GB; in chunks, 50 MB."""
    study = planted.experiment(width=None)
    data = study.data.load(study.task, study.unit)
    long = replace(data, lengths=np.full(len(data), 3_000_000))
    assert held_by_a_run(study, long) == 12 * 512 * 3_000_000
    assert instances_at_once(study, data, module.GROUP_BYTES) is None
    assert instances_at_once(study, long, module.GROUP_BYTES) == AT_ONCE
    assert held_by_a_run(study, long, AT_ONCE) == 12 * 512 * AT_ONCE
    assert spread_of(study, long, 20).width == 5  # and then many runs fit again
    some = replace(study, train=replace(study.train, instances_at_once=100))
    assert instances_at_once(some, data, module.GROUP_BYTES) == 100
    whole = replace(study, model=BagStatistics())
    assert instances_at_once(whole, long, module.GROUP_BYTES) is None
    assert spread_of(whole, long, 20).width == 1
    monkeypatch.setattr(module, "GROUP_BYTES", 1000)
    assert prepare(study).engine.setup.train.instances_at_once == AT_ONCE


def test_a_model_that_knows_no_chunks_is_given_the_whole_of_a_long_bag():
    """`LongBags.x` is what `Bags.x` is."""
    data = prepare(chunked(planted.experiment(width=4), 2))
    hyper = jax.tree.map(lambda a: a[0], data.group(0).hyper)
    both = [gather(data.engine.data, hyper, jnp.array([3, 4]), jnp.ones(2), 9, at_once=n) for n in (None, 2)]
    assert type(both[0]) is Bags
    assert type(both[1]) is not Bags
    assert (both[0].x == both[1].x).all()
    out = [BagStatistics().build(6, 1, rngs=nnx.Rngs(0))(b).logits for b in both]
    assert (out[0] == out[1]).all()
    assert ABMIL().chunked
