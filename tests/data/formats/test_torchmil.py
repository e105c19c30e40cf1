"""torchmil's folders of .npy: labels of bags are kept, those of tiles stay out of the features."""

import numpy as np
import pytest
from foreign_arrays import torchmil

from milkit.data.features import open_features
from milkit.errors import DataError

PLACES = [[0, 0], [1, 0], [0, 2]]


@pytest.mark.parametrize("given", ["set", "set/features"])
def test_features_labels_and_places_are_joined_by_name(folder, features, given):
    torchmil(folder / "set", "b", features(2), label=[1], coords=np.array(PLACES), tiles=[0, 1, 0])
    torchmil(folder / "set", "a", features(1), label=np.array([0.0]), coords=np.array(PLACES), tiles=[0, 0, 0])
    source = open_features(given)
    assert source.ids == ("a", "b")
    assert source.features == 4
    assert source.labels == {"a": "0", "b": "1"}
    assert source.provenance["layout"] == "torchmil"
    bag = source.read("b")
    assert bag.x.tolist() == features(2).tolist()
    assert bag.coords_um is None
    assert any("do not say their unit" in note and "unit='grid'" in note for note in source.notes)
    # columns and rows of tiles 128 um wide
    assert open_features(given, unit="grid", tile_um=128.0).read("b").coords_um.tolist() == [[0, 0], [128, 0], [0, 256]]
    assert open_features(given, unit="px", mpp=0.5).read("b").coords_um.tolist() == [[0, 0], [0.5, 0], [0, 1]]


@pytest.mark.parametrize(
    "given", ["set", "set/patches_512", "set/patches_512/features", "set/patches_512/features/features_UNI"]
)
def test_the_layout_of_its_own_data_sets(folder, features, given):
    root = folder / "set" / "patches_512"
    torchmil(root, "a", features(1), label=1, coords=np.array(PLACES), features="features/features_UNI")
    source = open_features(given, unit="px", mpp=0.25)
    assert source.labels == {"a": "1"}
    assert source.read("a").coords_px.tolist() == PLACES
    torchmil(root, "a", features(1, d=5), features="features/features_resnet50")
    if given.endswith("UNI"):
        assert open_features(given).features == 4
    else:
        with pytest.raises(DataError, match=r"several sets of features; give one of them: .*UNI, .*resnet50"):
            open_features(given)


def test_places_of_frames_are_left_alone(folder, features):
    torchmil(folder / "set", "a", features(1), label=[1], coords=np.arange(3)[:, None])
    source = open_features("set")
    assert source.read("a").coords_um is None
    assert not any("unit" in note for note in source.notes)


def test_places_of_another_number_of_tiles_are_refused(folder, features):
    torchmil(folder / "set", "a", features(1), coords=np.zeros((2, 2), int))
    with pytest.raises(DataError, match=r"coords/a\.npy: positions have shape \(2, 2\), but there are 3 rows"):
        open_features("set")


def test_an_array_of_labels_is_no_label_of_a_bag(folder, features):
    torchmil(folder / "set", "a", features(1), label=[0, 1])
    assert open_features("set").labels == {}


def test_the_folder_of_the_features_from_within(folder, features, monkeypatch):
    torchmil(folder / "set", "a", features(1), label=1, features="features/features_UNI")
    monkeypatch.chdir(folder / "set" / "features")
    assert open_features("features_UNI").labels == {"a": "1"}
    monkeypatch.chdir(folder / "set")
    assert open_features(".").labels == {"a": "1"}
    assert str(open_features("features").slides["a"].path) == "features/features_UNI/a.npy"
