"""The page on data: its snippets are run as a reader would run them, one after the other."""

import re

import h5py
import numpy as np
import pytest

from milkit.data.cohort import Cohort
from milkit.data.store import open_store, write_store
from milkit.task import Survival


@pytest.fixture
def session(root, tmp_path, monkeypatch):
    """The names that the page's snippets leave behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", (root / "docs" / "data.md").read_text(), re.S | re.M):
        exec(compile(snippet, "docs/data.md", "exec"), names)
    return names


def test_the_page_works_as_it_stands(session, capsys):
    assert session["store"].dtype == np.float16
    assert len(session["store"]) == 60
    cohort = session["cohort"].load(session["abmil"].task)
    assert cohort.flow.left_out == ()
    assert len(cohort) == 48  # as the page says
    assert len(cohort.slide_lengths) == 48
    assert sorted(len(slides) for slides in cohort.slides) == [1] * 36 + [2] * 12
    assert cohort.targets.values.tolist() == [int(p[1:]) % 2 for p in cohort.patient.tolist()]
    assert set(cohort.site.tolist()) == {"A", "B", "C"}
    assert len(session["study"]) == 20
    assert len(session["musk"].given) == 50
    assert session["abmil"].data == session["cohort"]
    survival = Cohort("cohort.csv", "features.h5").load(Survival(time="months", event="died"))
    assert survival.targets.values[0].tolist() == [10, 0]


def test_files_of_one_slide_become_a_store(session, tmp_path):
    (tmp_path / "clam").mkdir()
    for name in ("b", "a"):
        with h5py.File(tmp_path / "clam" / f"{name}.h5", "w") as file:
            file["features"] = np.full((2, 3), ord(name), np.float32)
            file["coords"] = np.array([[0, 0], [1024, 512]])
    bags = session["one_file_a_slide"](tmp_path / "clam", {"a": 0.25, "b": 0.5})
    store = open_store(write_store(tmp_path / "clam.h5", bags))
    assert store.ids == ("a", "b")
    assert store.read("b").x.tolist() == [[98] * 3] * 2
    assert store.read("a").coords_um.tolist() == [[0, 0], [256, 128]]
    assert store.read("b").coords_um.tolist() == [[0, 0], [512, 256]]
