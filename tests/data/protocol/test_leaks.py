"""Nobody stands in two roles of one split, or every number says so."""

import numpy as np
import pytest

from milkit.data.protocol import GivenFolds, Plan, Split, check_leaks
from milkit.data.study import GivenSplit
from milkit.errors import ProtocolError
from milkit.task import Binary


def plan(train, validation, test, grouped_by="patient"):
    return Plan((Split(0, 3, 0, np.array(train), np.array(validation), np.array(test)),), grouped_by)


def test_a_clean_split_has_no_mark(study):
    cohort = study([0, 1, 0, 1], patient=["p", "q", "q", "r"])
    assert check_leaks(plan([1, 2], [0], [3]), cohort, allow=False) == ()


def test_a_patient_in_training_and_test(study):
    cohort = study([0, 1, 0, 1], patient=["p", "q", "q", "r"])
    leak = plan([0, 1], [], [2, 3])
    with pytest.raises(ProtocolError, match=r"Repeat 0, fold 3: 1 patient is in two roles: q \(train, test\)\."):
        check_leaks(leak, cohort, allow=False)
    assert check_leaks(leak, cohort, allow=True) == ("patients in two roles",)


def test_a_patient_in_validation_and_test(study):
    cohort = study([0, 1, 0, 1], patient=["p", "q", "q", "r"])
    with pytest.raises(ProtocolError, match=r"q \(validation, test\)"):
        check_leaks(plan([0], [1], [2, 3]), cohort, allow=False)


def test_a_patient_in_all_three_roles(study):
    cohort = study([0, 1, 0, 1], patient=["q", "q", "q", "r"])
    with pytest.raises(ProtocolError, match=r"q \(train, validation, test\)"):
        check_leaks(plan([0], [1], [2, 3]), cohort, allow=False)


def test_ten_offenders_are_listed_and_the_rest_counted(study):
    cohort = study([0, 1] * 12, patient=[f"p{i:02d}" for i in range(12)] * 2)
    with pytest.raises(ProtocolError, match=r"12 patients are in two roles: p00 \(train, test\), .*p09 .* and 2 more"):
        check_leaks(plan(range(12), [], range(12, 24)), cohort, allow=False)


def test_a_slide_of_two_patients_is_a_leak(study):
    cohort = study([0, 1, 0], slides=[("s1", "s2"), ("s2",), ("s3",)])
    leak = plan([0], [], [1, 2])
    with pytest.raises(ProtocolError, match=r"1 slide is in two roles: s2 \(train, test\)"):
        check_leaks(leak, cohort, allow=False)
    assert check_leaks(leak, cohort, allow=True) == ("slides in two roles",)


def test_a_bag_in_two_roles_is_refused_whatever_is_allowed(study):
    with pytest.raises(ProtocolError, match=r"1 bag is in two roles: b001 \(train, test\)"):
        check_leaks(plan([0, 1], [], [1, 2]), study([0, 1, 0]), allow=True)


def test_a_shared_site_matters_only_where_sites_are_kept_whole(study):
    cohort = study([0, 1, 0, 1], site=["A", "A", "A", "B"])
    assert check_leaks(plan([0, 1], [], [2, 3]), cohort, allow=False) == ()
    with pytest.raises(ProtocolError, match=r"1 site is in two roles: A \(train or validation, test\)"):
        check_leaks(plan([0, 1], [], [2, 3], "site"), cohort, allow=False)
    assert check_leaks(plan([0], [1, 2], [3], "site"), cohort, allow=False) == ()  # validation may share with training


def test_given_folds_that_leak_are_refused_then_marked(study):
    role = np.array(["train", "train", "train", "train", "test", "test"])
    cohort = study([0, 1, 0, 1, 0, 1], patient=["p", "q", "r", "s", "p", "t"], given=[GivenSplit(0, 0, role)])
    with pytest.raises(ProtocolError, match=r"p \(train, test\).*allow_patient_overlap=True"):
        GivenFolds(validation=0.0).plan(cohort, Binary())
    assert GivenFolds(0.0, allow_patient_overlap=True).plan(cohort, Binary()).marks == ("patients in two roles",)
