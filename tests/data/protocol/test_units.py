"""Who is drawn and what is balanced, by hand; and the sites they come from."""

import numpy as np
import pytest

from milkit.data.protocol.sites import sites_of
from milkit.data.protocol.units import units_of
from milkit.errors import ProtocolError
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival


def test_patients_are_sorted_and_hold_their_slides(study):
    units = units_of(study([1, 0, 1], patient=["q", "p", "q"]), Binary())
    assert units.id.tolist() == ["p", "q"]
    assert units.of_bag.tolist() == [1, 0, 1]
    assert units.outcome.stratum.tolist() == [0, 1]
    assert units.rows(np.array([1])).tolist() == [0, 2]
    assert units.of_rows(np.array([0, 2])).tolist() == [1]


def test_a_patients_class_is_its_most_frequent_and_on_a_tie_the_last(study):
    values, patient = [0, 2, 2, 0, 1, 1, 0], ["p", "p", "p", "q", "q", "r", "s"]
    outcome = units_of(study(values, ("a", "b", "c"), patient=patient), MultiClass()).outcome
    assert outcome.stratum.tolist() == [2, 1, 1, 0]


def test_a_label_is_positive_if_any_slide_is(study):
    values = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    outcome = units_of(study(values, ("x", "y"), patient=["p", "p", "q"]), MultiLabel(("x", "y"))).outcome
    assert outcome.labels.tolist() == [[1, 0], [0, 1]]


def test_survival_strata_are_events_spread_by_time(study):
    values = np.array([[5.0, 1.0], [2.0, 0.0], [5.0, 1.0]])
    outcome = units_of(study(values, ("time", "event"), patient=["p", "q", "p"]), Survival()).outcome
    assert outcome.stratum.tolist() == [1, 0]
    assert outcome.spread.tolist() == [5.0, 2.0]


def test_regression_is_spread_by_mean_rank(study):
    """Ranks of the first value 0, 1, 2 and of the second 0, 2, 1: means 0, 1.5, 1.5."""
    values = np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]])
    outcome = units_of(study(values, ("u", "v")), Regression(("u", "v"))).outcome
    assert outcome.spread.tolist() == [0.0, 1.5, 1.5]
    assert outcome.distinct.tolist() == [0, 1, 2]


def test_an_empty_study_is_refused(study):
    with pytest.raises(ProtocolError, match="holds no bag"):
        units_of(study(np.zeros(0, int)), Binary())


def test_sites_that_share_a_patient_are_one_block(study):
    """P is seen at A and B, q at B and C: A+B+C is one block; D stands alone."""
    cohort = study([0, 0, 1, 1, 1], patient=["p", "p", "q", "q", "r"], site=["A", "B", "B", "C", "D"])
    sites = sites_of(cohort, units_of(cohort, Binary()))
    assert sites.name.tolist() == ["A+B+C", "D"]
    assert sites.of_unit.tolist() == [0, 0, 1]
    place, counts, patients = sites.tally(np.array([0, 1, 2]))
    assert place.tolist() == [0, 0, 1]
    assert counts.tolist() == [[1, 1], [0, 1]]
    assert patients.tolist() == [2, 1]


def test_unknown_sites_are_named_by_patient(study):
    cohort = study([0, 1, 1], patient=["p", "q", "r"], site=["A", "", ""])
    with pytest.raises(ProtocolError, match=r"2 have none: q, r"):
        sites_of(cohort, units_of(cohort, Binary()))


def test_what_is_balanced_over_sites(study):
    def kinds(values, names, task):
        cohort = study(np.asarray(values), names, site=["A"] * len(values))
        sites = sites_of(cohort, units_of(cohort, task))
        return sites.kinds.tolist(), sites.required.tolist()

    survival = kinds([[3.0, 1.0], [4.0, 0.0]], ("time", "event"), Survival())
    assert survival == ([[0, 1], [1, 0]], [False, True])  # nobody censored in a fold is fine, no event is not
    labels = kinds([[1.0, 0.0], [1.0, 1.0]], ("x", "y"), MultiLabel(("x", "y")))
    assert labels == ([[1, 0, 1], [1, 1, 1]], [True, True, True])
    values = kinds([[4.0], [1.0], [3.0], [2.0]], ("v",), Regression(("v",)))
    assert values == ([[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]], [False] * 4)
