"""What every protocol promises, on random cohorts of every task."""

import dataclasses
import json
import typing
from collections import Counter

import numpy as np
import pytest

from milkit.data.protocol import GivenFolds, Holdout, KFold, MonteCarlo, Nested, Protocol, SavedFolds
from milkit.data.study import Study
from milkit.errors import ConfigError, ProtocolError
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival

TASKS = {
    "binary": Binary(),
    "multiclass": MultiClass(),
    "multilabel": MultiLabel(("x", "y", "z")),
    "regression": Regression(("value",)),
    "survival": Survival(),
}
DRAWN = [
    KFold(5, repeats=2),
    KFold(4, validation=0.2, stratify=False),
    MonteCarlo(6),
    Holdout(),
    Nested(4, inner=3, repeats=2),
]
BY_SITE = [
    KFold(3, repeats=2, group="site"),
    MonteCarlo(5, group="site"),
    Holdout(group="site"),
    Nested(3, 2, group="site"),
]


def same(a, b):
    return a.key == b.key and all(np.array_equal(getattr(a, r), getattr(b, r)) for r in ("train", "validation", "test"))


def patients(study, rows):
    return set(study.patient[rows].tolist())


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("protocol", DRAWN + BY_SITE, ids=repr)
def test_roles_are_a_partition_that_keeps_patients_whole(protocol, kind, random_study):
    for seed in range(2):
        study = random_study(seed, kind=kind)
        plan = protocol.plan(study, TASKS[kind])
        assert plan.has_validation
        assert plan.marks == ()
        assert plan.grouped_by == protocol.group
        for split in plan.splits:
            every = np.concatenate([split.train, split.validation, split.test])
            assert sorted(every.tolist()) == list(range(len(study)))
            roles = [patients(study, rows) for rows in (split.train, split.validation, split.test)]
            assert sum(map(len, roles)) == len(set.union(*roles)) == 60


@pytest.mark.parametrize("protocol", BY_SITE, ids=repr)
def test_no_test_site_is_met_in_training(protocol, random_study):
    for seed in range(4):
        study = random_study(seed)
        for split in protocol.plan(study, Binary()).splits:
            seen = np.concatenate([split.train, split.validation])
            assert not set(study.site[seen]) & set(study.site[split.test])


@pytest.mark.parametrize("group", ["patient", "site"])
def test_k_folds_test_each_patient_once_a_repeat(group, random_study):
    study = random_study(7)
    plan = KFold(3, repeats=2, group=group).plan(study, Binary())
    for repeat in range(2):
        tested = np.concatenate([s.test for s in plan.splits if s.repeat == repeat])
        assert sorted(tested.tolist()) == list(range(len(study)))


def test_folds_of_two_repeats_differ(random_study):
    plan = KFold(5, repeats=2).plan(random_study(0), Binary())
    first, second = ([s.test.tolist() for s in plan.splits if s.repeat == r] for r in (0, 1))
    assert sorted(first) != sorted(second)


@pytest.mark.parametrize("seed", range(8))
def test_classes_are_within_one_patient_of_even(seed, random_study):
    study = random_study(seed, kind="multiclass")
    label = dict(zip(study.patient.tolist(), study.targets.values.tolist(), strict=True))
    folds = [Counter(label[p] for p in patients(study, s.test)) for s in KFold(5).plan(study, MultiClass()).splits]
    for c in range(3):
        counts = [fold[c] for fold in folds]
        assert max(counts) - min(counts) <= 1
    assert max(map(Counter.total, folds)) - min(map(Counter.total, folds)) <= 1


def test_events_and_their_times_are_even_over_folds(random_study):
    study = random_study(3, patients=100, kind="survival")
    outcome = dict(zip(study.patient.tolist(), map(tuple, study.targets.values.tolist()), strict=True))
    events, medians = [], []
    for split in KFold(4).plan(study, Survival()).splits:
        test = [outcome[p] for p in patients(study, split.test)]
        events.append(sum(event for _, event in test))
        medians.append(np.median([time for time, event in test if event]))
    everyone = sorted(time for time, event in outcome.values() if event)
    assert max(events) - min(events) <= 1
    # Each block of four neighbours meets every fold: a fold's median event is within two blocks of the cohort's
    # (one block either side, and one for the events left over).
    middle = len(everyone) // 2
    assert all(everyone[middle - 8] <= m <= everyone[middle + 8] for m in medians)


def test_validation_is_its_share_of_the_other_patients(random_study):
    """60 patients, 5 folds: 48 are not tested, round(0.1 x 48) = 5 validate."""
    study = random_study(1)
    for split in KFold(5).plan(study, Binary()).splits:
        assert len(patients(study, split.test)) == 12
        assert len(patients(study, split.validation)) == 5


def test_shares_by_hand(study):
    """20 + 20 bags, test 0.2: 4 + 4; of the other 16 + 16, validation 0.25: 4 + 4."""
    cohort = study([0, 1] * 20)
    for protocol in (Holdout(0.2, 0.25), MonteCarlo(3, 0.2, 0.25)):
        for split in protocol.plan(cohort, Binary()).splits:
            counts = [
                np.bincount(cohort.targets.values[r]).tolist() for r in (split.train, split.validation, split.test)
            ]
            assert counts == [[12, 12], [4, 4], [4, 4]]


def test_nested_inner_folds_part_the_outer_rest(random_study):
    study = random_study(2)
    plan = Nested(5, inner=4).plan(study, Binary())
    assert [s.key for s in plan.splits] == [(0, f, i) for f in range(5) for i in range(4)]
    for fold in range(5):
        runs = [s for s in plan.splits if s.fold == fold]
        assert all(np.array_equal(s.test, runs[0].test) for s in runs)
        held = np.concatenate([s.validation for s in runs])
        rest = np.setdiff1d(np.arange(len(study)), runs[0].test)
        assert sorted(held.tolist()) == rest.tolist()


def test_no_validation_when_none_is_asked_for(random_study):
    for protocol in (KFold(validation=0.0), MonteCarlo(2, validation=0.0), Holdout(validation=0.0)):
        plan = protocol.plan(random_study(0), Binary())
        assert not plan.has_validation
        assert all(len(s.validation) == 0 for s in plan.splits)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", DRAWN + BY_SITE, ids=repr)
def test_the_same_seed_gives_the_same_plan_and_another_seed_another(protocol, random_study):
    study = random_study(0)
    once, twice = (protocol.plan(study, Binary()) for _ in range(2))
    assert once.digest() == twice.digest()
    assert once.digest() != dataclasses.replace(protocol, seed=1).plan(study, Binary()).digest()


def test_the_order_of_the_table_does_not_matter(random_study):
    study = random_study(4)
    order = np.random.default_rng(0).permutation(len(study))
    rows = {name: getattr(study, name)[order] for name in ("bag", "patient", "site", "cohort", "lengths")}
    targets = dataclasses.replace(study.targets, values=study.targets.values[order])
    shuffled = dataclasses.replace(study, **rows, targets=targets, slides=tuple(study.slides[i] for i in order))
    for protocol in (KFold(3), KFold(3, group="site"), Nested(3, 2)):
        plans = [(s, protocol.plan(s, Binary())) for s in (study, shuffled)]
        named = [[set(s.bag[split.validation]) for split in plan.splits] for s, plan in plans]
        assert named[0] == named[1]


def test_more_repeats_change_no_earlier_one(random_study):
    study = random_study(5)
    few, many = KFold(4, repeats=2).plan(study, Binary()), KFold(4, repeats=4).plan(study, Binary())
    assert all(same(a, b) for a, b in zip(few.splits, many.splits[:8], strict=True))
    few, many = MonteCarlo(3).plan(study, Binary()), MonteCarlo(7).plan(study, Binary())
    assert all(same(a, b) for a, b in zip(few.splits, many.splits[:3], strict=True))


def test_the_validation_share_moves_no_test_part(random_study):
    study = random_study(5)
    plans = [KFold(4, validation=share).plan(study, Binary()) for share in (0.0, 0.1, 0.3)]
    for splits in zip(*(p.splits for p in plans), strict=True):
        assert np.array_equal(splits[0].test, splits[1].test)
        assert np.array_equal(splits[0].test, splits[2].test)


def test_configs_are_plain_json_and_the_union_lists_them_all():
    members = typing.get_args(Protocol)
    assert set(members) == {GivenFolds, KFold, MonteCarlo, Holdout, Nested, SavedFolds}
    for member in members:
        config = member("folds.csv") if member is SavedFolds else member()
        values = json.loads(json.dumps(dataclasses.asdict(config)))
        assert member(**values) == config


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: KFold(1), r"protocol.folds is 1; expected a whole number, at least 2"),
        (lambda: KFold(repeats=0), "protocol.repeats is 0"),
        (lambda: KFold(seed=-1), "protocol.seed is -1"),
        (lambda: KFold(validation=1.0), r"protocol.validation is 1.0; expected a number, in \[0, 1\)"),
        (lambda: Holdout(test=0.0), r"protocol.test is 0.0; expected a number, in \(0, 1\)"),
        (lambda: Holdout(test=1.2), "protocol.test is 1.2"),
        (lambda: MonteCarlo(0), "protocol.splits is 0"),
        (lambda: MonteCarlo(validation=-0.1), "protocol.validation is -0.1"),
        (lambda: Holdout(test=float("nan")), "protocol.test is nan"),
        (lambda: Nested(inner=1), "protocol.inner is 1"),
        (lambda: GivenFolds(validation=1.0), "protocol.validation is 1.0"),
        (lambda: KFold(group="site", allow_patient_overlap=True), r"contradicts itself"),
    ],
)
def test_fields_out_of_range_are_refused_when_written(build, message):
    with pytest.raises((ConfigError, ProtocolError), match=message):
        build()


@pytest.mark.parametrize(
    ("protocol", "values", "message"),
    [
        (KFold(5), [0, 1, 0, 1], r"folds=5 needs at least 5 patients, but there are 4\. Take folds=4"),
        (
            KFold(5),
            [0] * 12 + [1] * 3,
            r"fold \d: the test part holds one class only \(0 3, 1 0\).*15 patients: 0 12, 1 3.*allow_single_class",
        ),
        (KFold(3, validation=0.0), [0] * 12, r"training part holds one class only \(0 8, 1 0\)"),
        (KFold(5, validation=0.1), [0, 1] * 2 + [0], r"validation=0.1 of 4 patients yields no patient.*larger"),
        (Holdout(test=0.05), [0, 1] * 4, r"test=0.05 of 8 patients yields no patient"),
        (Holdout(test=0.99), [0, 1] * 4, r"test=0.99 of 8 patients yields all 8"),
        (Nested(2, inner=5), [0, 1] * 4, r"inner=5 needs at least 5 patients, but there are 4"),
        (GivenFolds(), [0, 1] * 4, r"comes without splits"),
    ],
)
def test_what_cannot_be_arranged_says_why(protocol, values, message, study):
    with pytest.raises(ProtocolError, match=message):
        protocol.plan(study(values), Binary())


def test_survival_needs_events_in_training_and_test(study):
    times = np.arange(1.0, 13.0)
    none = np.stack([times, np.zeros(12)], axis=1)
    with pytest.raises(ProtocolError, match=r"training part holds no event \(censored 8, event 0\)"):
        KFold(3, validation=0.0).plan(study(none, ("time", "event")), Survival())
    two = np.stack([times, times > 10], axis=1)
    with pytest.raises(ProtocolError, match=r"test part holds no event \(censored 4, event 0\)"):
        KFold(3, validation=0.0).plan(study(two, ("time", "event")), Survival())
    plan = KFold(3, validation=0.0, allow_single_class=True).plan(study(two, ("time", "event")), Survival())
    assert any("1 of 3 test parts lack an event" in note for note in plan.notes)


def test_labels_and_values_that_never_vary_cannot_be_learned(study):
    labels = np.tile([1.0, 0.0], (10, 1))
    with pytest.raises(ProtocolError, match=r"no label of which both 0 and 1 occur \(x 8, y 0 positive\)"):
        KFold(5, validation=0.0).plan(study(labels, ("x", "y")), MultiLabel(("x", "y")))
    with pytest.raises(ProtocolError, match=r"one value only \(8 patients\)"):
        KFold(5, validation=0.0).plan(study(np.ones((10, 1)), ("v",)), Regression(("v",)))


def test_opposite_values_are_values_all_the_same(study):
    """Two targets whose mean rank is one constant still vary."""
    values = np.stack([np.arange(10.0), -np.arange(10.0)], axis=1)
    assert len(KFold(5).plan(study(values, ("u", "v")), Regression(("u", "v"))).splits) == 5


def test_leave_one_out_is_allowed_on_request_and_noted(study):
    cohort = study([0, 1] * 4)
    with pytest.raises(ProtocolError, match="one class only"):
        KFold(8, validation=0.0).plan(cohort, Binary())
    plan = KFold(8, validation=0.0, allow_single_class=True).plan(cohort, Binary())
    assert all(len(s.test) == 1 and len(s.train) == 7 for s in plan.splits)
    assert any("8 of 8 test parts lack a class" in note for note in plan.notes)


def test_a_class_absent_from_validation_is_a_note(study):
    plan = KFold(3, validation=0.1).plan(study([0, 1] * 6), Binary())  # one patient of eight validates
    assert plan.has_validation
    assert any("3 of 3 validation parts lack a class" in note for note in plan.notes)


def test_few_positives_are_a_note_and_many_are_not(study):
    few = KFold(5).plan(study([0] * 40 + [1] * 10), Binary())
    assert any("as few as 2 of '1'" in note for note in few.notes)
    assert KFold(5).plan(study([0, 1] * 50), Binary()).notes == ()


def test_by_bag_leaks_are_marked(random_study):
    study: Study = random_study(0)
    plan = KFold(5, allow_patient_overlap=True).plan(study, Binary())
    assert plan.marks == ("patients in two roles",)
    sizes = [len(s.test) for s in plan.splits]
    assert max(sizes) - min(sizes) <= 1  # bags are dealt, not patients


def test_the_allowance_alone_marks_nothing(study):
    """Every bag is a patient of its own: nobody can be in two roles."""
    assert KFold(5, allow_patient_overlap=True).plan(study([0, 1] * 20), Binary()).marks == ()


class TestSites:
    def test_fewer_sites_than_folds(self, study):
        cohort = study([0, 1] * 6, site=["A", "B", "C"] * 4)
        with pytest.raises(ProtocolError, match=r"needs at least 4 sites.*there are 3: A, B, C\. Take folds=3"):
            KFold(4, group="site").plan(cohort, Binary())

    def test_one_site_only(self, study):
        cohort = study([0, 1] * 6, site=["A"] * 12)
        with pytest.raises(ProtocolError, match=r"needs at least 2 sites.*only A"):
            Holdout(group="site").plan(cohort, Binary())

    def test_unknown_sites(self, study):
        cohort = study([0, 1] * 6, site=["A", "B", "C", ""] * 3)
        with pytest.raises(ProtocolError, match=r"3 have none: b003, b007, b011"):
            KFold(3, group="site").plan(cohort, Binary())

    def test_a_poor_balance_is_noted_with_its_counts(self, study):
        """Sites of 4+4, 4+4 and 2+12: three folds of one site each."""
        values = [0, 1] * 8 + [0] * 2 + [1] * 12
        cohort = study(values, site=["A"] * 8 + ["B"] * 8 + ["C"] * 14)
        plan = KFold(3, group="site", validation=0.0).plan(cohort, Binary())
        note = next(n for n in plan.notes if n.startswith("Sites kept whole"))
        assert "14 patients (0 2, 1 12)" in note
        assert "8 patients (0 4, 1 4)" in note

    def test_an_even_balance_is_not(self, study):
        cohort = study([0, 1] * 120, site=[f"s{i // 8}" for i in range(240)])
        assert KFold(3, group="site").plan(cohort, Binary()).notes == ()

    def test_joined_sites_are_noted_and_kept_together(self, study):
        values, site = [0, 1] * 20, list("AABBCCDD") * 5
        person = [f"p{i}" for i in range(40)]
        person[7] = person[3]  # p3 is seen at B and at D
        cohort = study(values, patient=person, site=site)
        plan = KFold(3, group="site", validation=0.0).plan(cohort, Binary())
        assert any("1 (p3 at B+D)" in note for note in plan.notes)
        for split in plan.splits:
            tested = set(cohort.site[split.test].tolist())
            assert ("B" in tested) == ("D" in tested)

    def test_validation_falls_back_to_patients_and_says_so(self, study):
        """Two training sites of 20: no whole site is a tenth."""
        cohort = study([0, 1] * 30, site=["A"] * 20 + ["B"] * 20 + ["C"] * 20)
        plan = KFold(3, group="site").plan(cohort, Binary())
        assert any("3 of 3 validation parts share sites with training" in note for note in plan.notes)
        assert [len(s.validation) for s in plan.splits] == [4, 4, 4]

    def test_inner_folds_fall_back_to_patients_and_say_so(self, study):
        cohort = study([0, 1] * 30, site=["A"] * 20 + ["B"] * 20 + ["C"] * 20)
        plan = Nested(3, inner=4, group="site").plan(cohort, Binary())
        assert any("validation parts share sites with training" in note for note in plan.notes)

    def test_redraws_of_few_sites_come_out_the_same_and_say_so(self, study):
        cohort = study([0, 1] * 20, site=["A", "A", "B", "B"] * 10)
        plan = MonteCarlo(6, test=0.5, validation=0.0, group="site").plan(cohort, Binary())
        assert any("2 of 6 repeats have test parts of their own" in note for note in plan.notes)
