"""The run axis: bits, companions, fillers, and what a step may not change."""

import copy
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import planted
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from milkit.errors import ConfigError
from milkit.execute.prepare import prepare
from milkit.models import ABMIL
from milkit.task import Binary
from milkit.train.config import Adam, Sgd, Train
from milkit.train.engine import run_key, train_epoch
from milkit.train.fit import fit, start
from milkit.train.run_axis import Spread
from milkit.train.state import forward, graph_of, initial_state
from milkit.train.step import gather, judge_epoch, subsample, train_step
from milkit.types import Bags, Output


def trained(prepared, runs, epochs=None):
    """Train the given runs side by side; the states with a leading run axis."""
    prepared = replace(prepared, runs=tuple(runs))
    group = prepared.group(0)
    engine = prepared.engine
    part = engine.part(group.validation, [s.validation for s in prepared.plan.splits])
    state = start(engine, prepared.experiment.model, prepared.study.features, prepared.out_features, group)
    return fit(engine, group, state, part, lambda *_: None)


def same_bits(a, b):
    return all(
        (np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def prepared(experiment):
    return prepare(experiment)


def slot(run, i):
    return replace(run, program=0, slot=i)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2])
def test_how_many_blocks_share_a_program_changes_no_bit(experiment, width):
    """Four runs in blocks of one width: in one program, and in programs of one block, on one device and on two."""
    assert len(jax.devices()) >= 2
    data = prepare(replace(experiment, train=replace(experiment.train, patience=2)))
    runs = data.runs[:4]

    def states(spread, runs):
        engine = copy.copy(data.engine)
        engine._given, engine.data = spread, spread.put(data.engine.data)
        part = replace(data, engine=engine, width=len(runs))
        return trained(part, [slot(r, i) for i, r in enumerate(runs)])

    together = states(Spread(width, 1), runs)
    alone = [states(Spread(width, 1), runs[i : i + width]) for i in range(0, 4, width)]
    assert same_bits(together, jax.tree.map(lambda *parts: np.concatenate(parts), *alone))
    # XLA compiles another program for two devices, so bits may differ from those of one; not between slots
    shared = states(Spread(width, 2), runs)
    other = states(Spread(width, 2), runs[2:] + runs[:2])
    assert same_bits(shared, jax.tree.map(lambda x: np.roll(x, 2, axis=0), other))
    for a, b in zip(jax.tree.leaves(shared.params), jax.tree.leaves(together.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_epoch_on_two_devices_is_that_on_one_in_float64(experiment):
    with jax.enable_x64(True):
        data = prepare(experiment)
        double = lambda tree: jax.tree.map(  # noqa: E731
            lambda a: jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a), tree
        )
        group = data.group(0)
        group = group._replace(hyper=double(group.hyper))
        states = []
        for devices in (1, 2):
            engine = copy.copy(data.engine)
            engine._given = Spread(1, devices)
            engine.data = engine._given.put(double(data.engine.data))
            start_state = jax.tree.map(np.asarray, double(data.first_state(0, group)))
            states.append(engine.epoch(group, jax.tree.map(jnp.asarray, start_state), 0, None)[0])
        for a, b in zip(*(jax.tree.leaves(s.params) for s in states), strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        assert not same_bits(states[0].params, double(data.first_state(0, group)).params)


def test_other_slots_and_companions_give_the_same_bits(prepared):
    runs = prepared.runs
    first = trained(prepared, [slot(r, i) for i, r in enumerate(runs[:4])])
    # run 2 again, in another slot, beside other companions
    other = trained(prepared, [slot(r, i) for i, r in enumerate([runs[5], runs[2], runs[4], runs[0]])])
    of = lambda state, i: jax.tree.map(lambda a: a[i], state)  # noqa: E731
    assert same_bits(of(first, 2), of(other, 1))
    assert same_bits(of(first, 0), of(other, 3))
    # and a program that is filled up with dummies
    alone = trained(prepared, [slot(runs[2], 0)])
    assert same_bits(of(first, 2), of(alone, 0))
    assert not same_bits(of(first, 2).params, of(first, 0).params)


def test_one_run_is_many_runs_of_one(experiment):
    """A step's gradient in float64 does not depend on how many runs share the program."""
    with jax.enable_x64(True):
        data = prepare(experiment)
        wide = data.group(0)
        setup, model = data.engine.setup, data.experiment.model
        double = lambda tree: jax.tree.map(  # noqa: E731
            lambda a: jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a), tree
        )
        packed, hyper = double(data.engine.data), double(wide.hyper)
        states = double(jax.vmap(lambda k: initial_state(model, 6, 1, setup.train, k))(wide.keys))
        step = lambda h, k, s, i, w: train_step(  # noqa: E731
            setup, 9, packed, h, k, (jnp.array(0), jnp.array(0)), s, i, w, jnp.array(True)
        )[0]
        index = jnp.array([[1], [4], [7], [2]], jnp.int32)
        weight = jnp.ones((4, 1))
        together = jax.vmap(step)(hyper, wide.keys, states, index, weight)
        for i in range(4):
            one = lambda tree: jax.tree.map(lambda a: a[i], tree)  # noqa: B023, E731
            alone = step(one(hyper), wide.keys[i], one(states), index[i], weight[i])
            for a, b in zip(jax.tree.leaves(one(together.params)), jax.tree.leaves(alone.params), strict=True):
                assert a.dtype == jnp.float64
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def one_step(experiment, weight, optimizer=None, **train):
    data = prepare(replace(experiment, train=replace(experiment.train, optimizer=optimizer or Adam(0.1), **train)))
    group = data.group(0)
    one = lambda tree: jax.tree.map(lambda a: a[0], tree)  # noqa: E731
    hyper, key = one(group.hyper), group.keys[0]
    state = initial_state(data.experiment.model, 6, 1, data.experiment.train, key)
    args = (data.engine.setup, 9, data.engine.data, hyper, key, (jnp.array(0), jnp.array(0)))
    new, _ = train_step(*args, state, jnp.array([3]), jnp.array([weight]), jnp.array(weight > 0))
    # a second step, so that Adam has moments to carry
    new2, _ = train_step(*args, new, jnp.array([3]), jnp.array([0.0]), jnp.array(False))
    return state, new, new2


@pytest.mark.slow
def test_a_step_of_weight_zero_changes_nothing(experiment):
    state, moved, still = one_step(experiment, 1.0)
    assert not same_bits(state.params, moved.params)
    assert same_bits(moved, still)


@pytest.mark.slow
def test_the_update_is_optax_on_the_gradient_of_one_bag(experiment):
    """An independent path to the same numbers: Flax module, optax.sgd, one bag without padding."""
    state, moved, _ = one_step(experiment, 1.0, Sgd(0.5, momentum=0.9))
    data = prepare(experiment)
    graph = graph_of(experiment.model, 6, 1)
    bag, label = data.study.read(3), float(data.study.targets.values[3])

    def loss(params):
        module = nnx.merge(graph, params, state.buffers)
        logit = module(Bags.of(bag.x)).logits[0, 0]
        return optax.sigmoid_binary_cross_entropy(logit, label)

    tx = optax.sgd(0.5, momentum=0.9)
    step, _ = tx.update(jax.grad(loss)(state.params), tx.init(state.params))
    expected = optax.apply_updates(state.params, step)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(moved.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_accumulated_steps_are_one_step_on_the_batch(experiment):
    """Two bags in one step, and the same two bags accumulated, move the parameters alike."""
    optimizer = Sgd(0.5, momentum=0.0)
    data = prepare(replace(experiment, train=replace(experiment.train, optimizer=optimizer, accumulate=2)))
    hyper = jax.tree.map(lambda a: a[0], data.group(0).hyper)
    key = run_key(0, 0, 0, 0, 0)
    args = (9, data.engine.data, hyper, key, (jnp.array(0), jnp.array(0)))
    setup = data.engine.setup
    begin = lambda s: initial_state(experiment.model, 6, 1, s.train, key)  # noqa: E731
    one = jnp.ones(1)
    state, _ = train_step(setup, *args, begin(setup), jnp.array([3]), one, jnp.array(False))
    assert same_bits(state.params, begin(setup).params)  # only gathered so far
    state, _ = train_step(setup, *args, state, jnp.array([4]), one, jnp.array(True))
    whole = setup._replace(train=replace(setup.train, accumulate=1))
    both, _ = train_step(whole, *args, begin(whole), jnp.array([3, 4]), jnp.ones(2), jnp.array(True))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(both.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert float(state.gradient_weight) == 0.0


def test_standardised_features_have_mean_zero_and_sd_one_on_the_runs_own_training_part(experiment):
    data = prepare(replace(experiment, train=replace(experiment.train, standardise=True)))
    for split, hyper in zip(data.plan.splits, data.hyper, strict=True):
        bags = gather(data.engine.data, hyper, jnp.asarray(split.train), jnp.ones(len(split.train)), 9)
        x = np.asarray(bags.x)[np.asarray(bags.mask)]
        np.testing.assert_allclose(x.mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(x.std(0), 1.0, rtol=1e-5)


def testsubsample_draws_without_replacement_and_all_instances_alike():
    n, length = 11, 4
    draw = jax.jit(jax.vmap(lambda k: subsample(k, jnp.array([[n]]), length)[0]))
    places = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))
    assert all(len(set(row)) == length for row in places[:200].tolist())
    share = np.bincount(places.ravel(), minlength=n) / len(places)
    # binomial standard error .0034; four of them
    np.testing.assert_allclose(share, length / n, atol=0.014)


def test_instance_dropout_keeps_one_and_has_the_right_rate(experiment):
    data = prepare(experiment)
    hyper = data.hyper[0]
    index = jnp.full(2000, int(np.argmax(data.study.lengths)))
    train = Train(instance_dropout=0.75)
    bags = gather(data.engine.data, hyper, index, jnp.ones(2000), 9, jax.random.key(0), train)
    kept = np.asarray(bags.mask).sum(1)
    n = int(data.study.lengths.max())
    assert kept.min() == 1
    # kept ~ Binomial(n, 1/4), with 0 turned into 1
    expected = n / 4 + 0.75**n
    assert kept.mean() == pytest.approx(expected, abs=4 * np.sqrt(n * 3 / 16 / 2000))


def test_patience_stops_a_run_and_keeps_its_best_epoch(experiment):
    train = replace(experiment.train, optimizer=Sgd(0.0), epochs=6, patience=2)
    data = prepare(replace(experiment, train=train))
    seen = []
    group = data.group(0)
    part = data.engine.part(group.validation, [s.validation for s in data.plan.splits])
    state = start(data.engine, train_model := data.experiment.model, 6, 1, group)
    assert train_model == ABMIL(encoder=(8,), attention=4)
    fit(data.engine, group, state, part, lambda e, s, log: seen.append(log))
    # nothing learns, so the first epoch stays best and the third is the last
    assert len(seen) == 3
    assert (seen[-1].best_epoch == 0).all()


def test_a_non_finite_loss_freezes_its_run_and_names_the_bag(experiment):
    data = prepare(experiment)
    bad = data.engine.data._replace(x=data.engine.data.x.at[int(data.engine.data.offsets[5])].set(jnp.nan))
    engine = data.engine
    engine.data = bad
    group = data.group(0)
    state = start(engine, experiment.model, 6, 1, group)
    before = jax.device_get(state.params)
    state, log = engine.epoch(group, state, 0, None)
    for i in range(4):
        if 5 in group.train[i]:
            assert log.failed[i]
            assert int(state.failed_bag[i]) == 5
            assert all(np.isfinite(np.asarray(p)[i]).all() for p in jax.tree.leaves(state.params))
        else:
            assert not log.failed[i]
    assert not same_bits(before, state.params)


def test_an_epoch_compiles_once_for_all_programs_and_never_calls_back(experiment):
    data = prepare(replace(experiment, train=replace(experiment.train, epochs=2)))  # of no other test: not yet compiled
    before = train_epoch._cache_size()
    for program in range(data.programs):
        trained(data, [slot(r, i) for i, r in enumerate(data.members(program))])
    assert train_epoch._cache_size() - before == 1
    group = data.group(0)
    state = start(data.engine, experiment.model, 6, 1, group)
    text = data.engine.lower(group, state).as_text()
    assert "callback" not in text


@pytest.mark.slow
def test_dropout_draws_differ_between_runs_and_follow_the_key():
    model = ABMIL(encoder=(32,), attention=4, dropout=0.5)
    graph = graph_of(model, 6, 1)
    state = initial_state(model, 6, 1, Train(), jax.random.key(0))
    bags = Bags.of(np.ones((3, 6), np.float32))
    out = [
        float(forward(graph, state.params, state.buffers, bags, jax.random.key(k))[0].logits[0, 0]) for k in (1, 1, 2)
    ]
    assert out[0] == out[1] != out[2]


def test_a_gradient_that_is_not_finite_fails_at_its_own_step(experiment):
    """The loss is finite: without the check the next bag would be blamed, and the parameters would be lost."""
    data = prepare(experiment)
    broken = data.engine.setup._replace(
        objective=lambda output, batch, bag_loss: (
            bag_loss(output.logits) + jnp.where(batch.index == 5, jnp.sqrt(0.0 * output.logits[:, 0]), 0.0),
            {},
        )
    )
    data.engine.setup = broken
    group = data.group(0)
    state = start(data.engine, experiment.model, 6, 1, group)
    state, log = data.engine.epoch(group, state, 0, None)
    for i in range(4):
        if 5 in group.train[i]:
            assert log.failed[i]
            assert int(state.failed_bag[i]) == 5 or int(state.failed_step[i]) >= 0
            assert all(np.isfinite(np.asarray(p)[i]).all() for p in jax.tree.leaves(state.params))


def test_a_finished_run_learns_no_more(experiment):
    data = prepare(experiment)
    group = data.group(0)
    state = start(data.engine, experiment.model, 6, 1, group)
    state = state._replace(finished=jnp.array([True, False, True, False]))
    before = jax.device_get(state)
    after, _ = data.engine.epoch(group, state, 0, None)
    of = lambda tree, i: jax.tree.map(lambda a: np.asarray(a)[i], tree)  # noqa: E731
    assert same_bits(of(before, 0), of(after, 0))
    assert same_bits(of(before, 2), of(after, 2))
    assert not same_bits(of(before, 1).params, of(after, 1).params)


def test_an_undefined_criterion_never_wins_over_a_defined_one(experiment):
    """One class in the validation part: AUROC is undefined, whatever the loss."""
    train = replace(experiment.train, select="auroc")
    data = prepare(replace(experiment, train=train))
    one = lambda tree: jax.tree.map(lambda a: a[0], tree)  # noqa: E731
    group = data.group(0)
    state = one(start(data.engine, experiment.model, 6, 1, group))
    judge = lambda state, epoch, target, logit: judge_epoch(  # noqa: E731
        data.engine.setup, one(group.hyper), jnp.array(epoch), state,
        jnp.array([[logit], [0.0]]), jnp.array(target), jnp.ones(2), jnp.array([0, 1]),
    )[0]  # fmt: skip
    state = judge(state, 0, [1, 1], 9.0)
    assert int(state.best_epoch) == 0  # something is kept, even if nothing can be ranked
    state = judge(state, 1, [1, 0], -1.0)  # an AUROC of 0 is defined, and wins
    assert int(state.best_epoch) == 1
    state = judge(state, 2, [1, 1], 99.0)
    assert int(state.best_epoch) == 1


@pytest.mark.slow
def test_accumulation_weighs_bags_not_steps(experiment):
    """Steps of one and of two bags make one update: each of the three bags counts a third."""
    data = prepare(replace(experiment, train=replace(experiment.train, optimizer=Sgd(0.5, momentum=0.0), accumulate=2)))
    hyper = jax.tree.map(lambda a: a[0], data.group(0).hyper)
    key = run_key(0, 0, 0, 0, 0)
    args = (9, data.engine.data, hyper, key, (jnp.array(0), jnp.array(0)))
    setup = data.engine.setup
    begin = lambda s: initial_state(experiment.model, 6, 1, s.train, key)  # noqa: E731
    state, _ = train_step(setup, *args, begin(setup), jnp.array([3, 0]), jnp.array([1.0, 0.0]), jnp.array(False))
    state, _ = train_step(setup, *args, state, jnp.array([4, 5]), jnp.ones(2), jnp.array(True))
    whole = setup._replace(train=replace(setup.train, accumulate=1))
    together, _ = train_step(whole, *args, begin(whole), jnp.array([3, 4, 5]), jnp.ones(3), jnp.array(True))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(together.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def own_model(call, **layers):
    """A model of a user's own, by what its module's `__call__` does."""

    class Module(nnx.Module):
        def __init__(self, d, c, rngs):
            self.linear = nnx.Linear(d, c, rngs=rngs)
            for name, layer in layers.items():
                setattr(self, name, layer(rngs))

        def __call__(self, bags, *, deterministic=True, rngs=None):
            return call(self, bags)

    @dataclass(frozen=True)
    class Mine:
        def build(self, in_features, out_features, *, rngs):
            return Module(in_features, out_features, rngs)

    return Mine()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (own_model(lambda m, b: m.linear(b.x.sum(1))), "returned a"),
        (own_model(lambda m, b: Output(m.linear(b.x))), r"logits of shape \(2, 2, 1\)"),
        (own_model(lambda m, b: Output(jnp.tile(m.linear(b.x.sum(1)), 2))), r"the task needs \(2, 1\)"),
        (
            own_model(lambda m, b: Output(m.drop(m.linear(b.x.sum(1)))), drop=lambda r: nnx.Dropout(0.5, rngs=r)),
            "random state of its own",
        ),
    ],
)
def test_a_model_that_breaks_the_contract_is_refused_before_training(model, message):
    with pytest.raises((ConfigError, TypeCheckError), match=message if "random" in message else None):
        graph_of(model, 6, 1)


def test_what_a_run_learns_from_is_its_own_training_part(experiment):
    """Class weights and the schedule's length, for each split by hand."""
    rows = [{"label": str(int(i % 3 == 0))} for i in range(24)]
    xs, _ = planted.bags(24)
    train = replace(experiment.train, accumulate=2, schedule="cosine", warmup_epochs=1.0)
    data = prepare(
        replace(experiment, data=planted.cohort(xs, rows), task=Binary(class_weights="balanced"), train=train)
    )
    targets = data.study.targets.values
    for split, hyper in zip(data.plan.splits, data.hyper, strict=True):
        own = targets[split.train]
        n, positive = len(own), int(own.sum())
        np.testing.assert_allclose(hyper.loss.class_weights, [n / (2 * (n - positive)), n / (2 * positive)], rtol=1e-6)
        updates = -(-n // 2)
        assert (float(hyper.rate.warmup), float(hyper.rate.horizon)) == (updates, 4 * updates)


def test_long_bags_aresubsampled_in_training_only(experiment):
    train = replace(experiment.train, max_instances=3)
    data = prepare(replace(experiment, train=train))
    assert data.engine.layout.rungs[-1] == 3
    assert data.engine.rungs[-1] == data.study.lengths.max()
    bag = int(np.argmax(data.study.lengths))
    take = lambda key: np.asarray(  # noqa: E731
        gather(data.engine.data, data.hyper[0], jnp.array([bag]), jnp.ones(1), 3, key, train).x[0]
    )
    x = np.asarray(data.study.read(bag).x)
    drawn = {tuple(int(np.flatnonzero((x == row).all(1))[0]) for row in take(jax.random.key(k))) for k in range(8)}
    assert len(drawn) > 1
    assert all(len(set(places)) == 3 for places in drawn)


@pytest.mark.slow
def test_prediction_is_the_module_itself_without_dropout(experiment):
    """An independent path: the module on one unpadded bag, deterministic."""
    model = ABMIL(encoder=(8,), attention=4, dropout=0.5)
    data = prepare(replace(experiment, model=model))
    group = data.group(0)
    state = start(data.engine, model, 6, 1, group)
    tests = [data.split(r).test for r in data.members(0)]
    part = data.engine.part(tests, [s.test for s in data.plan.splits])
    graph = graph_of(model, 6, 1)
    for i, bags in enumerate(data.engine.predict(group, state.params, state.buffers, part)):
        assert [row for row, _, _ in bags] == tests[i].tolist()
        one = lambda tree, i=i: jax.tree.map(lambda a: a[i], tree)  # noqa: E731
        module = nnx.merge(graph, one(state.params), one(state.buffers))
        for row, logits, attention in bags:
            out = module(Bags.of(data.study.read(row).x))
            np.testing.assert_allclose(logits, out.logits[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(attention, out.attention[0, :, 0], rtol=1e-5, atol=1e-6)


def test_a_models_own_objective_is_what_is_minimised(experiment):
    """Twice the bag loss gives twice the gradient under SGD."""
    data = prepare(replace(experiment, train=replace(experiment.train, optimizer=Sgd(0.5, momentum=0.0))))
    hyper = jax.tree.map(lambda a: a[0], data.group(0).hyper)
    key = run_key(0, 0, 0, 0, 0)
    state = initial_state(experiment.model, 6, 1, data.experiment.train, key)
    plain = data.engine.setup
    double = plain._replace(objective=lambda output, batch, bag_loss: (2.0 * bag_loss(output.logits), {}))
    moved = [
        train_step(
            setup, 9, data.engine.data, hyper, key, (jnp.array(0), jnp.array(0)), state, jnp.array([3]), jnp.ones(1),
            jnp.array(True),
        )[0].params
        for setup in (plain, double)
    ]  # fmt: skip
    for start_, once, twice in zip(jax.tree.leaves(state.params), *map(jax.tree.leaves, moved), strict=True):
        np.testing.assert_allclose(twice - start_, 2 * (once - start_), rtol=1e-4, atol=1e-6)
