"""Every defect planted in real sets is found, and the clean sets raise no error."""

import numpy as np
import pytest

from benchmarks import check_planted as planting


@pytest.fixture(scope="module")
def musk1():
    """The packaged set with its own ten folds."""
    return planting.load("musk1")


def test_clean_musk1_raises_neither_error_nor_warning(musk1):
    assert {f.severity for f in planting.run(musk1).findings} <= {"note"}


@pytest.mark.slow
@pytest.mark.parametrize("defect", planting.DEFECTS, ids=lambda d: d.__name__)
def test_a_planted_defect_is_found_with_its_severity_and_no_other_error(musk1, defect):
    spoilt = musk1.copy()
    wanted = defect(spoilt, np.random.default_rng(3))
    checked = planting.run(spoilt)
    assert planting.look_for(wanted, checked) == wanted.severity
    assert {f.kind for f in checked.errors} <= set(wanted.kinds)


@pytest.mark.parametrize("name", ["fox", "tiger", "elephant"])
def test_clean_real_sets_raise_no_error(shared, monkeypatch, name):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    assert planting.run(planting.load(name)).errors == ()


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("fox", planting.rescan),
        ("tiger", planting.pasted),
        ("ucsb_breast", planting.rescan),
        ("elephant", planting.scaled_half),
    ],
)
def test_defects_in_other_real_sets(shared, monkeypatch, name, defect):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    spoilt = planting.load(name).copy()
    wanted = defect(spoilt, np.random.default_rng(0))
    checked = planting.run(spoilt)
    assert planting.look_for(wanted, checked) == "error"
    assert {f.kind for f in checked.errors} <= set(wanted.kinds)


def test_two_equal_rows_are_a_copy_where_rows_are_never_equal_and_one_is_a_warning(musk1):
    for rows, kind, severity in ((2, "copied_instances", "error"), (1, "repeated_rows", "warning")):
        c = musk1.copy()
        a, b = planting.across(c, np.random.default_rng(1), 8)
        c.bags[b] = np.concatenate([c.bags[b], c.bags[a][:rows]])
        found = {f.kind: f for f in planting.run(c).findings}
        assert found[kind].severity == severity
        assert a in found[kind].where


def test_the_official_split_of_glas_leaks_patients(shared, monkeypatch):
    """11 of its 16 patients stand in train and in test, as the data's own page says."""
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    c = planting.load("glas")
    few = {row["patient_id"]: None for row in c.rows}
    c.bags = {s: x[:4] for s, x in c.bags.items()}  # the table and the folds are what is looked at
    c.folds = [(0, "train" if row["slide_id"].startswith("train") else "test", row["slide_id"]) for row in c.rows]
    leak = next(f for f in planting.run(c).findings if f.kind == "patient_leak")
    assert (len(few), leak.count, leak.severity) == (16, 11, "error")


def test_the_index_pages_of_web1_share_pages_by_nature(shared, monkeypatch):
    """Pages linked from several index pages are said, and are no error."""
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    c = planting.load("web1")
    c.bags = {s: x[:, :900] for s, x in c.bags.items()}  # as many words as keep the test short
    found = planting.run(c)
    copies = [f for f in found.findings if f.kind == "copied_instances"]
    assert copies
    assert {f.severity for f in copies} == {"warning"}
    assert "counts" in copies[0].detail
    assert found.errors == ()
