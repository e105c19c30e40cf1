"""Some instances of a bag, and large bags read past the memory map."""

import os

import numpy as np
import pytest

from milkit.bag import Bag
from milkit.data.mapped import STRAIGHT, MappedFile, copy_to
from milkit.data.rows import read_rows
from milkit.data.store import open_store, write_store
from milkit.errors import DataError


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    bags = [Bag(f"s{i}", rng.normal(size=(n, 64)).astype(np.float16), rng.uniform(size=(n, 2)).astype(np.float32),
                rng.integers(0, 9, (n, 2))) for i, n in enumerate((5, 4000))]  # fmt: skip
    return open_store(write_store(tmp_path / "s.h5", bags))


def test_rows_in_the_order_given(store):
    bag, rows = store.read("s1"), np.array([3999, 0, 0, 17])
    some = read_rows(store, "s1", rows)
    np.testing.assert_array_equal(some.x, np.stack([bag.x[3999], bag.x[0], bag.x[0], bag.x[17]]))
    np.testing.assert_array_equal(some.coords_um, bag.coords_um[[3999, 0, 0, 17]])
    np.testing.assert_array_equal(some.coords_px, bag.coords_px[[3999, 0, 0, 17]])
    assert some.x.flags.writeable
    assert read_rows(store, "s0", np.array([], np.int64)).x.shape == (0, 64)


@pytest.mark.parametrize("rows", [[5], [-1], [0.5], [[1]]])
def test_rows_that_are_not_there(store, rows):
    with pytest.raises(DataError, match="has instances 0 to 4"):
        read_rows(store, "s0", np.array(rows))


def test_a_large_bag_is_copied_past_the_map(store, monkeypatch):
    x = store.read("s1").x
    assert x.nbytes > STRAIGHT
    calls = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, to, at: calls.append(1) or real(fd, [to[0][:100_001]], at))
    out = np.zeros(x.shape, x.dtype)
    copy_to(x, out)
    np.testing.assert_array_equal(out, x)
    assert len(calls) == 6  # 512,000 bytes: a call may give less than was asked for
    small = np.zeros((5, 64), np.float16)
    copy_to(store.read("s0").x, small)
    np.testing.assert_array_equal(small, store.read("s0").x)
    wide = np.zeros(x.shape, np.float32)
    copy_to(x, wide)
    np.testing.assert_array_equal(wide, x.astype(np.float32))
    every_second = np.zeros((2000, 64), np.float16)
    copy_to(x[::2], every_second)
    np.testing.assert_array_equal(every_second, x[::2])
    assert len(calls) == 6


def test_another_file_of_the_same_name_is_not_read(store, tmp_path):
    """A store that is replaced while it is open: what was opened is read on."""
    x = store.read("s1").x
    before = x.copy()
    write_store(tmp_path / "new.h5", [Bag("s1", np.ones((4000, 64), np.float16))])
    os.replace(tmp_path / "new.h5", store.path)
    out = np.zeros(x.shape, x.dtype)
    copy_to(x, out)
    np.testing.assert_array_equal(out, before)


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(2 * STRAIGHT))
    mapped = MappedFile.of(path)
    x = mapped.array(np.dtype(np.float16), (STRAIGHT,), 0)
    os.truncate(path, STRAIGHT)
    with pytest.raises(DataError, match="has become shorter"):
        copy_to(x, np.zeros_like(x))
