"""The classic sets: counts as published, MUSK1 here always, the others where they are, and clear words where not."""

import hashlib

import numpy as np
import pytest

from milkit.data.datasets import Classic, classic, known
from milkit.data.datasets.folders import PACKAGED
from milkit.errors import ConfigError, DataError
from milkit.task import Binary, MultiClass

# Bags, positive bags, instances, features: Dietterich et al. (1997), Andrews et al. (2002); the rest from the files.
PUBLISHED = {
    "musk1": (92, 47, 476, 166),
    "musk2": (102, 39, 6598, 166),
    "fox": (200, 100, 1320, 230),
    "tiger": (200, 100, 1220, 230),
    "elephant": (200, 100, 1391, 230),
    "ucsb_breast_features": (58, 26, 2002, 708),
    "web1": (75, 21, 2212, 5863),
}


@pytest.fixture
def only_packaged(monkeypatch, tmp_path):
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    return tmp_path


def test_musk1_comes_with_milkit(only_packaged):
    study = classic("musk1").load(Binary(label="label"))
    assert len(study) == 92
    assert study.targets.names == ("non-musk", "musk")
    assert int(study.targets.values.sum()) == 47
    assert int(study.lengths.sum()) == 476
    assert study.features == 166
    assert (study.bag[0], study.bag[-1]) == ("musk1-001", "musk1-092")
    assert study.patient.tolist() == study.bag.tolist()
    # first numbers of the first line of the repository's clean1.data, molecule MUSK-188
    assert study.read(0).x[0, :5].tolist() == [42, -198, -109, -75, -117]
    assert study.read(0).x.dtype == np.float32
    assert study.read(0).coords_um is None


def test_the_folds_test_every_bag_once_a_repeat(only_packaged):
    given = classic("musk1").load().given
    assert [(g.repeat, g.fold) for g in given] == [(r, f) for r in range(5) for f in range(10)]
    for repeat in range(5):
        tests = sum((g.role == "test").astype(int) for g in given if g.repeat == repeat)
        assert tests.tolist() == [1] * 92
    assert set(np.concatenate([g.role for g in given]).tolist()) == {"train", "test"}


def test_the_packaged_file_is_the_reference_file(shared):
    reference = shared / "data" / "mil_classic" / "musk1.npz"
    packaged = PACKAGED / "musk1.npz"
    digest = hashlib.sha256(packaged.read_bytes()).hexdigest()
    assert digest == hashlib.sha256(reference.read_bytes()).hexdigest()
    assert f"{digest}  ./mil_classic/musk1.npz" in (shared / "data" / "SHA256SUMS").read_text()
    with np.load(reference, allow_pickle=False) as one, np.load(packaged, allow_pickle=False) as two:
        for name in ("X", "offsets", "y", "train_folds"):
            np.testing.assert_array_equal(one[name], two[name])


def test_only_musk1_is_packaged_and_attributed():
    assert sorted(p.name for p in PACKAGED.iterdir()) == ["ATTRIBUTION.md", "musk1.npz"]
    text = (PACKAGED / "ATTRIBUTION.md").read_text()
    for needed in ("CC BY 4.0", "Dietterich", "Lathrop", "Lozano-Pérez", "1997", "What was changed", "uci.edu"):
        assert needed in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_set_is_what_was_published(shared, monkeypatch, name):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    study = classic(name).load(Binary())
    found = (len(study), int(study.targets.values.sum()), int(study.lengths.sum()), study.features)
    assert found == PUBLISHED[name]
    with np.load(shared / "data" / "mil_classic" / f"{name}.npz") as arrays:
        assert study.targets.values.tolist() == arrays["y"].tolist()
        assert len(study.given) == (50 if "train_folds" in arrays else 0)
        x, o = arrays["X"], arrays["offsets"]
        for i in (0, len(study) // 2, len(study) - 1):
            np.testing.assert_array_equal(study.read(i).x, x[o[i] : o[i + 1]].astype(np.float32))
        for g in study.given:
            assert (g.role == "train").tolist() == arrays["train_folds"][g.repeat, g.fold].tolist()
    assert study.flow.left_out == ()


def test_known_lists_all_and_says_what_is_here(only_packaged):
    records = {record.name: record for record in known()}
    found = {n: (r.bags, r.positives, r.instances, r.features) for n, r in records.items()}
    assert {name: found[name] for name in PUBLISHED} == PUBLISHED
    assert records["musk1"].here.endswith("musk1.npz")
    assert all(not record.here for name, record in records.items() if name != "musk1")
    assert all(r.what and r.licence and r.citation and r.where for r in records.values())


def test_a_set_that_is_absent_says_where_to_get_it_and_where_to_put_it(only_packaged):
    with pytest.raises(DataError, match="'fox' is not on this machine") as caught:
        classic("fox").load()
    message = str(caught.value)
    for needed in (str(only_packaged), "columbia.edu", "fox.npz", "MILKIT_DATA", "docs/datasets.md"):
        assert needed in message


def test_a_mistyped_name_is_found_at_once():
    with pytest.raises(ConfigError, match=r"No known set 'musk3'.*Did you mean 'musk"):
        classic("musk3")
    with pytest.raises(ConfigError, match="Did you mean 'tiger'"):
        Classic("tigre")


def test_a_file_that_is_something_else_is_refused(only_packaged):
    folder = only_packaged / "mil_classic"
    folder.mkdir()
    np.save(folder / "array.npy", np.zeros(3))
    npy = (folder / "array.npy").read_bytes()
    for text in (b"", b"PK\x03\x04 half a zip", b"\x93NUMPY", npy):
        (folder / "fox.npz").write_bytes(text)
        with pytest.raises(DataError, match=r"fox\.npz cannot be read"):
            classic("fox").load()
    (folder / "fox.npz").write_bytes((PACKAGED / "musk1.npz").read_bytes())
    with pytest.raises(DataError, match=r"is not fox: it holds 92 bags \(47 positive\).*expected 200"):
        classic("fox").load()


def test_the_task_may_turn_the_classes_round_or_count_them(only_packaged):
    assert classic("musk1").load(Binary(positive="non-musk")).targets.names == ("musk", "non-musk")
    study = classic("musk1").load(MultiClass())
    assert study.targets.names == ("non-musk", "musk")
    assert int(study.targets.values.sum()) == 47
