"""Reading ahead: what arrives, in which order, and how many bytes are under way."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import planted

from milkit.data.cohort import Cohort
from milkit.data.reading import HELD, Reader, Wanted
from milkit.errors import DataError
from milkit.task import Binary
from milkit.types import Bag

FEATURES = 6


@pytest.fixture(scope="module")
def study():
    return planted.binary(24, coords=True).load(Binary())


def one_by_one(study, length=9):
    return [Wanted((i,), 1, length) for i in range(len(study))]


def test_blocks_hold_the_bags_in_the_order_asked_for(study):
    reader = Reader(study, coords=True, threads=3)
    wanted = [Wanted((5, 2), 2, 9), Wanted((7,), 2, 9), Wanted((0, 1), 2, 9)]
    with reader.batches(wanted) as blocks:
        for number, block in enumerate(blocks):
            assert (block.number, block.wanted) == (number, wanted[number])
            assert block.x.shape == (2, 9, FEATURES)
            for place, i in enumerate(block.wanted.bags):
                bag = study.read(i)
                assert block.lengths[place] == len(bag.x)
                np.testing.assert_array_equal(block.x[place, : len(bag.x)], bag.x)
                np.testing.assert_array_equal(block.coords_um[place, : len(bag.x)], bag.coords_um)
            block.release()
    assert number == 2
    assert block.lengths.tolist()[1] > 0


def walk(study, **options):
    """Read every bag once; the numbers of the blocks that came."""
    seen = []
    with Reader(study, **options).batches(one_by_one(study)) as blocks:
        for block in blocks:
            seen.append(block.number)
            block.release()
    return seen


def test_a_filler_has_no_instance(study):
    with Reader(study).batches([Wanted((3,), 3, 9)]) as blocks:
        (block,) = list(blocks)
    assert block.lengths.tolist() == [study.lengths[3], 0, 0]
    assert block.coords_um is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_features_travel_as_they_are_stored(tmp_path, dtype):
    store, table = planted.stored(tmp_path, planted.binary(8), "s", dtype=dtype)
    study = Cohort(str(table), str(store)).load(Binary())
    with Reader(study).batches(one_by_one(study)) as blocks:
        for block in blocks:
            assert str(block.x.dtype) == dtype
            np.testing.assert_array_equal(block.x[0, : block.lengths[0]], study.read(block.number).x)
            block.release()


def test_float64_travels_as_float32():
    xs, _ = planted.bags(4)
    bags = planted.cohort([x.astype(np.float64) for x in xs], [{"label": str(i % 2)} for i in range(4)])
    study = bags.load(Binary())
    with Reader(study).batches(one_by_one(study)) as blocks:
        assert {str(b.x.dtype) for b in blocks} == {"float32"}


def test_bytes_under_way_never_pass_the_budget_and_buffers_are_used_again(study):
    """Counted from outside: buffers not yet given back, and every bag that a thread is reading."""
    length, under_way, most, lock, made = 9, [0], [0], threading.Lock(), []
    size = length * FEATURES * 4
    inner = study.read

    def read(i):
        with lock:
            under_way[0] += size
            most[0] = max(most[0], under_way[0])
        time.sleep(0.002)
        return inner(i)

    counted = replace(study, read=read)
    # room for three batches with the copies that reading may make, though four threads could hold more
    reader = Reader(counted, threads=4, budget=1)
    with reader.batches(one_by_one(study) * 3) as blocks:
        for block in blocks:
            made.append(block.x.ctypes.data)
            assert reader.peak <= reader.budget
            time.sleep(0.001)
            with lock:
                under_way[0] -= size
            block.release()
    assert len(made) == 3 * len(study)
    assert most[0] <= reader.budget
    assert len(set(made)) <= 2 * (HELD + 1)
    assert reader.budget <= (HELD + 1) * (2 * (size + length * 8) + 1024)


def test_a_small_budget_reads_batches_of_all_lengths(study):
    """Free buffers of another size make room, so nothing waits for ever."""
    rungs = [2 + i % 8 for i in range(200)]
    short = [int(np.argmin(study.lengths))] * 200
    reader = Reader(study, threads=3, budget=1)
    held = []
    with reader.batches([Wanted((i,), 1, max(n, 2)) for i, n in zip(short, rungs, strict=True)]) as blocks:
        for block in blocks:
            held.append(block)
            if len(held) > HELD - 1:
                held.pop(0).release()
    assert reader.peak <= reader.budget


def test_what_a_thread_raises_arrives_where_its_bag_is_wanted(study):
    def read(i):
        if i == 5:
            raise DataError("bag 5 is torn")
        return study.read(i)

    before = threading.active_count()
    with pytest.raises(DataError, match="bag 5 is torn"):
        walk(replace(study, read=read))
    assert threading.active_count() == before


def test_a_pass_that_is_left_early_ends_its_threads_and_the_next_one_reads_all(study):
    reader = Reader(study, threads=3, budget=1)
    before = threading.active_count()
    with reader.batches(one_by_one(study)) as blocks:
        next(iter(blocks)).release()
    assert threading.active_count() == before
    seen = []
    with reader.batches(one_by_one(study)) as blocks:
        for block in blocks:
            seen.append(block.number)
            block.release()
    assert seen == list(range(len(study)))


def test_bags_that_do_not_fit_the_first_ones_dtype_or_changed_on_disk_are_named(study):
    wide = lambda i: Bag("x", study.read(i).x.astype(np.float16 if i == 0 else np.float32))  # noqa: E731
    with pytest.raises(DataError, match="'p001' is float32, but 'p000' is float16"):
        walk(replace(study, read=wide))
    torn = lambda i: Bag("x", study.read(i).x[: -1 if i == 2 else None])  # noqa: E731
    with pytest.raises(DataError, match="'p002' has features of shape"):
        walk(replace(study, read=torn))


def test_who_would_wait_reads_the_next_batch(study):
    """The reader is held up in the first batch until somebody reads the second: only the one who asks is free to."""
    second_read, by = threading.Event(), {}

    def read(i):
        by[i] = threading.current_thread().name
        if i == 0 and threading.current_thread() is not threading.main_thread():
            assert second_read.wait(20)
        second_read.set() if i == 1 else None
        return study.read(i)

    held_up = Reader(replace(study, read=read), threads=1)
    by.clear()
    for _ in range(20):  # which of both claims the first is up to the scheduler
        second_read.clear()
        with held_up.batches(one_by_one(study)[:4]) as blocks:
            seen = []
            for block in blocks:
                np.testing.assert_array_equal(block.x[0, : block.lengths[0]], study.read(block.number).x)
                seen.append(block.number)
                block.release()
        assert seen == [0, 1, 2, 3]
    assert threading.main_thread().name in by.values()


def test_what_was_copied_from_a_file_is_let_go(tmp_path):
    """Pages of the store that were read do not stay in this process; the store can be read again."""
    xs, _ = planted.bags(6, features=512, smallest=300, largest=400)
    store, table = planted.stored(tmp_path, planted.cohort(xs, [{"label": str(i % 2)} for i in range(6)]), "s")
    study = Cohort(str(table), str(store)).load(Binary())
    total = sum(x.nbytes for x in xs)
    for _ in range(2):
        before = _file_bytes()
        for i in range(6):
            np.testing.assert_array_equal(study.read(i).x, xs[i])
        assert _file_bytes() - before > total / 2  # reading by hand leaves them mapped
        with Reader(study).batches([Wanted((i,), 1, 400) for i in range(6)]) as blocks:
            for block in blocks:
                np.testing.assert_array_equal(block.x[0, : block.lengths[0]], xs[block.number])
                block.release()
        assert _file_bytes() - before < total / 4


def _file_bytes():
    with open("/proc/self/status") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("RssFile"))
