"""Site-preserving folds against brute force, and what happens where sites do not allow a balance."""

from itertools import product

import numpy as np
import pytest

from milkit.data.protocol import site_preserving
from milkit.data.protocol.rng import Purpose, stream
from milkit.data.protocol.site_preserving import balance, evaluate
from milkit.data.protocol.site_share import draw_sites


def rng(seed=0):
    return stream(seed, 0, 0, Purpose.FOLDS)


def random_sites(seed, sites, kinds, patients=80):
    draws = np.random.default_rng(seed)
    size = 1 + draws.multinomial(patients, draws.dirichlet(np.full(sites, 1.5)))
    mix = draws.dirichlet(np.full(kinds, 1.0), size=sites)
    return np.array([draws.multinomial(n, p) for n, p in zip(size, mix, strict=True)], np.int64)


def brute_force(counts, required, folds):
    """(lacking, cost) of the best of all assignments, written without milkit's helpers."""
    best = None
    for fold in product(range(folds), repeat=len(counts)):
        lacking, cost = 0, 0
        for f in range(folds):
            held = [sum(int(c[k]) for c, g in zip(counts, fold, strict=True) if g == f) for k in range(counts.shape[1])]
            lacking += sum(need and h == 0 for need, h in zip(required, held, strict=True))
            cost += sum((folds * h - int(counts[:, k].sum())) ** 2 for k, h in enumerate(held))
        best = min(best, (lacking, cost)) if best else (lacking, cost)
    return best


@pytest.mark.parametrize(
    ("seed", "sites", "folds", "kinds"),
    [(s, 7, 3, 2) for s in range(6)] + [(11, 10, 2, 2), (12, 10, 2, 3), (13, 6, 4, 2), (14, 5, 5, 2), (15, 7, 3, 4)],
)
def test_the_balance_is_the_brute_force_optimum(seed, sites, folds, kinds):
    counts = random_sites(seed, sites, kinds)
    required = np.ones(kinds, bool)
    found = balance(counts, required, folds, rng(seed))
    assert found.key == brute_force(counts, required, folds)
    assert evaluate(counts, required, folds, found.fold).key == found.key


@pytest.mark.parametrize("seed", range(6))
def test_the_program_alone_reaches_the_optimum(seed):
    """Without the search's help, so that neither hides a fault of the other."""
    counts, required = random_sites(seed, 7, 2), np.zeros(2, bool)
    found = site_preserving._program(counts, required, 3, required)
    assert found.optimal
    assert found.key == brute_force(counts, required, 3)


def test_large_counts_far_from_their_target_are_solved_exactly():
    """One site of 3000 among small ones: the counts lie where lines are few at first, and are added."""
    counts = np.array([[3000, 10], [40, 3], [35, 9], [20, 1], [7, 30], [3, 2]], np.int64)
    found = balance(counts, np.ones(2, bool), 3, rng())
    assert found.key == brute_force(counts, np.ones(2, bool), 3)
    alone = site_preserving._program(counts, np.zeros(2, bool), 3, np.zeros(2, bool))
    assert alone.optimal
    assert alone.key == brute_force(counts, np.zeros(2, bool), 3)


def test_by_hand():
    """Three sites (6+0, 0+6, 3+3), two folds, targets 4.5 and 4.5.

    First two together: 6+6 | 3+3, four deviations of 1.5, sum of squares 9. First with third: 9+3 | 0+6, two of
    4.5 and two of 1.5, 45. Exact integers are K^2 = 4 times that.
    """
    counts = np.array([[6, 0], [0, 6], [3, 3]], np.int64)
    found = balance(counts, np.ones(2, bool), 2, rng())
    assert found.fold[0] == found.fold[1] != found.fold[2]
    assert (found.lacking, found.cost) == (0, 36)
    assert found.optimal


def test_a_fold_without_a_class_is_avoided_even_where_squares_prefer_it():
    """Four sites (class 0, class 1): A 50+1, B 49+0, C 31+0, D 28+1; targets 79 and 1.

    A+D | B+C holds 78+2 | 80+0: deviations 1, 1, 1, 1, sum of squares 4, but the second fold lacks class 1.
    A+C | B+D holds 81+1 | 77+1: deviations 2, 2, 0, 0, sum of squares 8, and both folds hold both classes.
    A+B | C+D holds 99+1 | 59+1: far off. K^2 = 4 makes the sums exact integers.
    """
    counts = np.array([[50, 1], [49, 0], [31, 0], [28, 1]], np.int64)
    free = balance(counts, np.zeros(2, bool), 2, rng())
    assert free.cost == 4 * 4
    assert free.fold[0] == free.fold[3]
    found = balance(counts, np.ones(2, bool), 2, rng())
    assert (found.lacking, found.cost) == (0, 4 * 8)
    assert found.fold[0] != found.fold[3]
    assert found.optimal


def test_a_class_at_fewer_sites_than_folds_is_reported_not_refused():
    counts = np.array([[10, 4], [10, 0], [10, 0]], np.int64)
    found = balance(counts, np.ones(2, bool), 3, rng())
    assert found.lacking == 2
    assert sorted(found.fold.tolist()) == [0, 1, 2]


def test_as_many_folds_as_sites_leaves_one_site_out():
    found = balance(random_sites(3, 6, 2), np.zeros(2, bool), 6, rng())
    assert sorted(found.fold.tolist()) == list(range(6))


def test_the_seed_decides_and_only_the_seed():
    counts = random_sites(5, 20, 2, patients=300)
    folds = [balance(counts, np.ones(2, bool), 4, rng(seed)).fold.tolist() for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]


def test_a_solver_that_stops_early_leaves_the_search_and_no_claim(monkeypatch):
    counts = random_sites(0, 7, 2)
    monkeypatch.setattr(site_preserving, "_program", lambda *_: None)
    found = balance(counts, np.ones(2, bool), 3, rng())
    assert not found.optimal
    assert evaluate(counts, np.ones(2, bool), 3, found.fold).key == found.key


def test_balance_where_patients_could_be_dealt_one_by_one_needs_no_program(monkeypatch):
    """Twelve sites of one patient each, six of each class: three folds of two and two."""
    monkeypatch.setattr(site_preserving, "_program", lambda *_: pytest.fail("the search had the answer"))
    counts = np.array([[1, 0]] * 6 + [[0, 1]] * 6, np.int64)
    found = balance(counts, np.ones(2, bool), 3, rng())
    assert found.optimal
    assert found.cost == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_share_of_sites_fits_or_says_so(seed):
    counts = random_sites(seed, 15, 2, patients=150)
    patients = counts.sum(1)
    drawn, fits = draw_sites(counts, patients, np.ones(2, bool), 0.2, rng(seed))
    assert drawn.any()
    assert not drawn.all()
    if fits:
        assert 0.1 <= patients[drawn].sum() / patients.sum() <= 0.4
        assert (counts[drawn].sum(0) > 0).all()
        assert (counts[~drawn].sum(0) > 0).all()


def test_no_site_is_small_enough():
    """Two sites of ten: a tenth cannot be had in whole sites."""
    counts = np.array([[5, 5], [5, 5]], np.int64)
    drawn, fits = draw_sites(counts, counts.sum(1), np.ones(2, bool), 0.1, rng())
    assert not fits
    assert drawn.sum() == 1


@pytest.mark.parametrize("seed", range(5))
def test_ten_equal_sites_give_two_for_a_fifth(seed):
    counts = np.full((10, 2), 5, np.int64)
    drawn, fits = draw_sites(counts, counts.sum(1), np.ones(2, bool), 0.2, rng(seed))
    assert fits
    assert drawn.sum() == 2


def test_the_lines_meet_the_square_at_every_touched_count_and_lie_below_it_elsewhere():
    total, folds = np.array([200, 7], np.int64), 3
    touched = [site_preserving._first_touched(int(n), folds) for n in total]
    slope, intercept, pick = site_preserving._lines(total, folds, touched)
    column = pick.toarray().argmax(1)  # f * kinds + c
    for kind, n in enumerate(total.tolist()):
        counts = np.arange(n + 1)
        square = (counts - n / folds) ** 2
        for fold in range(folds):
            mine = column == fold * len(total) + kind
            highest = (slope[mine] * counts[:, None] + intercept[mine]).max(1)
            assert (highest <= square + 1e-9).all()
            np.testing.assert_allclose(highest[touched[kind]], square[touched[kind]], atol=1e-9)
