"""Crops of images: labels from masks by hand, test masks that stay closed, and the counts of public sets."""

import numpy as np
import pytest
from PIL import Image

from milkit import Binary, Experiment, GivenFolds, ImageCohort, ImageCrops, KFold, KnownImages, MultiLabel
from milkit.data.images.known import patient_folds
from milkit.data.images.windows import stitch
from milkit.errors import ConfigError, DataError, ProtocolError
from milkit.experiment import allowed_types
from milkit.models import ABMIL

ROLES = ("train", "val", "test", "test", "")
HOLDS = MultiLabel(("foreground", "background"))


def images(tmp_path, roles=ROLES, open_masks=("train", "val")):
    """Five images of 8 x 10 pixels; masks of those that nobody may open are no images."""
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for i, role in enumerate(roles):
        Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).save(tmp_path / f"{i}.png")
        mask = np.zeros((8, 10), np.uint8)
        mask[0, :4] = i + 1
        mask[4:8, 4:8] = 9
        path = tmp_path / "masks" / f"{i}.png"
        Image.fromarray(mask).save(path)
        if role not in open_masks:
            path.write_bytes(b"nobody may open this")
    rows = "".join(f"{i}.png,p{i},{role}\n" for i, role in enumerate(roles))
    (tmp_path / "t.csv").write_text("image,patient,split\n" + rows)
    return ImageCohort(str(tmp_path / "t.csv"), masks=str(tmp_path / "masks"))


def test_labels_of_crops_by_hand(tmp_path):
    study = ImageCrops(images(tmp_path), size=4, stride=4, min_share=0.25).load(Binary(), "slide")
    # two rows and two columns of crops an image: 4 of 16 pixels; none; none; all 16
    assert study.bag[:4].tolist() == ["0.png y0 x0", "0.png y0 x4", "0.png y4 x0", "0.png y4 x4"]
    assert study.targets.values.tolist() == [1, 0, 0, 1] * 2
    assert study.columns["foreground"][:4].tolist() == ["0", "0", "0", "1"]  # 4 of 16 is not more than a quarter
    assert study.columns["background"][:4].tolist() == ["1", "1", "1", "0"]
    assert study.sizes.tolist() == [[4, 4]] * 8
    whole = np.asarray(Image.open(tmp_path / "1.png"))
    np.testing.assert_array_equal(study.read(7).x.reshape(4, 4, 3), whole[4:8, 4:8])
    assert study.patient.tolist() == ["p0"] * 4 + ["p1"] * 4
    assert study.given[0].role.tolist() == ["train"] * 4 + ["validation"] * 4
    said = str(study.flow)
    assert "crop-label supervision: labels of crops are from the masks of 2 training and validation images" in said
    assert "4.0 crops an image" in said
    assert "left out 2: a test image: its mask stays closed" in said
    assert "left out 1: its split gives it no role" in said


def test_crops_of_test_images_may_lie_closer(tmp_path):
    apart = ImageCrops(images(tmp_path), size=4, stride=4, test_stride=2, test_crops=True).load(Binary(), "slide")
    of = apart.columns["image"].tolist()
    assert (of.count("0.png"), of.count("2.png")) == (4, 12)  # 8 x 10 pixels: 2 x 2 crops; 3 x 4 that overlap
    with pytest.raises(ConfigError, match="gaps"):
        ImageCrops(ImageCohort("t.csv"), size=4, stride=2, test_stride=5, test_crops=True)


def test_a_share_of_each_class(tmp_path):
    study = ImageCrops(images(tmp_path), size=4, stride=2).load(HOLDS, "slide")
    # rows 0, 2, 4 and columns 0, 2, 4, 6; the crop at (0, 2) holds 2 of 16 pixels, (2, 2) the corner of the square
    values = dict(zip(study.bag.tolist(), study.targets.values.tolist(), strict=True))
    assert len(values) == 24
    assert values["0.png y0 x2"] == [1, 1]
    assert values["0.png y0 x6"] == [0, 1]
    assert values["0.png y4 x4"] == [1, 0]
    assert values["1.png y2 x2"] == [1, 1]


def test_masks_of_test_images_are_never_opened(tmp_path):
    """They hold no image, so opening one is an error, as it is of a training image's."""
    data = ImageCrops(images(tmp_path), size=4, stride=3, test_crops=True)
    study = data.load(Binary(), "slide")
    tested = study.given[0].role == "test"
    assert not study.targets.values[tested].any()
    assert any("of 2 test images have no label" in note for note in study.flow.notes)
    with pytest.raises(DataError, match="no image that can be read"):
        data.masks_of(study).truth(2)
    (tmp_path / "masks" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no image that can be read"):
        data.load(Binary(), "slide")


def test_maps_of_test_crops_cover_the_image(tmp_path):
    data = ImageCrops(images(tmp_path), size=4, stride=3, test_crops=True)
    study = data.load(Binary(), "slide")
    whole = np.asarray(Image.open(tmp_path / "3.png"))
    rows = np.flatnonzero(study.columns["image"] == "3.png")
    places = np.stack([study.columns["top"][rows], study.columns["left"][rows]], 1).astype(np.int64)
    maps = [study.read(i).x.reshape(4, 4, 3).astype(np.float64) for i in rows.tolist()]
    np.testing.assert_allclose(stitch(maps, places, (8, 10)), whole, rtol=1e-6)
    assert data.masks_of(study).ids == ("0.png", "1.png", "2.png", "3.png")
    assert data.masks_of(study).truth(0).sum() == 20


def test_crops_that_cannot_be_made(tmp_path):
    cohort = images(tmp_path)
    with pytest.raises(ConfigError, match='set unit="slide"'):
        ImageCrops(cohort).load(Binary())
    with pytest.raises(DataError, match="as large as a crop of 112 px"):
        ImageCrops(cohort).load(Binary(), "slide")
    with pytest.raises(ConfigError, match="comes with 0 splits, but crops need one"):
        ImageCrops(ImageCohort(cohort.table, masks=cohort.masks, split="-"), size=4).load(Binary(), "slide")
    with pytest.raises(DataError, match=r"labels from masks, but '0.png' has none"):
        ImageCrops(ImageCohort(cohort.table), size=4).load(Binary(), "slide")
    crops = ImageCrops(cohort, size=4, stride=4, test_crops=True)
    with pytest.raises(ConfigError, match="GivenFolds"):
        Experiment(data=crops, protocol=KFold(2), model=ABMIL(), unit="slide")
    assert Experiment(data=crops, protocol=GivenFolds(), model=ABMIL(), unit="slide").data == crops
    assert {"ImageCrops", "KnownImages"} <= set(allowed_types())


def test_patients_whose_crops_differ_in_class_can_be_learned_from(tmp_path):
    """By patient there is one class, by crop there are two."""
    study = ImageCrops(images(tmp_path), size=4, stride=4, test_crops=True).load(Binary(), "slide")
    plan = GivenFolds(allow_single_class=True).plan(study, Binary())
    assert [len(part) for part in (plan.splits[0].train, plan.splits[0].validation, plan.splits[0].test)] == [4, 4, 12]
    assert not [note for note in plan.notes if "train part" in note or "validation part" in note]
    assert [note for note in plan.notes if "test parts lack a class" in note]
    with pytest.raises(ProtocolError, match="test part holds one class only"):
        GivenFolds().plan(study, Binary())


def test_patients_in_folds_by_hand():
    patient = np.array(["a"] * 4 + ["b"] * 3 + ["c"] * 3 + ["d"])
    # a (4) to 0, b (3) to 1, c (3) to 1 (3 < 4), d to 0
    assert patient_folds(patient, 2).tolist() == [0] * 4 + [1] * 6 + [0]


@pytest.fixture
def glas(shared, monkeypatch):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    if not (shared / "data" / "glas").is_dir():
        pytest.skip("GlaS is not here")


@pytest.mark.parametrize(("size", "crops", "free"), [(64, 15306, 3240), (128, 3792, 466)])
def test_gland_free_crops_of_glas(glas, size, crops, free, monkeypatch):
    """Side by side, whole ones only: the numbers that were counted elsewhere."""

    def all_train(self, opened):
        return dict.fromkeys(opened.table.slide.tolist(), "train")

    def blank(opened, ids, sizes):
        return {i: np.zeros((*sizes[i], 3), np.uint8) for i in ids}, ()

    monkeypatch.setattr(ImageCrops, "_roles", all_train)
    monkeypatch.setattr("milkit.data.images.crops.decode_all", blank)
    study = ImageCrops(KnownImages("glas"), size=size, stride=size).load(Binary(), "slide")
    assert (len(study), int((study.targets.values == 0).sum())) == (crops, free)


def test_the_splits_of_glas(glas):
    official = KnownImages("glas", split="official").open()
    assert [(official.given[0].role == role).sum() for role in ("train", "test")] == [85, 80]
    train, test = (set(official.table.patient[official.given[0].role == role].tolist()) for role in ("train", "test"))
    assert len(train & test) == 11
    grouped = [KnownImages("glas", split="patients", fold=k).open() for k in range(4)]
    tested = [set(o.table.patient[o.given[0].role == "test"].tolist()) for o in grouped]
    assert sum(len(t) for t in tested) == 16 == len(set.union(*tested))
    assert len(official.masks) == 165
    held = KnownImages("glas", split="official", validation_folds=5).open()
    parts = {
        role: set(held.table.patient[held.given[0].role == role].tolist()) for role in ("train", "validation", "test")
    }
    assert not parts["train"] & parts["validation"]
    assert [(held.given[0].role == role).sum() for role in parts] == [68, 17, 80]


def test_sets_without_patients_or_masks(glas):
    colon = KnownImages("colon").open()
    assert len(colon.files) == 100
    assert (colon.table.columns["label"] == "1").sum() == 51
    assert any("patient-leaky" in note for note in colon.notes)
    assert len(set(KnownImages("ucsb_breast").open().table.patient.tolist())) == 10
    with pytest.raises(ConfigError, match="No file says whose"):
        KnownImages("colon", split="patients")
