"""The measures behind the findings, against values worked by hand or by other programs."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import check_planted as planting
from milkit.bag import Bag
from milkit.check import duplicates, label_column, scaler
from milkit.check.balance import cramers_v
from milkit.check.folds import Roles
from milkit.check.gather import gather
from milkit.check.roles import _chance_whole
from milkit.check.sketch import Sketcher, common_rows
from milkit.check.values import robust_z


class Source:
    """Bags by number, counting reads."""

    def __init__(self, bags):
        self.bags, self.features, self.reads = bags, bags[0].shape[1], 0
        self.ids = [str(i) for i in range(len(bags))]

    def read(self, name):
        self.reads += 1
        return Bag(name, self.bags[int(name)])


def gathered(bags):
    source = Source(bags)
    return gather(source, source.ids)


def test_moments_and_ends_of_a_bag_by_hand():
    g = gathered([np.array([[1.0, -0.0], [3.0, 4.0]], np.float32), np.array([[0.0, 0.0]], np.float16)])
    assert g.mean.tolist() == [[2, 2], [0, 0]]
    assert g.square.tolist() == [[5, 8], [0, 0]]
    assert g.high.tolist() == [[3, 4], [0, 0]]
    assert g.low.tolist() == [[1, 0], [0, 0]]
    assert g.norm.tolist() == [3.0, 0.0]
    assert g.zero_rows.tolist() == [0, 1]


def test_rows_that_are_not_finite_are_counted_and_left_out():
    g = gathered([np.array([[1, np.nan], [2, np.inf], [3, 5]], np.float32), np.ones((2, 2), np.float32)])
    assert g.broken.tolist() == [2, 0]
    assert g.broken_columns.tolist() == [0, 2]
    assert g.mean.tolist() == [[3, 5], [1, 1]]


def test_a_hash_is_of_the_values_not_of_the_dtype_or_the_sign_of_zero():
    x = np.array([[0.5, 0.0, 2.0], [0.5, -0.0, 2.0], [0.5, 0.0, 2.5]], np.float32)
    s = Sketcher.of(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    h = s.hashes(x)
    assert h[0] == h[1] != h[2]
    assert np.array_equal(s.hashes(x.astype(np.float16).astype(np.float32)), h)


def test_projections_keep_distances():
    """Johnson and Lindenstrauss: squared distances in 64 directions have a relative SD of sqrt(2 / 64) = 18 %."""
    x = np.random.default_rng(1).normal(size=(60, 300)).astype(np.float32)
    p = Sketcher.of(x).project(x)
    z = (x - x.mean(0)) / x.std(0)
    true = ((z[:30] - z[30:]) ** 2).sum(1)
    ratio = ((p[:30] - p[30:]) ** 2).sum(1) / true
    assert abs(ratio.mean() - 1) < 0.12
    assert ratio.std() < 0.27


def test_overlapping_bags_keep_the_same_rows():
    rng = np.random.default_rng(2)
    tiles = rng.normal(size=(4000, 64)).astype(np.float32)
    sketcher = Sketcher.of(tiles)
    projected = sketcher.project(tiles)
    spread = projected.std(0)
    moved = projected + 0.01 * spread * rng.normal(size=projected.shape).astype(np.float32)
    order = rng.permutation(4000)[:3200]  # in another order, a fifth missing
    kept = common_rows(projected, spread, 64)
    again = order[common_rows(moved[order], spread, 64)]
    assert len(set(kept.tolist()) & set(again.tolist())) >= 32
    assert len(common_rows(projected[:50], spread, 64)) == 50


def test_nearest_rows_against_all_distances():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 8)).astype(np.float32)
    bag = np.repeat([0, 1, 4, 6], 10).astype(np.int32)
    row, _, first, second, rare = duplicates._nearest(x, bag)
    far = np.linalg.norm(x[:, None] - x[None], axis=2)
    far[bag[:, None] == bag[None]] = np.inf
    assert np.array_equal(row, far.argmin(1))
    np.testing.assert_allclose(first, far.min(1), rtol=1e-5)
    third = np.array([far[i][bag != bag[row[i]]].min() for i in range(40)])
    np.testing.assert_allclose(second, third, rtol=1e-5)
    assert np.isinf(rare).all()  # there is no fourth other bag


def test_a_row_in_many_bags_is_common_and_no_copy():
    rng = np.random.default_rng(4)
    blank = rng.normal(size=(5, 16))
    bags = [np.concatenate([rng.normal(size=(9, 16)), blank]).astype(np.float32) for _ in range(8)]
    pairs, common = duplicates.alike(gathered(bags))
    assert common == 5
    assert not any(p.part or p.whole for p in pairs)


@pytest.mark.parametrize(
    ("bags", "draw"),
    [
        (12, lambda rng: rng.normal(size=(100, 2))),
        (5, lambda rng: rng.normal(size=(300, 2))),
        (12, lambda rng: rng.integers(0, 9, size=(60, 4))),
        (6, lambda rng: rng.integers(0, 9, size=(200, 4))),
    ],
)
def test_rows_that_are_alike_by_chance_are_no_copies(bags, draw):
    """Features of two columns or of few values; a copy among them is found all the same."""
    rng = np.random.default_rng(10)
    drawn = [draw(rng).astype(np.float32) for _ in range(bags)]
    pairs, _ = duplicates.alike(gathered(drawn))
    assert sum(p.equal + p.close for p in pairs) > 10
    assert not any(p.part or p.whole for p in pairs)
    drawn[4] = np.concatenate([drawn[4][:20], drawn[1][:40]])
    assert [(p.first, p.second) for p in duplicates.alike(gathered(drawn))[0] if p.part or p.whole] == [(1, 4)]


def test_three_scans_of_one_slide():
    rng = np.random.default_rng(8)
    bags = [rng.normal(size=(20, 40)).astype(np.float32) for _ in range(9)]
    for i in (2, 7):
        bags[i] = (bags[5] + 0.03 * rng.normal(size=bags[5].shape)).astype(np.float32)
    pairs, _ = duplicates.alike(gathered(bags))
    assert {i for p in pairs if p.part or p.whole for i in (p.first, p.second)} == {2, 5, 7}


def test_hashes_let_go_are_let_go_in_all_bags_alike(monkeypatch):
    from milkit.check import gather as gathering

    monkeypatch.setattr(gathering, "HASHES", 300)
    rng = np.random.default_rng(5)
    bags = [rng.normal(size=(200, 6)).astype(np.float32) for _ in range(6)]
    bags[4] = np.concatenate([bags[4], bags[1][:100]])
    g = gathered(bags)
    assert len(g.hashes) <= 300
    assert g.limit < 2**64 - 1
    pair = next(p for p in duplicates.alike(g)[0] if (p.first, p.second) == (1, 4))
    assert 40 <= pair.equal <= 170  # an estimate: about 25 of 100 were kept


def test_aurocs_are_those_of_scikit_learn():
    rng = np.random.default_rng(6)
    values, y = rng.integers(0, 6, size=(50, 4)).astype(float), rng.integers(0, 2, 50)
    found = label_column.aurocs(values, y[None])[0]
    expected = [roc_auc_score(y, values[:, j]) for j in range(4)]
    np.testing.assert_allclose(found, [max(a, 1 - a) for a in expected])


def test_a_copy_needs_a_gap_wider_than_its_clumps():
    y = np.array([0, 0, 0, 1, 1, 1])
    assert label_column._copy(np.array([0, 0, 0, 1, 1, 1.0]), y)
    assert label_column._copy(np.array([0, 0.1, 0.2, 0.7, 0.8, 0.9]), y)
    assert not label_column._copy(np.array([0, 0.1, 0.3, 0.7, 0.8, 0.9]), y)
    assert not label_column._copy(np.array([0, 0, 1, 0, 1, 1.0]), y)


def test_a_value_of_one_class_only():
    high = np.array([[0, 1], [0, 1], [1, 1], [0, 0.0]])
    assert label_column._of_one_class(high, np.array([0, 0, 1, 1])).tolist() == [True, False]


def test_cramers_v_by_hand():
    assert cramers_v(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])) == 1
    assert cramers_v(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == 0
    # 30 10 / 10 30: chi2 = 80 x (900 - 100)^2 / 40^4 = 20, V = sqrt(20 / 80)
    a, b = np.repeat([0, 0, 1, 1], [30, 10, 10, 30]), np.repeat([0, 1, 0, 1], [30, 10, 10, 30])
    assert cramers_v(a, b) == pytest.approx(0.5)


def test_the_chance_that_sites_stand_whole_by_hand():
    """Two sites of two patients, half of the patients tested: each is whole with 1/2, both with 1/4."""
    split = Roles("s", np.array(["test", "test", "train", "train"]))
    site, patient = np.array(["x", "x", "y", "y"]), np.array(["1", "2", "3", "4"])
    assert _chance_whole([split], site, patient) == pytest.approx(0.25)
    assert _chance_whole([split, split], site, patient) == pytest.approx(0.5)


def test_robust_z_by_hand():
    z = robust_z(np.array([1, 2, 3, 4, 5, 6, 7, 8, 100.0]))  # median 5, MAD 2
    assert z[8] == pytest.approx(95 / (1.4826 * 2))
    assert z[4] == 0
    assert robust_z(np.array([1.0, 50.0])).tolist() == [0, 0]


@pytest.mark.parametrize("how", ["rows of unit length", "each bag by itself", "as they are"])
def test_scalings_that_leak_nothing_are_left_alone(how):
    c = planting.load("musk1").copy()
    for slide, x in c.bags.items():
        if how == "rows of unit length":
            c.bags[slide] = x / np.linalg.norm(x, axis=1, keepdims=True)
        elif how == "each bag by itself":
            sd = x.std(0)
            c.bags[slide] = ((x - x.mean(0)) / np.where(sd > 0, sd, 1)).astype(np.float32)
    assert not [f for f in planting.run(c).findings if f.kind == "scaler_leak"]


def test_a_scaler_of_the_training_part_is_honest_in_one_split_only():
    c = planting.load("musk1").copy()
    train = [s for s, role in c.role(0).items() if role == "train"]
    mean, sd = planting._all(c, train)
    c.bags = {s: ((x - mean) / sd).astype(np.float32) for s, x in c.bags.items()}
    one = c.copy()
    one.folds = [row for row in c.folds if row[0] == 0]
    assert not [f for f in planting.run(one).findings if f.kind == "scaler_leak"]
    (found,) = [f for f in planting.run(c).findings if f.kind == "scaler_leak"]
    assert found.severity == "error"
    assert "fold 0" in found.where


def test_a_scaler_of_train_and_test_that_left_validation_out():
    c = planting.load("musk1").copy()
    roles = c.role(0)
    held = set(sorted(s for s, r in roles.items() if r == "train")[:12])
    c.folds = [(0, "validation" if s in held else r, s) for s, r in roles.items()]
    mean, sd = planting._all(c, [s for s in c.bags if s not in held])
    c.bags = {s: ((x - mean) / sd).astype(np.float32) for s, x in c.bags.items()}
    (found,) = [f for f in planting.run(c).findings if f.kind == "scaler_leak"]
    assert found.severity == "error"
    assert "training and test" in found.detail


def test_standardised_features_without_folds_are_no_error():
    c = planting.load("musk1").copy()
    planting.scaled_on_all(c, np.random.default_rng(0))
    c.folds = [(0, "train", s) for s in c.bags]
    (found,) = [f for f in planting.run(c).findings if f.kind == "scaler_leak"]
    assert found.severity == "warning"
    assert scaler.EXACT < 0.01


def test_bags_are_read_at_most_twice_and_not_kept():
    source = Source([np.random.default_rng(i).normal(size=(30, 5)).astype(np.float32) for i in range(300)])
    gather(source, source.ids)
    assert source.reads == 300 + 256
