"""Streaming mode: the resident engine's step on bags that are read once an epoch, and judged one epoch behind."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

from milkit.data.stream_order import StreamLayout, draw_order, steps_of
from milkit.execute.memory import memory_of
from milkit.execute.prepare import prepare
from milkit.models import ABMIL
from milkit.task import Survival
from milkit.train.config import Sgd
from milkit.train.fit import fit, start
from milkit.train.state import initial_state
from milkit.train.step import train_step
from milkit.train.stream_step import Read, stream_step, subsampled
from milkit.train.streaming import StreamEngine


def streaming(experiment, **train):
    return prepare(replace(experiment, train=replace(experiment.train, memory="stream", **train)))


@pytest.fixture(scope="module")
def prepared(experiment):
    return streaming(experiment)


def same_bits(a, b):
    return all(
        (np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def of(tree, i):
    return jax.tree.map(lambda a: np.asarray(a)[i], tree)


def begun(prepared, group):
    return start(prepared.engine, prepared.experiment.model, prepared.study.features, prepared.out_features, group)


def part_of(prepared, group, role="validation"):
    parts = [getattr(s, role) for s in prepared.plan.splits]
    own = group.validation if role == "validation" else [getattr(prepared.split(r), role) for r in prepared.members(0)]
    return prepared.engine.part(own, parts)


def trained(prepared, runs=None, seen=None):
    """Train runs side by side; the states with a leading run axis."""
    runs = prepared.members(0) if runs is None else runs
    prepared = replace(prepared, runs=tuple(replace(r, program=0, slot=i) for i, r in enumerate(runs)))
    group = prepared.group(0)
    on_epoch = (lambda *_: None) if seen is None else (lambda epoch, state, log: seen.append((state, log)))
    return fit(prepared.engine, group, begun(prepared, group), part_of(prepared, group), on_epoch)


def counted(prepared):
    """The study with a list of all reads, and an engine that reads it."""
    reads = []
    inner = prepared.study.read

    def read(i):
        reads.append(i)
        return inner(i)

    prepared.engine.reader.study = replace(prepared.study, read=read)
    return reads


@pytest.mark.slow
@pytest.mark.parametrize(
    "train",
    [
        {},
        {"standardise": True},
        {"instance_dropout": 0.4},
        {"instances_at_once": 4},
        {"standardise": True, "instances_at_once": 2, "instance_dropout": 0.2},
    ],
)
def test_a_step_is_the_resident_engines_step_in_float64(experiment, train):
    """The same bag, runs and position: parameters agree to 1e-12, with per-run scalers, dropout and chunks too."""
    model = ABMIL(encoder=(8,), attention=4, dropout=0.0 if "instances_at_once" in train else 0.3)
    experiment = replace(experiment, model=model, train=replace(experiment.train, **train))
    with jax.enable_x64(True):
        data = prepare(experiment)
        group = data.group(0)
        setup = data.engine.setup
        double = partial(
            jax.tree.map,
            lambda a: jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a),
        )
        packed, hyper = double(data.engine.data), double(group.hyper)
        states = double(jax.vmap(lambda k: initial_state(model, 6, 1, setup.train, k))(group.keys))
        moving = jax.tree.map(jnp.copy, states._replace(best_params=(), best_buffers=()))  # the step consumes it
        bag, length, update = 5, 9, jnp.array([True])
        position = (jnp.array(2), jnp.array(7))
        weight = np.array([[1.0], [0.0], [1.0], [1.0]])
        x = np.full((1, length, 6), np.nan)  # what lies beyond a bag's own instances is anything
        own = data.study.read(bag).x
        x[0, : len(own)] = own
        read = Read(jnp.asarray(x), None, jnp.array([len(own)], jnp.int32), jnp.array([bag], jnp.int32))
        zeros = jnp.zeros(4)
        (after, total, seen), _ = stream_step(
            setup, hyper, group.keys, jax.random.key(0), (moving, zeros, jnp.copy(zeros)), position, read,
            packed.target, weight, np.ones(4, bool),
        )  # fmt: skip
        for i in range(4):
            one = lambda tree, i=i: jax.tree.map(lambda a: a[i], tree)  # noqa: B023, E731
            key = jax.random.fold_in(group.keys[i], 1)  # as the resident engine's epoch does
            expected, (loss, _) = train_step(
                setup, length, packed, one(hyper), key, position, one(states), jnp.array([bag], jnp.int32),
                jnp.asarray(weight[i]), update[0],
            )  # fmt: skip
            assert float(seen[i]) == weight[i, 0]
            np.testing.assert_allclose(total[i], loss, rtol=1e-12)
            for a, b in zip(jax.tree.leaves(one(after.params)), jax.tree.leaves(expected.params), strict=True):
                assert a.dtype == jnp.float64
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        # the run that gives the bag no weight stands where it stood: parameters, optimiser, counters
        assert same_bits(of(after, 1), of(states._replace(best_params=(), best_buffers=()), 1))
        assert not same_bits(of(after.params, 0), of(states.params, 0))


def test_the_order_holds_every_bag_once_and_a_batch_has_one_length(experiment):
    data = streaming(experiment, batch_bags=3)
    layout = data.engine.layout
    assert isinstance(layout, StreamLayout)
    orders = [draw_order(layout, 0, epoch) for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    bags = [i for wanted in orders[0] for i in wanted.bags]
    assert sorted(bags) == list(range(24))
    for wanted in orders[0]:
        assert wanted.size == 3
        assert {layout.rungs[layout.rung[i]] for i in wanted.bags} == {wanted.length}
        assert all(data.study.lengths[i] <= wanted.length for i in wanted.bags)


def test_a_run_moves_at_every_second_step_that_holds_its_bags_and_at_its_last():
    order = [(0,), (1,), (2,), (3,), (4,)]
    wanted = [w._replace(bags=b) for w, b in zip([_one()] * 5, order, strict=True)]
    member = np.array([[True, False, True, True, False], [True] * 5, [False] * 5])
    steps = steps_of(wanted, member, accumulate=2)
    assert steps.weight[:, :, 0].T.tolist() == member.astype(float).tolist()
    # by hand: the first run has its bags at steps 0, 2, 3; the second at all; the third at none
    assert steps.update.T.tolist() == [
        [False, False, True, True, False],
        [False, True, False, True, True],
        [False] * 5,
    ]


def _one():
    from milkit.data.reading import Wanted

    return Wanted((0,), 1, 4)


def test_updates_of_an_epoch_are_counted_for_the_schedule(experiment):
    data = streaming(experiment, accumulate=2)
    for split in data.plan.splits:
        assert data.engine.layout.updates(split.train, 2) == -(-len(split.train) // 2)
    for i, state_updates in enumerate(np.asarray(trained(data).updates)):
        assert state_updates == 4 * data.engine.layout.updates(data.group(0).train[i], 2)


def test_every_bag_is_read_once_an_epoch_and_once_more_for_the_last_validation(experiment):
    data = streaming(experiment)
    reads = counted(data)
    group = data.group(0)
    needed = np.unique(np.concatenate([*group.train, *group.validation]))
    state, part = begun(data, group), part_of(data, group)
    ends = []
    fit(data.engine, group, state, part, lambda *_: ends.append(len(reads)))
    # epoch 1 is judged while epoch 2 is trained: two passes lie before its end, and the first one judges nothing
    learnt = np.unique(np.concatenate(group.train))
    assert sorted(reads[: ends[0]]) == sorted([*learnt, *needed])
    for epoch in range(1, 3):
        assert sorted(reads[ends[epoch - 1] : ends[epoch]]) == needed.tolist()
    last = np.unique(np.concatenate(group.validation))
    assert sorted(reads[ends[2] :]) == last.tolist()
    assert ends[2] + len(last) == len(reads)


def test_without_selection_there_is_one_pass_an_epoch(experiment):
    data = streaming(experiment, select="last")
    reads = counted(data)
    group = data.group(0)
    fit(data.engine, group, begun(data, group), None, lambda *_: None)
    needed = np.unique(np.concatenate(group.train))
    assert len(reads) == 4 * len(needed)


def test_an_epoch_is_judged_as_the_resident_engine_judges_it(experiment):
    """The resident engine is shown each epoch's parameters; losses, and the epoch that is kept, agree."""
    resident = prepare(replace(experiment, train=replace(experiment.train, memory="resident")))
    data = streaming(experiment)
    group, seen = data.group(0), []
    first = begun(data, group)
    best = {k: getattr(first, k) for k in ("best_params", "best_buffers", "best_metric", "best_loss", "best_epoch")}
    final = trained(data, seen=seen)
    part = part_of(resident, group)
    for epoch, (state, log) in enumerate(seen):
        judged = resident.engine.judge(group, state._replace(**best), epoch, part)
        best = {k: getattr(judged, k) for k in best}
        improved = np.asarray(judged.best_epoch) == epoch
        np.testing.assert_allclose(np.asarray(judged.best_loss)[improved], log.validation_loss[improved], rtol=1e-5)
        np.testing.assert_array_equal(judged.best_epoch, log.best_epoch)
    for a, b in zip(jax.tree.leaves(best["best_params"]), jax.tree.leaves(final.best_params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_leaves_a_run_where_it_stopped_though_it_was_trained_ahead(experiment):
    data = streaming(experiment, optimizer=Sgd(0.4, momentum=0.9), epochs=8, patience=1)
    seen = []
    final = trained(data, seen=seen)
    stopped = [next(e for e, (_, log) in enumerate(seen) if log.finished[i]) for i in range(4)]
    assert len(set(stopped)) > 1  # or the test shows nothing
    for i, epoch in enumerate(stopped):
        log = seen[epoch][1]
        assert epoch - int(log.best_epoch[i]) == 1
        assert same_bits(of(final, i), of(seen[epoch][0], i))
        assert int(final.updates[i]) == (epoch + 1) * len(data.group(0).train[i])
    # and before it stopped, its parameters were those of an engine that trains nothing ahead
    group = data.group(0)
    state = begun(data, group)
    for epoch in range(stopped[0] + 1):
        data.engine._ahead = None
        state, _ = data.engine.epoch(group, state, epoch, part_of(data, group))
    assert same_bits(of(state.params, 0), of(final.params, 0))


def test_an_epoch_taken_up_from_a_kept_state_gives_the_same_bits(prepared):
    """What was trained ahead is lost with the process; the state that was handed out is enough."""
    seen = []
    whole = trained(prepared, seen=seen)
    kept = jax.tree.map(jnp.asarray, jax.device_get(seen[1][0]))
    group = prepared.group(0)
    again = fit(prepared.engine, group, kept, part_of(prepared, group), lambda *_: None, first=2)
    assert same_bits(whole, again)


def test_other_slots_and_companions_give_the_same_bits(prepared):
    runs = prepared.runs
    first = trained(prepared, runs[:4])
    other = trained(prepared, [runs[5], runs[2], runs[4], runs[0]])
    assert same_bits(of(first, 2), of(other, 1))
    assert same_bits(of(first, 0), of(other, 3))
    alone = trained(prepared, runs[2:3])
    assert same_bits(of(first, 2), of(alone, 0))
    assert not same_bits(of(first, 2).params, of(first, 0).params)


def test_nothing_is_compiled_after_the_first_epoch_nor_for_another_program(experiment):
    data = streaming(experiment)
    trained(data)
    before = stream_step._cache_size()
    trained(data, data.members(1))
    assert stream_step._cache_size() == before
    assert before > 0


@pytest.mark.parametrize("batch", [1, 3])
def test_predictions_are_the_resident_engines(experiment, batch):
    train = replace(experiment.train, batch_bags=batch)
    resident = prepare(replace(experiment, train=replace(train, memory="resident")))
    data = prepare(replace(experiment, train=replace(train, memory="stream")))
    group = data.group(0)
    state = begun(data, group)
    expected, found = (
        p.engine.predict(group, state.params, state.buffers, part_of(p, group, "test")) for p in (resident, data)
    )
    for a, b in zip(expected, found, strict=True):
        assert [row for row, _, _ in a] == [row for row, _, _ in b]
        for (_, logits, attention), (_, found_logits, found_attention) in zip(a, b, strict=True):
            np.testing.assert_allclose(found_logits, logits, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found_attention, attention, rtol=1e-5, atol=1e-6)


def test_a_non_finite_loss_freezes_its_run_and_names_the_bag(experiment):
    data = streaming(experiment, select="last")
    inner, group = data.study.read, data.group(0)
    torn = int(np.setdiff1d(group.train[0], group.train[3])[0])

    def read(i):
        bag = inner(i)
        return replace(bag, x=bag.x + np.nan) if i == torn else bag

    data.engine.reader.study = replace(data.study, read=read)
    state, log = data.engine.epoch(group, begun(data, group), 0, None)
    learns = [torn in part for part in group.train]
    assert log.failed.tolist() == learns
    assert {True, False} == set(learns)
    for i, bad in enumerate(learns):
        if bad:
            assert int(state.failed_bag[i]) == torn
            assert all(np.isfinite(p).all() for p in jax.tree.leaves(of(state.params, i)))


def test_a_long_bag_is_subsampled_for_all_runs_alike_in_training_only(experiment):
    x = np.arange(18.0, dtype=np.float32).reshape(1, 9, 2)
    read = Read(jnp.asarray(x), None, jnp.array([8], jnp.int32), jnp.array([0], jnp.int32))
    drawn = [np.asarray(subsampled(read, 3, jax.random.key(k)).x[0]) for k in range(20)]
    rows = [{int(r) for r in d[:, 0] / 2} for d in drawn]
    assert all(len(r) == 3 for r in rows)  # without replacement, pairs kept together
    assert set.union(*rows) == set(range(8))  # and never the padding
    assert subsampled(read, 9, jax.random.key(0)) is read
    short = read._replace(lengths=jnp.array([2], jnp.int32))
    np.testing.assert_array_equal(subsampled(short, 3, jax.random.key(0)).x[0, :2], x[0, :2])
    data = streaming(experiment, max_instances=3)
    assert data.engine.layout.rungs[-1] == data.study.lengths.max()
    assert np.isfinite(trained(data).best_loss).all()


def test_a_loss_that_compares_bags_meets_batches_of_one_length(experiment):
    train = replace(experiment.train, batch_bags=8, select="c_index", memory="stream")
    data = prepare(replace(experiment, data=planted.survival(48), task=Survival(loss="cox"), train=train))
    assert len(data.engine.layout.rungs) == 1
    state = trained(data)
    assert np.isfinite(state.best_loss).all()
    assert (np.asarray(state.best_metric) > 0.5).all()


def test_auto_streams_what_takes_more_than_half_of_the_memory(experiment, monkeypatch):
    from milkit.execute import memory

    study = experiment.data.load(experiment.task, experiment.unit)
    packed = int(study.lengths.sum()) * 6 * 4
    auto = experiment.train
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2 * packed)
    assert memory_of(auto, study) == "resident"
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2 * packed - 1)
    assert memory_of(auto, study) == "stream"
    assert memory_of(replace(auto, memory="resident"), study) == "resident"
    assert isinstance(prepare(experiment).engine, StreamEngine)
