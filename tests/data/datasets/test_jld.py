"""MIDatasets.jl's JLD, written to the letter, becomes bags, labels and folds; by BagFile and by open_features."""

import h5py
import numpy as np
import pytest

from milkit.data.datasets import BagFile, classic, midatasets
from milkit.data.features import open_features
from milkit.data.formats.jld import labels_and_folds
from milkit.errors import DataError

BAGS = [np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([[7.0, 8.0, 9.0]]), np.arange(12.0).reshape(4, 3)]
FOLDS = [[[True, True, False], [True, False, True]], [[False, True, True], [True, True, False]]]


def test_matrices_are_transposed_and_bits_unpacked(tmp_path, jld):
    bags = midatasets(jld(tmp_path / "Tiny.jld", BAGS, [True, False, True], FOLDS)).read()
    assert bags.source.ids == ("Tiny-001", "Tiny-002", "Tiny-003")
    assert bags.source.lengths.tolist() == [2, 1, 4]
    assert bags.bag(0).x.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert bags.bag(2).x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert bags.bag(0).x.dtype == np.float32
    assert bags.labels.tolist() == [1, 0, 1]
    roles = [(g.repeat, g.fold, g.role.tolist()) for g in bags.given]
    assert roles[0] == (0, 0, ["train", "train", "test"])
    assert roles[3] == (1, 1, ["train", "train", "test"])
    study = bags.study()
    assert study.targets.names == ("0", "1")
    assert len(study.given) == 4


@pytest.mark.parametrize("count", [1, 63, 64, 65, 130])
def test_bits_of_any_number(tmp_path, jld, count):
    truth = np.random.default_rng(count).random((2, count)) < 0.5
    bags = [np.ones((1, 2))] * count
    labels, folds = labels_and_folds(jld(tmp_path / "x.jld", bags, truth[0], [[truth[1]]]))
    assert labels.tolist() == truth[0].tolist()
    assert folds.tolist() == [[truth[1].tolist()]]


def test_open_features_reads_it_too(tmp_path, jld):
    source = open_features(jld(tmp_path / "Tiny.jld", BAGS, [True, False, True], FOLDS))
    assert list(source.ids) == ["Tiny-001", "Tiny-002", "Tiny-003"]
    assert source.lengths.tolist() == [2, 1, 4]
    assert source.features == 3
    assert source.provenance["layout"] == "midatasets"
    bag = source.read("Tiny-003")
    assert bag.x.tolist() == BAGS[2].tolist()
    assert bag.coords_um is None
    assert bag.coords_px is None


@pytest.mark.slow
def test_a_classic_set_written_as_jld_is_that_set(tmp_path, jld):
    musk = classic("musk1").read()
    folds = [[[role == "train" for role in g.role] for g in musk.given[10 * r : 10 * r + 10]] for r in range(5)]
    path = jld(tmp_path / "Musk1.jld", [musk.bag(i).x for i in range(92)], musk.labels.astype(bool), folds)
    again = midatasets(path).read()
    assert again.labels.tolist() == musk.labels.tolist()
    for i in range(92):
        np.testing.assert_array_equal(again.bag(i).x, musk.bag(i).x)
    for one, other in zip(again.given, musk.given, strict=True):
        assert one.role.tolist() == other.role.tolist()


def test_what_is_broken_is_refused_with_the_file(tmp_path, jld):
    path = jld(tmp_path / "Tiny.jld", BAGS, [True, False, True], FOLDS)
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"Tiny\.jld"):
            midatasets(path).read()
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        references = file["X"][()]
        references[1] = h5py.Reference()
        file["X"][...] = references
    with pytest.raises(DataError, match=r"Tiny\.jld: bag 2 of 'X' refers to nothing"):
        midatasets(path).read()


def test_labels_that_are_not_of_the_bags_are_refused(tmp_path, jld):
    with pytest.raises(DataError, match="3 bags, but 2 labels"):
        midatasets(jld(tmp_path / "a.jld", BAGS, [True, False])).read()
    with pytest.raises(DataError, match="expected one number"):
        midatasets(jld(tmp_path / "b.jld", BAGS, [True, False, True], [[[True, False]]])).read()
    with pytest.raises(DataError, match=r"widths \[2, 3\]"):
        midatasets(jld(tmp_path / "c.jld", [BAGS[0], np.ones((1, 2))], [True, False])).read()


def test_a_store_or_another_hdf5_is_no_file_of_bags(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = np.ones((3, 2))
    with pytest.raises(DataError, match="neither MIDatasets"):
        BagFile(str(tmp_path / "x.h5")).read()
