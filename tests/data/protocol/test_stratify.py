"""Draws are balanced: by hand where the answer is one, as a property elsewhere."""

import numpy as np
import pytest

from milkit.data.protocol.rng import Purpose, stream
from milkit.data.protocol.stratify import deal, draw, iterative
from milkit.data.protocol.units import Outcome


def classes(stratum, spread=None):
    stratum = np.asarray(stratum, np.int64)
    spread = np.zeros(len(stratum)) if spread is None else np.asarray(spread, np.float64)
    return Outcome("classes", stratum, spread, tuple(str(c) for c in range(int(stratum.max()) + 1)))


def labelled(labels):
    labels = np.asarray(labels, np.int64)
    n = len(labels)
    names = tuple("abcdef"[: labels.shape[1]])
    return Outcome("labels", np.zeros(n, np.int64), np.zeros(n), ("all",), labels, names)


def rng(seed=0):
    return stream(seed, 0, 0, Purpose.FOLDS)


def everyone(n):
    return np.arange(n, dtype=np.int64)


def test_ten_patients_of_two_classes_deal_into_five_even_folds():
    fold = deal(classes([0] * 5 + [1] * 5), everyone(10), 5, rng())
    assert sorted(fold[:5].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(fold[5:].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(30))
def test_folds_are_within_one_in_size_and_in_every_class(seed):
    draws = np.random.default_rng(seed)
    outcome = classes(draws.choice(4, 83, p=[0.6, 0.25, 0.1, 0.05]))
    members = np.sort(draws.permutation(83)[: draws.integers(20, 84)]).astype(np.int64)
    folds = int(draws.integers(2, 9))
    fold = deal(outcome, members, folds, rng(seed))
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for c in range(4):
        assert np.ptp(np.bincount(fold[outcome.stratum[members] == c], minlength=folds)) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_values_are_spread_each_block_of_neighbours_gives_one_to_each_fold(seed):
    """Twelve events with times 0..11 in three folds: {0,1,2}, {3,4,5}, ... each meet every fold."""
    fold = deal(classes([0] * 12, spread=range(12)), everyone(12), 3, rng(seed))
    assert [sorted(block) for block in fold.reshape(4, 3).tolist()] == [[0, 1, 2]] * 4


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ([90, 10], 0.1, [9, 1]),  # exact shares
        ([97, 3], 0.1, [9, 1]),  # 9.7 and 0.3: a class with two patients or more gives one
        ([50, 50], 0.03, [1, 2]),  # 1.5 and 1.5 of three: the tie falls to one of them
        ([60, 30, 10], 0.2, [12, 6, 2]),
        ([8, 2], 0.8, [7, 1]),  # 6.4 and 1.6: the class of two keeps one
        ([9, 1], 0.5, [5, 0]),  # a class of one stays where it is learned
    ],
)
def test_a_share_is_drawn_in_proportion(sizes, share, expected):
    outcome = classes(np.repeat(np.arange(len(sizes)), sizes))
    drawn = draw(outcome, everyone(sum(sizes)), share, rng())
    counts = np.bincount(outcome.stratum[drawn], minlength=len(sizes))
    if sizes == [50, 50]:
        assert sorted(counts.tolist()) == expected
    else:
        assert counts.tolist() == expected


@pytest.mark.parametrize("seed", range(10))
def test_a_share_spreads_values(seed):
    """Four of twenty sorted values: one from each fifth of five neighbours."""
    drawn = draw(classes([0] * 20, spread=range(20)), everyone(20), 0.2, rng(seed))
    assert drawn.reshape(4, 5).sum(1).tolist() == [1, 1, 1, 1]


def test_every_patient_can_be_drawn():
    seen = np.zeros(10, int)
    for seed in range(400):
        seen += draw(classes([0] * 10), everyone(10), 0.2, rng(seed))
    # 400 draws of 2 from 10: 80 each, binomial SD 8; five of those.
    assert (np.abs(seen - 80) < 40).all()


@pytest.mark.parametrize("seed", range(10))
def test_iterative_stratification_by_hand(seed):
    """Two parts of three; labels a: 2 units, b: 2 units, none: 2. Each part must get one of each."""
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0]])
    part = iterative(labels, np.array([3, 3]), rng(seed))
    for pair in part.reshape(3, 2):
        assert sorted(pair.tolist()) == [0, 1]


@pytest.mark.parametrize("seed", range(10))
def test_the_rarest_label_goes_first(seed):
    """Label b has two units, both with a as well. Dealt first, they part; a then levels out at 3 and 3."""
    labels = np.array([[1, 1], [1, 1], [1, 0], [1, 0], [1, 0], [1, 0]])
    part = iterative(labels, np.array([3, 3]), rng(seed))
    assert sorted(part[:2].tolist()) == [0, 1]
    assert np.bincount(part).tolist() == [3, 3]


@pytest.mark.parametrize("seed", range(20))
def test_iterative_folds_have_exact_sizes_and_close_label_counts(seed):
    draws = np.random.default_rng(seed)
    labels = (draws.random((101, 4)) < [0.5, 0.3, 0.15, 0.08]).astype(np.int64)
    fold = deal(labelled(labels), everyone(101), 5, rng(seed))
    assert sorted(np.bincount(fold).tolist()) == [20, 20, 20, 20, 21]
    held = np.stack([labels[fold == f].sum(0) for f in range(5)])
    # The rarest label is dealt before any other, so it is as even as it can be; the others within two.
    assert np.ptp(held[:, labels.sum(0).argmin()]) <= 1
    assert (np.abs(held - labels.sum(0) / 5) <= 2).all()


def test_a_multi_label_share_has_its_exact_size():
    labels = (np.random.default_rng(1).random((40, 3)) < 0.4).astype(np.int64)
    drawn = draw(labelled(labels), everyone(40), 0.1, rng())
    assert drawn.sum() == 4
    assert (np.abs(labels[drawn].sum(0) - labels.sum(0) * 0.1) <= 1).all()
