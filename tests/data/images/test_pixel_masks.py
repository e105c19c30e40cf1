"""Masks handed out for training: codes by hand, test masks that stay closed, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from milkit import Binary, Experiment, GivenFolds, ImageCohort, ImageCrops, KFold, MultiClass, MultiLabel, Train
from milkit.data.images.truth import coded, covered
from milkit.errors import ConfigError, DataError
from milkit.execute.inputs import check_inputs
from milkit.pixel import SAMIL, UNet

BOTH = MultiLabel(("background", "foreground"))


def cohort(tmp_path, **options):
    """Three images of 8 x 10 pixels; the test image's mask is no image."""
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    rows = "image,patient,label,foreground,background,split\n"
    for i, role in enumerate(("train", "val", "test")):
        Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).save(tmp_path / f"{i}.png")
        mask = np.zeros((8, 10), np.uint8)
        mask[0, :4] = i + 1
        mask[4:8, 4:8] = 9
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
        rows += f"{i}.png,p{i},{i % 2},1,1,{role}\n"
    (tmp_path / "masks" / "2.png").write_bytes(b"nobody may open this")
    (tmp_path / "t.csv").write_text(rows)
    return ImageCohort(str(tmp_path / "t.csv"), masks=str(tmp_path / "masks"), **options)


def test_masks_of_whole_images(tmp_path):
    data = cohort(tmp_path, pixel_masks=True)
    study = data.load(Binary(), "slide")
    want = np.zeros((8, 10), np.uint8)
    want[0, :4] = want[4:8, 4:8] = 1
    np.testing.assert_array_equal(study.pixel_truth(0), want)
    np.testing.assert_array_equal(study.pixel_truth(1), want)
    assert study.pixel_truth(2) is None
    said = str(study.flow)
    assert "pixel supervision: training and selection read the masks of 2 training and validation images" in said
    assert "80 labelled pixels an image (160 in all)" in said
    assert "for scoring only" not in said
    # background first: bit 0; foreground: bit 1
    np.testing.assert_array_equal(data.load(BOTH, "slide").pixel_truth(0), np.where(want == 1, 2, 1))
    with_out = ImageCohort(data.table, masks=data.masks).load(Binary(), "slide")
    assert with_out.pixel_truth is None
    assert "masks_sha256" in study.provenance
    assert "masks_sha256" not in with_out.provenance
    (tmp_path / "masks" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no image that can be read"):
        data.load(Binary(), "slide")
    (tmp_path / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match=r"learns from masks, but '1.png' has none"):
        data.load(Binary(), "slide")


def test_masks_of_crops(tmp_path):
    study = ImageCrops(cohort(tmp_path), size=4, stride=3, test_crops=True, pixel_masks=True).load(Binary(), "slide")
    row = {name: i for i, name in enumerate(study.bag.tolist())}
    want = np.zeros((4, 4), np.uint8)
    want[0, :1] = 1  # rows 0 to 3, columns 3 to 6: of the line of four the last pixel
    np.testing.assert_array_equal(study.pixel_truth(row["0.png y0 x3"]), want)
    want = np.zeros((4, 4), np.uint8)
    want[1:, 1:] = 1
    np.testing.assert_array_equal(study.pixel_truth(row["1.png y3 x3"]), want)
    tested = np.flatnonzero(study.given[0].role == "test")
    assert len(tested) > 0
    assert all(study.pixel_truth(int(i)) is None for i in tested)
    # crops cover rows 0 to 6 and all ten columns; shared pixels count once
    assert "70 labelled pixels an image (140 in all)" in str(study.flow)
    assert "crop-label supervision" not in str(study.flow)


def test_codes_and_cover_by_hand():
    foreground = np.array([[True, False]])
    assert coded(foreground, ("foreground",)).tolist() == [[1, 0]]
    assert coded(foreground, ("foreground", "background")).tolist() == [[1, 2]]
    assert covered((4, 5), np.array([[0, 0], [1, 1]]), 3) == 9 + 9 - 4


def test_what_is_refused(tmp_path):
    data = cohort(tmp_path, pixel_masks=True)
    more = {"model": UNet(width=(4,)), "unit": "slide"}
    with pytest.raises(ConfigError, match="GivenFolds"):
        Experiment(data=data, protocol=KFold(2), **more)
    with pytest.raises(ConfigError, match="judges epochs on the test part"):
        Experiment(data=data, protocol=GivenFolds(), optimistic="auroc", **more)
    with pytest.raises(ConfigError, match="foreground and background of each pixel"):
        Experiment(data=data, protocol=GivenFolds(), task=MultiClass(), **more)
    with pytest.raises(ConfigError, match="images in memory"):
        Experiment(data=data, protocol=GivenFolds(), train=Train(memory="stream"), **more)
    with pytest.raises(ConfigError, match="set pixel_masks=True of ImageCrops itself"):
        ImageCrops(data, size=4)
    with pytest.raises(ConfigError, match="comes with 0 splits, but pixel_masks=True needs one"):
        ImageCohort(data.table, masks=data.masks, split="-", pixel_masks=True).load(Binary(), "slide")
    study = data.load(Binary(), "slide")
    with pytest.raises(ConfigError, match="SAMIL learns from image labels and would not look at them"):
        check_inputs(SAMIL.from_scratch(), study)
    check_inputs(UNet(width=(4,)), study)
