"""The folds that ship with the data, MUSK1's among them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from milkit.data.protocol import GivenFolds
from milkit.data.study import GivenSplit
from milkit.errors import ProtocolError
from milkit.task import Binary


def roles(text):
    """One letter a bag: t(rain), v(alidation), e(valuated, test), . (no role)."""
    return np.array([{"t": "train", "v": "validation", "e": "test", ".": ""}[c] for c in text])


@pytest.fixture(scope="module")
def musk1(shared: Path, study):
    path = shared / "data" / "mil_classic" / "musk1.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with np.load(path) as data:
        train, y = data["train_folds"], data["y"]
    given = [GivenSplit(r, f, np.where(train[r, f], "train", "test")) for r in range(5) for f in range(10)]
    return study(y, given=given), train


def test_musk1_keeps_its_test_parts_and_validates_on_a_tenth(musk1):
    cohort, train = musk1
    plan = GivenFolds(validation=0.1).plan(cohort, Binary())
    assert [s.key for s in plan.splits] == [(r, f, 0) for r in range(5) for f in range(10)]
    y = cohort.targets.values
    for split in plan.splits:
        given = train[split.repeat, split.fold]
        assert split.test.tolist() == np.flatnonzero(~given).tolist()
        assert sorted([*split.train, *split.validation]) == np.flatnonzero(given).tolist()
        assert len(split.validation) == 8  # of 82 or 83: round(8.2) = round(8.3) = 8
        assert y[split.validation].sum() in (4, 5)  # 41 to 43 of 82 or 83 are positive, so 8 x .5 +- .2
    assert plan.has_validation
    assert plan.grouped_by == "patient"


def test_musk1_validation_parts_differ_between_folds_and_seeds(musk1):
    cohort, _ = musk1
    plans = [GivenFolds(seed=seed).plan(cohort, Binary()) for seed in (0, 1)]
    held = {tuple(s.validation) for plan in plans for s in plan.splits}
    assert len(held) == 100


def test_musk1_without_validation_is_the_papers_protocol(musk1):
    cohort, train = musk1
    plan = GivenFolds(validation=0.0).plan(cohort, Binary())
    assert not plan.has_validation
    assert all(s.train.tolist() == np.flatnonzero(train[s.repeat, s.fold]).tolist() for s in plan.splits)


def test_a_given_validation_part_is_kept(study):
    cohort = study([0, 1] * 4, given=[GivenSplit(0, 0, roles("ttttvvee"))])
    split = GivenFolds(validation=0.5).plan(cohort, Binary()).splits[0]
    assert split.validation.tolist() == [4, 5]
    assert split.train.tolist() == [0, 1, 2, 3]


def test_validation_keeps_patients_whole(study):
    """Four training patients of two slides: half of them validate, with both slides each."""
    cohort = study(
        [0, 0, 1, 1] * 2 + [0, 1], patient=list("aabbccddef"), given=[GivenSplit(0, 0, roles("t" * 8 + "ee"))]
    )
    split = GivenFolds(validation=0.5).plan(cohort, Binary()).splits[0]
    assert len(split.validation) == 4
    assert len(set(cohort.patient[split.validation])) == 2


def test_bags_without_a_role_are_named(study):
    cohort = study([0, 1] * 4, given=[GivenSplit(0, 0, roles("tttt..ee"))])
    plan = GivenFolds(validation=0.0).plan(cohort, Binary())
    assert "Bags without a role in any split: 2 (b004, b005)." in plan.notes


def test_splits_come_in_order(study):
    given = [GivenSplit(0, 1, roles("eett")), GivenSplit(0, 0, roles("ttee"))]
    plan = GivenFolds(validation=0.0).plan(study([0, 1, 0, 1], given=given), Binary())
    assert [s.key for s in plan.splits] == [(0, 0, 0), (0, 1, 0)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["ttttttt."], r"fold 0 has nobody in the role 'test'"),
        (["....eeee"], r"fold 0 has nobody in the role 'train'"),
        (["ttttetet"], r"test part holds one class only \(0 2, 1 0\)"),
        (["t.t.teee"], r"training part holds one class only \(0 3, 1 0\)"),
    ],
)
def test_given_splits_with_a_fault_are_refused(given, message, study):
    cohort = study([0, 1] * 4, given=[GivenSplit(0, i, roles(text)) for i, text in enumerate(given)])
    with pytest.raises(ProtocolError, match=message):
        GivenFolds(validation=0.0).plan(cohort, Binary())


def test_a_split_given_twice_is_refused(study):
    cohort = study([0, 1] * 2, given=[GivenSplit(0, 0, roles("ttee")), GivenSplit(0, 0, roles("eett"))])
    with pytest.raises(ProtocolError, match="repeat 0, fold 0 more than once"):
        GivenFolds().plan(cohort, Binary())


def test_a_validation_part_does_not_depend_on_the_other_splits(musk1):
    cohort, _ = musk1
    every = GivenFolds().plan(cohort, Binary())
    one = GivenFolds().plan(replace(cohort, given=cohort.given[37:38]), Binary())
    assert one.splits[0].key == every.splits[37].key
    assert one.splits[0].validation.tolist() == every.splits[37].validation.tolist()
