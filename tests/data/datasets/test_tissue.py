"""Colon nuclei and embedded tissue: small made-up sets in the layout of the real ones, and the real ones where here."""

import h5py
import numpy as np
import pytest
from PIL import Image

from milkit.data.datasets import ColonNuclei, TissueFeatures
from milkit.data.datasets.colon import SIDE, corners, cut
from milkit.data.protocol import GivenFolds, KFold
from milkit.errors import ConfigError, DataError, ProtocolError
from milkit.task import Binary

NUCLEI = [
    ("img2", 250.4, 100.6, "epithelial"),
    ("img2", 0.3, 499.9, "inflammatory"),
    ("img1", 13.5, 13.0, "fibroblast"),
    ("img1", 486.0, 487.0, "others"),
    ("img1", 500.0, 0.0, "inflammatory"),
]


@pytest.fixture
def colon(tmp_path, monkeypatch):
    """Two images whose red is the column and whose green is the row (both halved)."""
    folder = tmp_path / "colon_crchisto"
    (folder / "images").mkdir(parents=True)
    rows = "\n".join(",".join(map(str, row)) for row in NUCLEI)
    (folder / "nuclei_classified.csv").write_text(f"image,x,y,type\n{rows}\n")
    y, x = np.mgrid[:SIDE, :SIDE] // 2
    for i, name in enumerate(("img1", "img2")):
        image = Image.fromarray(np.stack([x, y, np.full_like(x, i)], 2).astype(np.uint8))
        image.save(folder / "images" / f"{name}.jpg", format="PNG")  # without loss, so that pixels can be told
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    return folder


def test_corners_are_centred_and_moved_inside():
    points = np.array([row[1:3] for row in NUCLEI])
    # by hand: round(250.4) - 13 = 237; 0 and 500 move to 0 and 473; 13.5 rounds to 14 (even) - 13 = 1; 486 is the last
    assert corners(points, 27).tolist() == [[237, 88], [0, 473], [1, 0], [473, 473], [473, 0]]


def test_patches_are_the_pixels_around_the_nuclei(colon):
    bags = ColonNuclei(verify=False).read()
    assert bags.source.ids == ("img2", "img1")
    assert bags.source.lengths.tolist() == [2, 3]
    patches = bags.images(0)
    assert patches.shape == (2, 27, 27, 3)
    assert patches[0, 13, 13].tolist() == [250 // 2, 101 // 2, 1]  # the nucleus stands in the middle
    assert patches[0, 0, 26].tolist() == [263 // 2, 88 // 2, 1]  # rows are y, columns are x
    assert patches[1, 26, 0].tolist() == [0, 499 // 2, 1]
    bag = bags.bag(0)
    assert bag.coords_px.tolist() == [[237, 88], [0, 473]]
    np.testing.assert_allclose(bag.coords_um, np.array([[237, 88], [0, 473]]) * 0.55, rtol=1e-6)
    assert (bag.mpp, bag.tile_um) == (0.55, pytest.approx(27 * 0.55))
    np.testing.assert_allclose(bag.x, patches.reshape(2, -1) / 127.5 - 1, atol=1e-6)
    assert bag.x.shape == (2, 27 * 27 * 3)


def test_the_types_of_nuclei_label_the_bag_and_are_no_features(colon):
    bags = ColonNuclei(verify=False).read()
    assert bags.labels.tolist() == [1, 0]
    assert bags.instance_labels(0).tolist() == [0, 1]
    assert [bags.instance_classes[t] for t in bags.instance_labels(1)] == ["fibroblast", "others", "inflammatory"]
    assert bags.source.features == 2187
    smaller = ColonNuclei(patch_px=5, verify=False).read()
    assert smaller.source.features == 75
    assert smaller.images(0)[0, 2, 2].tolist() == [125, 50, 1]


def test_the_study_says_that_patients_leak(colon):
    flow = str(ColonNuclei(verify=False).load().flow)
    assert "patient-leaky" in flow
    assert "no patient column: each slide counts as its own patient" in flow  # which marks every number of a report


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("img1,600,3,others", "line 7"),
        ("img1,x,3,others", "line 7"),
        ("img1,5,3,tumour", "one of epithelial"),
        ("../img1,5,3,others", "line 7"),
        ("img1,5,3", "line 7"),
        ("img9,5,3,others", "No colon_crchisto/images/img9.jpg"),
    ],
)
def test_a_nucleus_that_cannot_be_is_refused(colon, row, said):
    table = colon / "nuclei_classified.csv"
    table.write_text(table.read_text() + row + "\n")
    with pytest.raises(DataError, match=said):
        ColonNuclei(verify=False).read()


def test_images_of_another_size_or_kind_are_refused(colon):
    Image.new("RGB", (400, 500)).save(colon / "images" / "img1.jpg")
    with pytest.raises(DataError, match=r"img1.jpg is 400 x 500 pixels; expected 500 x 500"):
        ColonNuclei(verify=False).read().bag(1)
    (colon / "images" / "img1.jpg").write_text("no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        ColonNuclei(verify=False).read().bag(1)
    with pytest.raises(DataError, match=r"nuclei_classified.csv is not the file that milkit knows.*verify=False"):
        ColonNuclei().read()
    with pytest.raises(ConfigError, match="expected an odd number"):
        ColonNuclei(patch_px=28)


def test_cutting_keeps_rows_and_columns():
    image = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)
    corner = np.array([[3, 7], [0, 0]])
    assert (cut(image, corner, 5)[0] == image[7:12, 3:8]).all()
    assert (cut(image, corner, 5)[1] == image[:5, :5]).all()


def test_the_real_colon_images(shared, monkeypatch):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    bags = ColonNuclei().read()
    assert (len(bags), int(bags.labels.sum()), int(bags.source.lengths.sum())) == (100, 51, 22444)
    types = np.bincount(np.concatenate([bags.instance_labels(i) for i in range(100)]))
    assert types.tolist() == [7722, 6971, 5712, 2039]  # Sirinukunwattana et al. (2016)
    nucleus, elsewhere = bags.images(0)[:, 11:16, 11:16], bags.images(0)
    assert nucleus.mean() < elsewhere.mean()  # nuclei are dark: the centres are where they should be


@pytest.fixture
def glas(tmp_path, monkeypatch):
    (tmp_path / "features_efflite0").mkdir()
    (tmp_path / "glas").mkdir()
    names = [f"{part}_{i + 1}" for part, n in (("train", 8), ("testA", 4)) for i in range(n)]
    with h5py.File(tmp_path / "features_efflite0" / "glas.h5", "w") as file:
        for i, name in enumerate(names):
            group = file.create_group(name)
            group["features"] = np.full((3, 4), i, np.float16)
            group["coords"] = np.array([[0, 0], [110, 0], [221, 0]], np.int32)
            group["coords"].attrs["patch_size"], group["coords"].attrs["patch_level"] = 112, 0
            group["mask_fraction"] = np.array([0.1, 0.5, i / 20], np.float32)
    rows = [f"{name},{i % 4},{' benign' if i % 2 else ' malignant'},x" for i, name in enumerate(names)]
    table = "\r\n".join(["name,patient ID,grade (GlaS),grade (Sirinukunwattana et al. 2015)", *rows])
    (tmp_path / "glas" / "Grade.csv").write_text(table)
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    return tmp_path


def test_glas_has_patients_positions_and_gland_shares(glas):
    bags = TissueFeatures("glas", verify=False).read()
    assert bags.source.ids[:2] == ("testA_1", "testA_2")
    i = bags.source.ids.index("train_3")
    assert bags.bag(i).x.tolist() == [[2] * 4] * 3
    assert bags.bag(i).x.shape == (3, 4)  # the share of gland is not among the features
    assert bags.instance_labels(i).tolist() == pytest.approx([0.1, 0.5, 0.1])
    assert bags.bag(i).coords_px.tolist() == [[0, 0], [110, 0], [221, 0]]
    np.testing.assert_allclose(bags.bag(i).coords_um[2], [221 * 0.62005, 0], rtol=1e-6)
    assert bags.bag(i).tile_um == pytest.approx(112 * 0.62005)
    assert bags.labels[i] == 1


def test_glas_official_split_leaks_and_folds_by_patient_do_not(glas):
    study = TissueFeatures("glas", verify=False).load(Binary(), "slide")
    with pytest.raises(ProtocolError, match="patient"):
        GivenFolds(validation=0.0).plan(study, Binary())
    assert GivenFolds(validation=0.0, allow_patient_overlap=True).plan(study, Binary()).marks
    plan = KFold(folds=2, validation=0.0).plan(study, Binary())
    for split in plan.splits:
        assert not set(study.patient[split.train].tolist()) & set(study.patient[split.test].tolist())
    with pytest.raises(ConfigError, match="set unit='slide'"):
        TissueFeatures("glas", verify=False).load(Binary())


def test_tissue_that_is_not_as_it_should_be(glas):
    with pytest.raises(DataError, match=r"glas.h5 is not the file that milkit knows"):
        TissueFeatures("glas").read()
    table = glas / "glas" / "Grade.csv"
    whole = table.read_text()
    table.write_text(whole.replace("testA_1,", "testA_9,"))
    with pytest.raises(DataError, match=r"no row for \['testA_1'\]"):
        TissueFeatures("glas", verify=False).read()
    table.write_text(whole.replace("patient ID", "patient"))
    with pytest.raises(DataError, match="lacks the column 'patient ID'"):
        TissueFeatures("glas", verify=False).read()
    table.write_text(whole.replace(" benign", "healthy"))
    with pytest.raises(DataError, match="label 'healthy'"):
        TissueFeatures("glas", verify=False).read()
    with pytest.raises(DataError, match="'ucsb_breast' is not on this machine"):
        TissueFeatures("ucsb_breast").read()


@pytest.mark.parametrize(
    ("name", "bags", "positives", "patients", "tiles"), [("glas", 165, 91, 16, 5565), ("ucsb_breast", 58, 26, 10, 2436)]
)
def test_the_real_tissue(shared, monkeypatch, name, bags, positives, patients, tiles):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    found = TissueFeatures(name).read()
    study = found.study(unit="slide")
    assert (len(study), int(study.targets.values.sum()), int(study.lengths.sum())) == (bags, positives, tiles)
    assert len(set(study.patient.tolist())) == patients
    assert study.features == 1280
    if name == "glas":
        share = np.concatenate([found.instance_labels(i) for i in range(len(found))])
        assert abs(share.mean() - 0.51) < 0.03  # gland area is 51 % on average
        assert study.provenance["mpp"] == 0.62005
    else:
        assert found.bag(0).coords_um is None
        assert found.bag(0).coords_px is not None
