"""Bags in memory behave as the same bags in files do."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from milkit.data.cohort import Cohort
from milkit.data.memory import in_memory
from milkit.data.store import write_store
from milkit.errors import CohortError, DataError
from milkit.task import Binary, Survival
from milkit.types import Bag


def bags(count=4, d=3):
    rng = np.random.default_rng(0)
    return [
        Bag(f"s{i}", rng.normal(size=(i + 1, d)).astype(np.float32), rng.uniform(size=(i + 1, 2)).astype(np.float32))
        for i in range(count)
    ]


ROWS = [
    {"slide_id": "s2", "patient": "p1", "label": 1, "site": None, "age": 61.5},
    {"slide_id": "s0", "patient": "p2", "label": 0, "site": "x", "age": np.float32(0.1)},
    {"slide_id": "s1", "patient": "p1", "label": np.int64(1), "age": 61.5},
    {"slide_id": "s3", "patient": "p3", "label": None, "site": "x", "age": float("nan")},
]


def test_it_gives_the_study_that_files_give(tmp_path):
    memory = in_memory(bags(), ROWS, name="t").load(Binary())
    with open(tmp_path / "t.csv", "w", newline="") as file:
        table = csv.DictWriter(file, ["slide_id", "patient", "label", "site", "age"])
        table.writeheader()
        table.writerows(ROWS)
    store = write_store(tmp_path / "t.h5", bags(), dtype="float32")
    files = Cohort(str(tmp_path / "t.csv"), str(store)).load(Binary())
    for name in ("bag", "patient", "site", "cohort", "lengths"):
        assert getattr(memory, name).tolist() == getattr(files, name).tolist(), name
    assert memory.slides == files.slides == (("s2", "s1"), ("s0",))
    assert memory.targets.values.tolist() == files.targets.values.tolist() == [1, 0]
    assert memory.flow.left_out == files.flow.left_out == (("s3", "no value in column 'label'"),)
    assert {k: v.tolist() for k, v in memory.columns.items()} == {k: v.tolist() for k, v in files.columns.items()}
    for i in range(2):
        np.testing.assert_array_equal(memory.read(i).x, files.read(i).x)
        np.testing.assert_array_equal(memory.read(i).coords_um, files.read(i).coords_um)


def test_rows_without_ids_follow_the_bags():
    study = in_memory(bags(2), [{"label": True}, {"label": False}]).load(Binary())
    assert study.bag.tolist() == ["s0", "s1"]
    assert study.targets.values.tolist() == [1, 0]
    with pytest.raises(CohortError, match="1 rows for 2 bags, and no row has a 'slide_id'"):
        in_memory(bags(2), [{"label": True}])


def test_the_digest_is_that_of_the_content():
    def digest(change=None, rows=ROWS, **options):
        made = bags(**options)
        if change:
            change(made)
        return in_memory(made, rows).digest

    same = digest()
    assert digest() == same
    others = {
        digest(lambda b: b[0].x.__setitem__((0, 0), 9)),
        digest(lambda b: b[0].coords_um.__setitem__((0, 0), 9)),
        digest(rows=[{**ROWS[0], "label": 0}, *ROWS[1:]]),
        digest(d=4),
        digest(lambda b: b.reverse()),
    }
    assert len(others | {same}) == 6
    saved = in_memory(bags(), ROWS, name="mine").config_json()
    assert saved == {"name": "mine", "bags": 4, "digest": same}
    json.dumps(saved)


def test_whole_numbers_become_float32():
    made = [Bag("a", np.array([[1, 2], [3, 4]])), Bag("b", np.ones((1, 2), np.float16))]
    study = in_memory(made, [{"label": 0}, {"label": 1}]).load(Binary())
    assert study.read(0).x.dtype == np.float32
    assert study.read(0).x.tolist() == [[1, 2], [3, 4]]
    assert study.read(1).x.dtype == np.float16


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "got no bag"),
        ([Bag("a", np.zeros((0, 2)))], r"Bag 'a' has features of shape \(0, 2\)"),
        ([Bag("a", np.zeros((1, 2))), Bag("a", np.zeros((1, 2)))], "'a' is given twice"),
        ([Bag("a", np.zeros((1, 2))), Bag("b", np.zeros((1, 3)))], "'b' has 3 features.*'a' has 2"),
        ([Bag("a", np.full((1, 2), np.nan))], "'a' holds nan at instance 0, feature 0"),
        ([Bag("a", np.zeros((1, 2)), np.zeros((2, 2)))], "coords_um of bag 'a'"),
    ],
)
def test_wrong_bags_are_refused_by_name(wrong, message):
    with pytest.raises(DataError, match=message):
        in_memory(wrong, [{"label": 0}] * len(wrong))


def test_errors_name_the_row():
    rows = [{"time": 1.0, "event": 1}, {"time": -2.0, "event": 0}]
    with pytest.raises(CohortError, match=r"memory: column 'time' is '-2.0' in row 1 \(slide 's1'\)"):
        in_memory(bags(2), rows).load(Survival())
    with pytest.raises(CohortError, match="row 1: slide 's0' in column 'slide_id' was already given in row 0"):
        in_memory(bags(2), [{"slide_id": "s0", "label": 1}, {"slide_id": "s0", "label": 0}]).load(Binary())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("s0", [[1.0]])], "Bag number 1 is a tuple; expected a milkit.Bag"),
        ([[[1.0, 2.0], [3.0, 4.0]]], "Bag number 1 is a list; expected a milkit.Bag"),
        ([Bag("s0", np.ones((2, 3), np.float32)), np.ones((2, 3))], "Bag number 2 is a ndarray"),
    ],
)
def test_what_is_no_bag_is_named(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        write_store(tmp_path / "s.h5", given)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match=message):
        in_memory(given, [{"label": 1}])


def test_ragged_bags_and_rows_that_are_no_dicts_are_named(tmp_path):
    """Outside the tests' signature checks, which would refuse a list before our message could."""
    code = (
        "from milkit import Bag; from milkit.errors import MilkitError; from milkit.data.memory import in_memory\n"
        "from milkit.data.store import write_store\n"
        "ragged = [Bag('s0', [[1.0, 2.0], [3.0]])]\n"
        "for call in (lambda: in_memory(ragged, [{'label': 1}]), lambda: write_store('s.h5', ragged),\n"
        "             lambda: in_memory([Bag('s0', [[1.0]])], ['label'])):\n"
        "    try: call()\n"
        "    except MilkitError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    ragged, stored, row = run.stdout.splitlines()
    assert ragged.startswith("Bag 's0' is ragged") and stored == ragged  # noqa: PT018
    assert row.startswith("memory: row 0 is 'label'; expected a dict")
