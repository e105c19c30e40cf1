"""The digest of a study's data: whatever its numbers depend on changes it."""

import numpy as np
import pytest

from milkit.data.cohort import Cohort
from milkit.data.store import write_store
from milkit.execute.digest import data_digest
from milkit.task import Binary
from milkit.types import Bag


def write(name, slides, seed):
    rng = np.random.default_rng(seed)
    bags = [Bag(s, rng.normal(size=(3, 2)).astype(np.float32)) for s in slides]
    write_store(name, bags, encoder="e", overwrite=True)


@pytest.mark.parametrize("name", ["a.h5", "b.h5"])
def test_a_changed_file_of_several_changes_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("slide_id,label\ns0,0\ns1,1\ns2,0\ns3,1\n")
    slides = {"a.h5": ("s0", "s1"), "b.h5": ("s2", "s3")}
    for seed, file in enumerate(slides):
        write(file, slides[file], seed)
    cohort = Cohort("t.csv", tuple(slides))
    base = data_digest(cohort.load(Binary()))
    assert data_digest(cohort.load(Binary())) == base
    write(name, slides[name], 7)
    assert data_digest(cohort.load(Binary())) != base
