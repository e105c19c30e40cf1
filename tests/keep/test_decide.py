"""What is locked: thresholds, temperature and cut-off, from validation rows worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from milkit.keep.decide import calibrated, centres_of, decide, logits_of, out_of_fold
from milkit.predictions import Predictions, concat
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival

ODDS = np.log(np.array([1.0, 3.0, 9.0]))  # probabilities .5, .75, .9


def rows(run, logits, target, bags, task=None, names=("no", "yes"), patient=None):
    return Predictions.of(
        task or Binary(), names, np.array(logits, float).reshape(len(bags), -1), np.array(target),
        experiment="e", run=run, repeat=0, fold=0, seed=0, selection="validation", role="validation",
        bag=bags, patient=patient or bags,
    )  # fmt: skip


def test_a_bag_counts_once_with_its_mean_over_the_runs_that_held_it_out():
    both = concat([rows("r0", ODDS[[0, 2]], [0, 1], ["a", "b"]), rows("r1", ODDS[[1, 1]], [1, 0], ["b", "c"])])
    found = out_of_fold(both, {})
    assert found.bag.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(found.score[:, 1], [0.5, (0.9 + 0.75) / 2, 0.75])


def test_the_threshold_is_youdens_of_those_means():
    """Bag a: no .5, b: yes .825, c: no .75; half-way between .75 and .825."""
    both = concat([rows("r0", ODDS[[0, 2]], [0, 1], ["a", "b"]), rows("r1", ODDS[[1, 1]], [1, 0], ["b", "c"])])
    found = decide(Binary(), ("no", "yes"), both, "mean")
    assert found["threshold"]["value"] == [pytest.approx((0.75 + 0.825) / 2)]
    assert "3 validation patients of 2 runs" in found["threshold"]["from"]
    assert found["temperature"]["value"] == [1.0]  # three patients are too few
    assert "needs at least 5" in found["temperature"]["from"]
    assert found["risk_cut"] is None


def test_slides_become_patients_before_the_cut():
    """Patient p (yes) has slides .5 and .9, so .7 by the mean and .9 by the highest; q (no) has .6, r (yes) .9."""
    logits = [*ODDS[[0, 2]], np.log(1.5), ODDS[2]]
    table = rows("r0", logits, [1, 1, 0, 1], ["a", "b", "c", "d"], patient=["p", "p", "q", "r"])
    assert decide(Binary(), ("no", "yes"), table, "mean")["threshold"]["value"][0] == pytest.approx((0.6 + 0.7) / 2)
    assert decide(Binary(), ("no", "yes"), table, "max")["threshold"]["value"][0] == pytest.approx((0.6 + 0.9) / 2)
    found = decide(Binary(), ("no", "yes"), table, "mean", "slide")  # labels belong to slides
    assert "4 validation slides" in found["threshold"]["from"]


def test_the_temperature_of_a_known_distortion():
    """Of 100 patients at each of two levels three quarters are right: the logits that say so are +-ln 3."""
    y = np.r_[np.arange(100) < 75, np.arange(100) < 25].astype(int)
    logits = np.where(np.arange(200) < 100, 2.0, -2.0)
    found = decide(Binary(), ("no", "yes"), rows("r", logits, y, [f"b{i}" for i in range(200)]), "mean")
    assert found["temperature"]["value"][0] == pytest.approx(2 / np.log(3), rel=1e-5)


def test_each_label_has_its_own():
    task = MultiLabel(("l", "r"))
    table = rows("r", np.c_[ODDS, ODDS[::-1]], np.c_[[0, 0, 1], [0, 1, 1]], ["a", "b", "c"], task, ("l", "r"))
    found = decide(task, ("l", "r"), table, "mean")
    assert found["threshold"]["value"][0] == pytest.approx((0.75 + 0.9) / 2)
    assert len(found["threshold"]["value"]) == len(found["temperature"]["value"]) == 2


def test_without_validation_one_half_and_one():
    empty = rows("r", ODDS, [0, 1, 1], ["a", "b", "c"]).take(np.zeros(3, bool))
    found = decide(Binary(), ("no", "yes"), empty, "mean")
    assert (found["threshold"]["value"], found["temperature"]["value"]) == ([0.5], [1.0])
    assert found["threshold"]["from"] == "0.5, for the study has no validation part"
    one = decide(Binary(), ("no", "yes"), rows("r", ODDS, [1, 1, 1], ["a", "b", "c"]), "mean")
    assert "only one class" in one["threshold"]["from"]


def test_tasks_without_probabilities_have_neither():
    for task, names in ((Regression(), ("target",)), (MultiClass(), ("a", "b", "c"))):
        target = np.zeros((3, 1)) if isinstance(task, Regression) else [0, 1, 2]
        logits = ODDS if isinstance(task, Regression) else np.eye(3)
        found = decide(task, names, rows("r", logits, target, ["a", "b", "c"], task, names), "mean")
        assert found["threshold"]["value"] == []
        assert len(found["temperature"]["value"]) == isinstance(task, MultiClass)


def test_cox_risks_are_counted_from_each_runs_own_zero():
    """Run 1 adds 10 to every log risk, which means nothing: centred, both runs say the same."""
    task, time = Survival(loss="cox"), np.c_[[1.0, 2, 3], [1, 1, 0]]
    first = rows("r0", [1.0, 2, 6], time, ["a", "b", "c"], task, ("risk",))
    second = rows("r1", [11.0, 12, 16], time, ["a", "b", "c"], task, ("risk",))
    both = concat([first, second])
    assert centres_of(both, task) == {"r0": 3.0, "r1": 13.0}
    found = out_of_fold(both, centres_of(both, task))
    np.testing.assert_allclose(found.score[:, 0], [-2, -1, 3])
    assert decide(task, ("risk",), both, "mean")["risk_cut"]["value"] == -1
    assert centres_of(both, Survival()) == {}


def test_scaled_probabilities_by_hand():
    """Odds 9 at temperature 2 become 3; three classes of odds 1 : 4 : 16 become 1 : 2 : 4."""
    binary = calibrated("Binary", np.array([[0.1, 0.9]]), np.array([2.0]))
    np.testing.assert_allclose(binary, [[0.25, 0.75]])
    classes = calibrated("MultiClass", np.array([[1.0, 4, 16]]) / 21, np.array([2.0]))
    np.testing.assert_allclose(classes, np.array([[1.0, 2, 4]]) / 7)
    labels = calibrated("MultiLabel", np.array([[0.9, 0.9]]), np.array([2.0, 1.0]))
    np.testing.assert_allclose(labels, [[0.75, 0.9]])
    np.testing.assert_array_equal(calibrated("Survival", np.array([[3.0]]), np.zeros(0)), [[3.0]])
    assert np.isfinite(logits_of("Binary", np.array([[1.0, 0.0], [0.0, 1.0]]))).all()


def test_test_rows_take_no_part():
    table = rows("r", ODDS, [0, 1, 1], ["a", "b", "c"])
    more = concat([table, replace(rows("r", ODDS[::-1], [1, 0, 0], ["x", "y", "z"]), role=np.array(["test"] * 3))])
    kept = more.take(more.role == "validation")
    assert decide(Binary(), ("no", "yes"), kept, "mean") == decide(Binary(), ("no", "yes"), table, "mean")
