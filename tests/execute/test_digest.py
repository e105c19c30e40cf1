"""The digest of a study's data: whatever its numbers depend on changes it."""

from dataclasses import dataclass

import numpy as np
import pytest

from milkit.data.cohort import Cohort
from milkit.data.store import write_store
from milkit.errors import DataError, RunFolderError
from milkit.execute.digest import data_digest, weights_digest
from milkit.execute.run import _same_data
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


@dataclass(frozen=True)
class Started:
    weights: str = ""

    def load(self, module, arrays):
        raise NotImplementedError


def test_the_weights_that_a_model_starts_from_belong_to_a_run(tmp_path):
    assert weights_digest(Started()) == {}
    file = tmp_path / "w.npz"
    file.write_bytes(b"abc")
    first = weights_digest(Started(str(file)))
    # printf abc | sha256sum
    assert first == {"weights_digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    file.write_bytes(b"abd")
    with pytest.raises(RunFolderError, match="the weights that the model starts from changed"):
        _same_data(weights_digest(Started(str(file))), first)
    with pytest.raises(DataError, match="cannot be read"):
        weights_digest(Started(str(tmp_path / "gone")))
