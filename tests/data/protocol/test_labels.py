"""Label budgets: who is drawn for few labels, and from what."""

import numpy as np
import pytest

from milkit.data.protocol import KFold, LabelBudget, Nested
from milkit.data.protocol.labels import few_label_rows, few_label_splits
from milkit.errors import ConfigError, ProtocolError
from milkit.task import Binary, MultiClass, MultiLabel, Survival

TASK = Binary()


@pytest.fixture
def cohort(study):
    """40 patients with one or two slides each, every third positive."""
    ids = [f"p{i // 2:02d}" if i < 40 else f"p{i - 20:02d}" for i in range(60)]
    return study([int(p[1:]) % 3 == 0 for p in ids], patient=ids)


def drawn(budget, cohort, protocol=None, task=TASK):
    plan = (protocol or KFold(folds=4, validation=0.25)).plan(cohort, task)
    return plan, few_label_splits(budget, plan, cohort, task)


def by_key(few):
    return {(s.labels, s.draw, *s.key): s for s in few.splits}


def test_a_budget_holds_k_patients_of_each_class_with_all_their_bags(cohort):
    plan, few = drawn(LabelBudget((1, 3), draws=2), cohort)
    whole = {s.key: s for s in plan.splits}
    assert len(few.splits) == 4 * 2 * 2
    for split in few.splits:
        for role in ("train", "validation"):
            rows, part = getattr(split, role), getattr(whole[split.key], role)
            assert set(rows) <= set(part)
            patients = set(cohort.patient[rows])
            # all bags that a chosen patient has in the part
            assert set(rows) == {r for r in part if cohort.patient[r] in patients}
            classes = [int(p[1:]) % 3 == 0 for p in patients]
            available = [int(p[1:]) % 3 == 0 for p in set(cohort.patient[part])]
            assert classes.count(True) == min(split.labels, available.count(True))
            assert classes.count(False) == min(split.labels, available.count(False))
        assert np.array_equal(split.test, whole[split.key].test)


def test_training_parts_are_always_filled(cohort):
    _, few = drawn(LabelBudget((1, 3), draws=1), cohort)
    for split in few.splits:
        assert len(set(cohort.patient[split.train])) == 2 * split.labels


def test_smaller_budgets_are_within_larger_ones_of_the_same_draw(cohort):
    _, few = drawn(LabelBudget((1, 2, 4), draws=3), cohort)
    found = by_key(few)
    for (k, *rest), split in found.items():
        if k > 1:
            smaller = found[k // 2, *rest]
            assert set(smaller.train) < set(split.train)
            assert set(smaller.validation) <= set(split.validation)


def test_no_patient_stands_in_two_roles(cohort):
    _, few = drawn(LabelBudget((1, 4), draws=3), cohort)
    for split in few.splits:
        roles = [set(cohort.patient[getattr(split, r)]) for r in ("train", "validation", "test")]
        assert len(set.union(*roles)) == sum(map(len, roles))


def test_a_subset_depends_on_its_own_numbers_only(cohort):
    _, many = drawn(LabelBudget((1, 2, 4), draws=5), cohort)
    _, few = drawn(LabelBudget((2,), draws=1), cohort)
    all_of_them = by_key(many)
    for key, split in by_key(few).items():
        assert np.array_equal(split.train, all_of_them[key].train)
        assert np.array_equal(split.validation, all_of_them[key].validation)


def test_draws_splits_and_seeds_differ(cohort):
    _, few = drawn(LabelBudget((2,), draws=4), cohort)
    _, other = drawn(LabelBudget((2,), draws=4, seed=1), cohort)
    trains = [tuple(s.train) for s in few.splits]
    assert len(set(trains)) > len(trains) // 2
    assert trains != [tuple(s.train) for s in other.splits]


def test_inner_folds_draw_for_themselves(cohort):
    _, few = drawn(LabelBudget((2,), draws=1), cohort, Nested(folds=3, inner=2))
    assert {s.key for s in few.splits} == {(0, f, i) for f in range(3) for i in range(2)}


def test_the_order_of_the_table_does_not_matter(study):
    ids = [f"p{i:02d}" for i in range(30)]
    one, two = (study([int(p[1:]) % 2 for p in order], patient=order, bag=order) for order in (ids, ids[::-1]))
    trained = []
    for cohort in (one, two):
        _, few = drawn(LabelBudget((2,), draws=2), cohort)
        trained.append([sorted(cohort.patient[s.train].tolist()) for s in few.splits])
    assert trained[0] == trained[1]


def test_a_whole_validation_part_stays_whole(cohort):
    plan, few = drawn(LabelBudget((1,), draws=2, validation="whole"), cohort)
    whole = {s.key: s for s in plan.splits}
    for split in few.splits:
        assert np.array_equal(split.validation, whole[split.key].validation)


def test_a_budget_that_a_part_cannot_fill_is_left_out_everywhere(cohort):
    """14 of 40 patients are positive; a training part of 3/4 of 3/4 of them holds 7 or 8."""
    plan, few = drawn(LabelBudget((1, 4, 16), draws=1), cohort)
    assert {s.labels for s in few.splits} == {1, 4}
    positive = [sum(int(p[1:]) % 3 == 0 for p in set(cohort.patient[s.train])) for s in plan.splits]
    (note,) = few.notes
    assert "Label budget of 16 left out" in note
    assert f"has {min(positive)} patients of class '1'" in note


def test_no_budget_that_can_be_filled_is_an_error(cohort):
    with pytest.raises(ProtocolError, match=r"asks for 30 or more, but the training part of repeat 0, fold \d has"):
        drawn(LabelBudget((30, 40)), cohort)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patients_per_class": ()}, "expected rising numbers"),
        ({"patients_per_class": (4, 2)}, "expected rising numbers"),
        ({"patients_per_class": (2, 2)}, "expected rising numbers"),
        ({"patients_per_class": (0, 2)}, "patients_per_class"),
        ({"draws": 0}, "draws"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        LabelBudget(**fields)


def test_the_table_names_who_trains_and_validates(cohort):
    _, few = drawn(LabelBudget((1,), draws=1), cohort)
    header, *rows = few_label_rows(few.splits, cohort)
    assert header == ("labels", "draw", "repeat", "fold", "inner", "role", "bag", "patient")
    first = [row for row in rows if row[3] == 0]
    split = few.splits[0]
    assert [row[6] for row in first if row[5] == "train"] == cohort.bag[split.train].tolist()
    assert [row[6] for row in first if row[5] == "validation"] == cohort.bag[split.validation].tolist()
    assert not [row for row in rows if row[5] == "test"]


def test_the_largest_budget_comes_first(cohort):
    """Runs of like size then share programs, where a step that none of them needs is skipped."""
    _, few = drawn(LabelBudget((1, 2, 4), draws=2), cohort)
    budgets = [s.labels for s in few.splits]
    assert budgets == sorted(budgets, reverse=True)


@pytest.mark.parametrize(
    ("task", "values", "names", "each"),
    [
        (MultiClass(), np.arange(36) % 3, ("a", "b", "c"), 3),
        (MultiLabel(("x", "y")), np.stack([np.arange(36) % 2, np.arange(36) // 2 % 2], 1), ("x", "y"), 1),
        (Survival(), np.stack([np.arange(36) + 1.0, np.arange(36) % 2], 1), ("time", "event"), 2),
    ],
)
def test_what_counts_as_a_class(study, task, values, names, each):
    """Classes; event and censored; multi-label: everybody."""
    cohort = study(values, names)
    _, few = drawn(LabelBudget((2,), draws=1), cohort, task=task)
    for split in few.splits:
        assert len(split.train) == 2 * each
        if isinstance(task, Survival):
            assert values[split.train, 1].sum() == 2
