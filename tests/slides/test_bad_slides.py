"""Slides that cannot be read, and mpp that is not known: each a DataError that says what was found."""

import os
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import aperio, overwrite, picture, write

from milkit.errors import ConfigError, DataError
from milkit.slides import open_slide
from milkit.slides.image import ImageSlide
from milkit.slides.tiff import TiffSlide
from milkit.slides.tiffslide_reader import TiffslideSlide


@pytest.fixture
def slide(tmp_path):
    return write(tmp_path / "a slide µ.svs", picture(), compression="jpeg", levels=2)


def refused(path, match, **options):
    with pytest.raises(DataError, match=match) as error:
        open_slide(path, **options)
    assert str(path) in str(error.value)


def test_not_there_folder_empty_zeros_and_noise(tmp_path):
    refused(tmp_path / "none.svs", "No such file")
    refused(tmp_path, "folder")
    for name, content in {"empty": b"", "zeros": bytes(5000), "noise": os.urandom(5000), "head": b"II*\0"}.items():
        path = tmp_path / f"{name}.svs"
        path.write_bytes(content)
        refused(path, "empty|neither TIFF|truncated|OpenSlide", mpp=0.5)


def test_truncated_anywhere(slide, tmp_path):
    """Whatever is missing: opening or reading says so, and nothing else is raised."""
    whole = slide.read_bytes()
    path = tmp_path / "cut.svs"
    for share in (0.02, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "truncated|damaged")


def test_changed_bytes_never_raise_anything_else(slide, tmp_path):
    rng, whole = np.random.default_rng(0), bytearray(slide.read_bytes())
    path = tmp_path / "noise.svs"
    for _ in range(25):
        content = bytearray(whole)
        for at in rng.integers(4, len(whole), 20):
            content[at] = rng.integers(256)
        path.write_bytes(content)
        try:
            with open_slide(path, mpp=0.5, reader="tiff") as opened:
                opened.read_level(0, (0, 0), (100, 100))
        except DataError:
            pass


def test_read_by_content_not_by_name(tmp_path, slide):
    Image.fromarray(picture()).save(tmp_path / "x.jpg")
    renamed = (tmp_path / "x.jpg").rename(tmp_path / "x.svs")
    refused(renamed, "--mpp.*column `mpp`")
    with open_slide(renamed, mpp=0.5) as opened:
        assert isinstance(opened, ImageSlide)
        assert opened.size_px == (300, 200)
    with open_slide(slide.rename(tmp_path / "y.png")) as opened:
        assert isinstance(opened, TiffSlide)
    refused(renamed, "no TIFF", mpp=0.5, reader="tiff")


def test_broken_images(tmp_path):
    path = tmp_path / "s.png"
    Image.fromarray(picture()).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "truncated or damaged", mpp=0.5)
    # a header that claims 60,000 x 60,000 pixels
    path.write_bytes(whole[:16] + struct.pack(">II", 60_000, 60_000) + whole[24:])
    refused(path, "claims 60000 x 60000|cannot be decoded", mpp=0.5)
    Image.fromarray(np.zeros((5, 5), np.uint16)).save(path)
    refused(path, "8 bits", mpp=0.5)


def test_transparent_pixels_lie_over_white(tmp_path):
    Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)).save(tmp_path / "s.png")
    with open_slide(tmp_path / "s.png", mpp=1) as opened:
        assert opened.read_level(0, (0, 0), (2, 1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_claims_of_gigantic_sizes(slide):
    overwrite(slide, 0, 256, 2_000_000)
    refused(slide, "lists .* places|damaged")


def test_a_tile_that_claims_more_than_a_tile(tmp_path):
    """The JPEG of a tile states 60,000 x 60,000 pixels: refused before it is decoded, the others are read."""
    path = write(tmp_path / "s.svs", picture(), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].dataoffsets[0]
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xff\xc0", at)
    content[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    path.write_bytes(content)
    with open_slide(path) as opened:
        with pytest.raises(DataError, match=r"tile 0 of level 0 .*60000 x 60000"):
            opened.read_level(0, (0, 0), (64, 64))
        assert opened.read_level(0, (64, 64), (64, 64)).shape == (64, 64, 3)


def test_pixels_that_are_none_of_a_slide(tmp_path):
    deep = picture().astype(np.uint16) * 256
    refused(write(tmp_path / "deep.tif", deep), "16 bits|uint16")
    path = write(tmp_path / "unknown.tif", picture())
    refused(overwrite(path, 0, 259, 54321), "54321")


def test_others_go_to_tiffslide(tmp_path):
    """Colours in three images are none of the fast reader's."""
    pixels = picture()
    path = tmp_path / "channels.ome.tif"
    options = {"tile": (64, 64), "photometric": "minisblack", "metadata": {"axes": "CYX"}}
    tifffile.imwrite(path, pixels.transpose(2, 0, 1), **options)
    with open_slide(path, mpp=0.5) as opened:
        assert isinstance(opened, TiffslideSlide)
        assert (opened.read_level(0, (10, 20), (100, 90)) == pixels[20:110, 10:110]).all()
    refused(path, "stack of 3 .*Leave the reader", mpp=0.5, reader="tiff")


@pytest.mark.parametrize("value", ["0", "1000", "-0.25", "0.04"])
def test_mpp_stated_out_of_range(tmp_path, value):
    path = write(tmp_path / "s.svs", picture(), aperio(value))
    refused(path, f"states an mpp of {float(value):g} .*--mpp")
    with open_slide(path, mpp=0.25) as opened:
        assert opened.mpp == 0.25


def test_mpp_missing_or_given_out_of_range(tmp_path):
    path = write(tmp_path / "s.svs", picture(), aperio(None))
    refused(path, "magnification of 40.*--mpp.*column `mpp`")
    for mpp in (0, -1, 1000, float("nan")):
        refused(path, "was given", mpp=mpp)


def test_mpp_by_resolution_tags_and_ome(tmp_path):
    pixels = picture()
    tags = {"resolution": (40_000, 40_000), "resolutionunit": "centimeter"}
    with open_slide(write(tmp_path / "cm.tif", pixels, None, **tags)) as opened:
        assert opened.mpp == pytest.approx(0.25)
    refused(write(tmp_path / "print.tif", pixels, None, resolution=(72, 72), resolutionunit="inch"), "352.778 um")
    refused(write(tmp_path / "none.tif", pixels, None, resolution=(40_000, 40_000), resolutionunit="none"), "--mpp")
    path = tmp_path / "s.ome.tif"
    facts = {"axes": "YXS", "PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", metadata={**facts, "PhysicalSizeYUnit": "µm"})
    with open_slide(path) as opened:
        assert opened.mpp == 0.5
        assert "OME" in opened.properties["milkit.mpp-source"]
    path = write(tmp_path / "oblong.tif", pixels, None, resolution=(40_000, 20_000), resolutionunit="centimeter")
    refused(path, "not square, 0.25 x 0.5")


def test_changed_while_it_is_read(slide):
    opened = open_slide(slide)
    assert opened.unchanged()
    slide.write_bytes(slide.read_bytes() + b"x")
    assert not opened.unchanged()
    with pytest.raises(DataError, match="changed or moved while it was read"), opened:
        pass
    opened = open_slide(slide)
    slide.write_bytes(slide.read_bytes() + b"x")
    with pytest.raises(ValueError, match="own"), opened:  # an error of one's own is not hidden
        raise ValueError("own")


def test_no_such_reader_and_openslide_missing(slide, monkeypatch):
    with pytest.raises(ConfigError, match="no reader"):
        open_slide.__wrapped__(slide, reader="bioformats")
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    refused(slide, r"extra `openslide`", reader="openslide")
