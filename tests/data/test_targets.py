"""Targets by hand for every task, and the errors that name file, line and column."""

import numpy as np
import pytest

from milkit.data.targets import encode, is_missing, missing_targets
from milkit.data.where import Where
from milkit.errors import CohortError
from milkit.task import Binary, MultiClass, MultiLabel, Regression, Survival


def columns(**cells):
    return {name: np.array(values, np.str_) for name, values in cells.items()}


def where(n):
    return Where("t.csv", np.arange(n) + 2, np.array([f"s{i}" for i in range(n)]))


def encoded(task, **cells):
    table = columns(**cells)
    return encode(task, table, where(len(next(iter(table.values())))))


def test_binary_takes_the_last_name_as_positive_unless_told():
    targets = encoded(Binary(), label=["1", "0", "1"])
    assert targets.values.dtype == np.int32
    assert (targets.values.tolist(), targets.names) == ([1, 0, 1], ("0", "1"))
    targets = encoded(Binary(positive="mutated"), label=["mutated", "wild", "wild"])
    assert (targets.values.tolist(), targets.names) == ([1, 0, 0], ("wild", "mutated"))
    # numbers sort as numbers: 10 is above 9
    assert encoded(Binary(), label=["10", "9"]).names == ("9", "10")


def test_multi_class_sorts_or_takes_the_order_given():
    targets = encoded(MultiClass(label="grade"), grade=["2", "10", "1", "2"])
    assert (targets.values.tolist(), targets.names) == ([1, 2, 0, 1], ("1", "2", "10"))
    assert targets.values.dtype == np.int32
    ordered = encoded(MultiClass(classes=("low", "mid", "high")), label=["high", "low"])
    assert (ordered.values.tolist(), ordered.names) == ([2, 0], ("low", "mid", "high"))


def test_multi_label_regression_and_survival():
    targets = encoded(MultiLabel(labels=("a", "b")), a=["1", "0.0"], b=["True", "0"])
    assert targets.values.dtype == np.float32
    assert (targets.values.tolist(), targets.names) == ([[1, 1], [0, 0]], ("a", "b"))
    targets = encoded(Regression(labels=("y", "z")), y=["-1.5", "2e1"], z=["0", "1"])
    assert (targets.values.tolist(), targets.names) == ([[-1.5, 0], [20, 1]], ("y", "z"))
    targets = encoded(Survival(), time=["12.5", "3"], event=["0", "1"])
    assert targets.values.dtype == np.float32
    assert (targets.values.tolist(), targets.names) == ([[12.5, 0], [3, 1]], ("time", "event"))


def test_missing_cells():
    assert is_missing(np.array(["", "NA", "n/a", "NaN", "null", "0", "none"])).tolist() == [True] * 5 + [False] * 2
    table = columns(time=["1", "", "2", "NA"], event=["1", "1", "nan", ""])
    assert missing_targets(Survival(), table) == ("", "time", "event", "time")
    with pytest.raises(CohortError, match=r"t\.csv: column 'label' has no value in line 3 \(slide 's1'\)"):
        encoded(Binary(), label=["1", ""])


WRONG = [
    (Binary(), {"label": ["1", "1"]}, r"t\.csv: column 'label' holds 1 class.*Binary needs exactly 2"),
    (Binary(), {"label": ["a", "b", "c"]}, r"holds 3 class.*\('a', 'b', 'c'\).*Use MultiClass"),
    (Binary(positive="tumour"), {"label": ["tumor", "normal"]}, "is not a class of column 'label'.*mean 'tumor'"),
    (Binary(), {"Label": ["0", "1"]}, "no column 'label', which Binary needs.*mean 'Label'.*label='my_column'"),
    (MultiClass(), {"label": ["a", "a"]}, "needs at least 2"),
    (
        MultiClass(classes=("low", "high")),
        {"label": ["low", "hgih", "high"]},
        r"the class 'hgih' in line 3 \(slide 's1'\).*does not list\. Did you mean 'high'",
    ),
    (MultiClass(classes=("a", "a")), {"label": ["a", "a"]}, "names a class more than once"),
    (MultiLabel(labels=("a",)), {"a": ["0", "2"]}, r"column 'a' is '2' in line 3 \(slide 's1'\); expected 0 or 1"),
    (Regression(), {"target": ["1", "high"]}, r"column 'target' is 'high' in line 3 \(slide 's1'\); expected a finite"),
    (Regression(), {"target": ["1,5", "2"]}, "a point, not a comma"),
    (Regression(), {"target": ["1", "inf"]}, "'inf' in line 3"),
    (Regression(), {"target": ["1", "1_000"]}, "'1_000' in line 3"),
    (Regression(), {"target": ["1", "1e39"]}, "'1e39' in line 3"),
    (Survival(), {"time": ["3", "-1"], "event": ["1", "0"]}, "column 'time' is '-1' in line 3.*above 0"),
    (Survival(), {"time": ["0", "1"], "event": ["1", "0"]}, "column 'time' is '0' in line 2.*above 0"),
    (Survival(), {"time": ["3", "1"], "event": ["1", "2"]}, "column 'event' is '2' in line 3.*0 or 1"),
    (Survival(), {"time": ["3", "1"], "event": ["0", "0"]}, "column 'event' holds no event"),
]


@pytest.mark.parametrize(("task", "cells", "message"), WRONG)
def test_wrong_cells_are_named(task, cells, message):
    with pytest.raises(CohortError, match=message):
        encoded(task, **cells)


def test_many_wrong_rows_are_counted_not_all_listed():
    with pytest.raises(CohortError, match=r"line 6 \(slide 's4'\) and 7 more"):
        encoded(Regression(), target=["x"] * 12)
