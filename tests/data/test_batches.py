"""The ladder of padded lengths and the order of an epoch."""

from itertools import combinations

import numpy as np
import pytest

from milkit.data.batches import Epoch, compact, draw_epoch, ladder, part_layout, rung_of, train_layout


def padded(lengths, rungs):
    return int(np.asarray(rungs)[rung_of(lengths, rungs)].sum())


def test_ladder_by_hand():
    # two rungs over 1, 1, 1, 10: (1, 10) pads nothing
    assert ladder(np.array([1, 1, 1, 10]), 2) == (1, 10)
    # one rung must hold the longest
    assert ladder(np.array([3, 7, 5]), 1) == (7,)
    # more rungs than lengths: every length its own
    assert ladder(np.array([3, 7, 3]), 9) == (3, 7)


@pytest.mark.parametrize("seed", range(5))
def test_ladder_is_the_best_of_all(seed):
    lengths = np.random.default_rng(seed).integers(1, 30, 20)
    sizes = np.unique(lengths).tolist()
    best = min(padded(lengths, (*c, sizes[-1])) for c in combinations(sizes[:-1], 2))
    assert padded(lengths, ladder(lengths, 3)) == best


def test_ladder_respects_a_models_smallest_bag():
    assert min(ladder(np.array([1, 2, 3, 50]), 3, smallest=8)) == 8


def test_ladder_of_many_distinct_lengths_is_quick_and_holds_all():
    lengths = np.random.default_rng(0).lognormal(8, 1, 5000).astype(int) + 1
    rungs = ladder(lengths, 6)
    assert len(rungs) == 6
    assert rungs[-1] == lengths.max()


LENGTHS = np.array([2, 2, 3, 9, 8, 2, 3, 10])


def layout(parts, batch=1):
    return train_layout(LENGTHS, (3, 10), batch, parts)


def test_an_epoch_shows_each_training_bag_once():
    parts = [np.array([0, 1, 3, 4, 6]), np.array([2, 5, 7])]
    epoch = draw_epoch(layout(parts), parts, [(0, 0, 0, 0), (0, 1, 0, 0)], shared=0, epoch=3)
    for r, part in enumerate(parts):
        seen = epoch.index[:, r][epoch.weight[:, r] > 0]
        assert sorted(seen.tolist()) == part.tolist()
        # every bag stands at a step of its own padded length
        steps = np.nonzero(epoch.weight[:, r] > 0)[0]
        assert (rung_of(LENGTHS[seen], (3, 10)) == epoch.rung[steps]).all()


def test_a_runs_order_does_not_depend_on_its_companions():
    parts = [np.array([0, 1, 3, 4, 6]), np.array([2, 5, 7]), np.arange(7)]
    whole = draw_epoch(layout(parts), parts, [(0, 0, 0, 0), (0, 1, 0, 0), (0, 2, 0, 0)], 5, 2)
    alone = draw_epoch(layout(parts), parts[1:2], [(0, 1, 0, 0)], 5, 2)
    assert (whole.index[:, 1] == alone.index[:, 0]).all()
    assert (whole.weight[:, 1] == alone.weight[:, 0]).all()


def test_orders_differ_between_epochs_and_seeds():
    parts = [np.arange(8)] * 2
    epochs = [draw_epoch(layout(parts), parts, [(0, 0, 0, 0), (0, 0, 0, 1)], 0, e) for e in range(2)]
    assert (epochs[0].index[:, 0] != epochs[0].index[:, 1]).any()
    assert (epochs[0].index[:, 0] != epochs[1].index[:, 0]).any()


def test_accumulation_updates_every_second_real_step_and_at_the_end():
    parts = [np.arange(7), np.array([0, 1])]
    epoch = draw_epoch(layout(parts), parts, [(0, 0, 0, 0), (0, 1, 0, 0)], 0, 0, accumulate=2)
    assert epoch.update[:, 0].sum() == 4  # 7 bags: 2 + 2 + 2 + 1
    assert epoch.update[:, 1].sum() == 1
    assert not epoch.update[epoch.weight.sum(-1) == 0].any()


@pytest.mark.parametrize(("batch", "accumulate"), [(1, 1), (3, 1), (2, 2), (4, 3)])
def test_a_layout_counts_the_updates_that_an_epoch_makes(batch, accumulate):
    parts = [np.arange(7), np.array([0, 1]), np.array([2, 3, 4, 7])]
    shape = layout(parts, batch)
    keys = [(0, i, 0, 0) for i in range(3)]
    epoch = draw_epoch(shape, parts, keys, 0, 0, accumulate)
    assert [shape.updates(p, accumulate) for p in parts] == epoch.update.sum(0).tolist()


def test_batches_leave_no_bag_out():
    parts = [np.arange(8)]
    epoch = draw_epoch(layout(parts, batch=3), parts, [(0, 0, 0, 0)], 0, 0)
    assert sorted(epoch.index[epoch.weight > 0].tolist()) == list(range(8))
    assert epoch.index.shape[0] == 3  # five short bags in 2 steps, three long ones in 1


def test_a_part_is_read_once_and_its_shapes_follow_the_plan():
    parts = [np.array([0, 3]), np.array([7])]
    everywhere = [*parts, np.array([1, 2, 5])]
    part = part_layout(LENGTHS, (3, 10), parts, everywhere, instances=12)
    for r, rows in enumerate(parts):
        seen = np.concatenate([i[:, r][w[:, r] > 0] for i, w in zip(part.index, part.weight, strict=True)])
        assert sorted(seen.tolist()) == rows.tolist()
    alone = part_layout(LENGTHS, (3, 10), parts[:1], everywhere, instances=12)
    assert [i.shape[::2] for i in alone.index] == [i.shape[::2] for i in part.index]


def test_steps_that_no_run_of_a_block_needs_are_left_out():
    """Three steps, four runs in blocks of two: worked by hand."""
    weight = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]], np.float32)[..., None]  # [s, r, b]
    index = np.arange(12, dtype=np.int32).reshape(3, 4, 1)
    epoch = Epoch(np.array([7, 8, 9], np.int32), index, weight, weight[..., 0] > 0)
    steps = compact(epoch, 2, np.array([True, True, True, True]))
    assert steps.count.tolist() == [2, 2, 1, 1]
    assert steps.number[0, :2].tolist() == [0, 2]
    assert steps.rung[0, :2].tolist() == [7, 9]
    assert steps.number[2, :1].tolist() == [1]
    assert steps.rung[3, :1].tolist() == [8]
    assert steps.index[1, :2, 0].tolist() == [1, 9]
    assert steps.weight[1, :2, 0].tolist() == [0, 1]
    assert steps.update[0, :2].tolist() == [True, True]
    # a run that has ended needs no step
    assert compact(epoch, 1, np.array([False, True, True, True])).count.tolist() == [0, 1, 1, 0]
