"""Columns of the table as numbers: how each is read, what is missing, what is refused, and whose mean scales them."""

import math

import numpy as np
import pytest

from milkit.data.covariates import Categorical, Coding, Covariates, Numeric, affine, telling
from milkit.data.memory import in_memory
from milkit.data.targets import Targets
from milkit.errors import CohortError, ConfigError
from milkit.task import Binary, Survival
from milkit.types import Bag


def load(covariates, rows, task=None, unit="patient"):
    bags = [Bag(f"s{i}", np.full((2, 3), float(i), np.float32)) for i in range(len(rows))]
    return in_memory(bags, rows, "m", covariates).load(task or Binary(), unit)


def rows(**columns):
    count = len(next(iter(columns.values())))
    return [{"label": i % 2} | {name: values[i] for name, values in columns.items()} for i in range(count)]


def test_numbers_and_words_become_columns():
    """By hand: age has a hole, so it has a second number; sex has none; grade is words although its cells are numbers;
    the missing grade is a level of its own.
    """
    table = rows(age=[50, None, 71.5, 64], sex=["f", "m", "m", "f"], grade=["10", "2", "NA", "2"])
    study = load(("age", "sex", Categorical("grade")), table)
    assert study.covariates.names == (
        "age", "age missing", "sex=f", "sex=m", "grade=2", "grade=10", "grade missing",
    )  # fmt: skip
    expected = [
        [50, 0, 1, 0, 0, 1, 0],
        [math.nan, 1, 0, 1, 1, 0, 0],
        [71.5, 0, 0, 1, 0, 0, 1],
        [64, 0, 1, 0, 1, 0, 0],
    ]
    np.testing.assert_array_equal(study.covariates.values, np.array(expected, np.float32))
    assert study.covariates.values.dtype == np.float32
    assert study.covariates.measured.tolist() == [True] + [False] * 6
    assert study.covariate_count == 7
    assert [n for n in study.flow.notes if n.startswith("covariate")] == [
        "covariate 'age' is read as numbers, missing in 1 bag(s)",
        "covariate 'sex' is read as categories (f, m)",
        "covariate 'grade' was said to be read as categories (2, 10), missing in 1 bag(s)",
    ]
    # sub-groups still find the columns
    assert study.columns["sex"].tolist() == ["f", "m", "m", "f"]


def test_few_whole_numbers_stay_numbers():
    study = load(("stage", "smoker"), rows(stage=[1, 2, 3, 1], smoker=[True, False, False, True]))
    assert study.covariates.names == ("stage", "smoker")
    assert study.covariates.values[:, 1].tolist() == [1, 0, 0, 1]


def test_without_covariates_there_are_none():
    study = load((), rows(age=[1, 2]))
    assert study.covariates is None
    assert study.covariate_count == 0


def test_levels_that_are_written_down_keep_their_order_and_know_no_other():
    study = load((Categorical("t", levels=("low", "high", "none")),), rows(t=["high", "low", "low", "high"]))
    assert study.covariates.names == ("t=low", "t=high", "t=none")
    assert study.covariates.values.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]]
    message = r"'t' is 'hihg' in row 1 \(slide 's1'\); the known levels are low, high. Did you mean 'high'\?"
    with pytest.raises(CohortError, match=message):
        load((Categorical("t", levels=("low", "high")),), rows(t=["high", "hihg", "low", "high"]))


def test_slides_of_a_patient_must_agree_where_they_are_known():
    two = [
        {"slide_id": f"s{i}", "patient_id": p, "label": y, "age": a}
        for i, (p, y, a) in enumerate([("p", 1, 60), ("p", 1, None), ("q", 0, 55), ("q", 0, 55)])
    ]
    study = load(("age",), two)
    assert study.covariates.values.tolist() == [[60], [55]]  # nothing is missing: one slide of p knows it
    two[1]["age"] = 61
    message = r"'age' differs between slides of one patient in 1 patient\(s\): row 0: '60', row 1: '61'"
    with pytest.raises(CohortError, match=message):
        load(("age",), two)
    # a bag that is a slide may have a value of its own
    assert load(("age",), two, unit="slide").covariates.values[:, 0].tolist() == [60, 61, 55, 55]


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        (("label",), r"column 'label' holds the target and cannot be a covariate"),
        (("patient_id",), r"column 'patient_id' holds the patient ids"),
        (("slide_id",), r"column 'slide_id' holds the slide ids"),
        (("split",), r"column 'split' holds a split"),
        (("aeg",), r"no column 'aeg', which covariates names.*Did you mean 'age'\?"),
        (("age", "age"), r"names the column 'age' more than once"),
        (("empty",), r"'empty' has no value in any row in use"),
        ((Numeric("sex"),), r"'sex' is 'f' in row 0 .*expected a finite number"),
        ((Numeric("odd"),), r"'odd' is 'inf' in row 1 .*expected a finite number"),
        (("text",), r"'text' holds 24 different words \(the first that is no number: 'a0' in row 0.*Numeric\('text'\)"),
    ],
)
def test_what_cannot_be_a_covariate_is_refused(covariates, message):
    table = [
        {
            "slide_id": f"s{i}", "patient_id": f"p{i}", "label": i % 2, "age": 50 + i, "sex": "fm"[i % 3 == 0],
            "split": "train", "empty": "", "odd": "inf" if i == 1 else i, "text": f"a{i}",
        }
        for i in range(24)
    ]  # fmt: skip
    table[0]["sex"] = "f"
    with pytest.raises(CohortError, match=message):
        load(covariates, table)


def test_a_time_is_a_target_too():
    table = [{"time": 1 + i, "event": i % 2, "age": 40 + i * i % 7} for i in range(6)]
    with pytest.raises(CohortError, match="'time' holds the target"):
        load(("age", "time"), table, Survival())


def test_the_choice_is_checked():
    with pytest.raises(ConfigError, match="level more than once"):
        Categorical("a", levels=("x", "x"))


def covariates_of(*columns):
    codings = tuple(Coding(f"c{i}", kind, levels, missing) for i, (kind, levels, missing, _) in enumerate(columns))
    return Covariates(codings, np.concatenate([np.array(c[3], np.float32) for c in columns], 1))


def test_scaling_is_that_of_the_training_part():
    """Ages 40, 50, 60 train: mean 50, SD sqrt(200 / 3). The 1000 of the bag that tests is not looked at."""
    c = covariates_of(("numeric", (), False, [[40], [50], [60], [1000]]), ("categorical", ("a", "b"), False,
                      [[1, 0], [0, 1], [1, 0], [0, 1]]))  # fmt: skip
    shift, inverse = affine(c, np.array([0, 1, 2]))
    np.testing.assert_allclose(shift, [50, 0, 0], rtol=1e-7)
    np.testing.assert_allclose(inverse, [1 / math.sqrt(200 / 3), 1, 1], rtol=1e-6)


def test_missing_numbers_take_no_part_in_the_mean():
    c = covariates_of(("numeric", (), True, [[1, 0], [3, 0], [math.nan, 1], [9, 0]]))
    shift, inverse = affine(c, np.array([0, 1, 2]))
    np.testing.assert_allclose(shift, [2, 0])
    np.testing.assert_allclose(inverse, [1, 1])


def test_what_does_not_vary_in_training_is_switched_off():
    """A level that no training bag has, a number that is the same in all, a number that none has."""
    nan = math.nan
    c = covariates_of(
        ("numeric", (), False, [[7], [7], [9]]),
        ("categorical", ("a", "b"), False, [[1, 0], [1, 0], [0, 1]]),
        ("numeric", (), True, [[nan, 1], [nan, 1], [4, 0]]),
    )
    shift, inverse = affine(c, np.array([0, 1]))
    assert inverse.tolist() == [0, 0, 0, 0, 0]
    assert shift.tolist() == [7, 0, 0, 0, 0]


def told(values, target, kind="numeric", levels=(), names=("neg", "pos")):
    return telling(covariates_of((kind, levels, False, values)), Targets(np.array(target), names))


def test_a_covariate_that_tells_the_target_gets_a_note():
    """A cut parts 6 + 6 bags by chance in 2 / 924 cohorts (no note), 8 + 8 in 2 / 12870 (note)."""
    six = [[float(i)] for i in range(12)]
    assert told(six, [0] * 6 + [1] * 6) == ()
    eight = [[float(i)] for i in range(16)]
    (note,) = told(eight, [0] * 8 + [1] * 8)
    assert note.startswith("covariate 'c0' tells the target without an error in all 16 bags")
    assert told(eight, [0] * 7 + [1] + [0] + [1] * 7) == ()
    # levels: at least four bags to each
    levels = [[1, 0]] * 4 + [[0, 1]] * 4
    assert len(told(levels, [1] * 4 + [0] * 4, "categorical", ("a", "b"))) == 1
    assert told(levels[:7], [1] * 4 + [0] * 3, "categorical", ("a", "b")) == ()
    assert told(levels, [1] * 4 + [0] * 3 + [1], "categorical", ("a", "b")) == ()


def test_a_copy_of_a_number_gets_a_note():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(40, 1)).astype(np.float32)
    names = ("y",)
    assert len(told(np.exp(-y).tolist(), y, names=names)) == 1
    assert told((y + 0.2 * rng.normal(size=y.shape)).tolist(), y, names=names) == ()


def test_the_note_reaches_the_flow():
    table = rows(psa=[float(10 * (i % 2) + i / 100) for i in range(20)])
    assert any("tells the target" in note for note in load(("psa",), table).flow.notes)
