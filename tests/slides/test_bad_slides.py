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


def test_a_sparse_slide_of_a_million_by_a_million_pixels(tmp_path):
    """Tiles that were left out take no bytes, so that a small file may claim any size; to look at it takes hours."""
    side, n = 1_000_000, -(-1_000_000 // 8192)
    path = tmp_path / "s.tif"
    tags = [(256, 1, side), (257, 1, side), (259, 1, 1), (262, 1, 2), (277, 1, 3), (322, 1, 8192), (323, 1, 8192)]
    end = 8 + 2 + 12 * (len(tags) + 3) + 4
    tags += [(258, 3, end), (324, n * n, end + 6), (325, n * n, end + 6)]
    entries = b"".join(struct.pack("<HHLL", tag, 3 if tag == 258 else 4, count, v) for tag, count, v in sorted(tags))
    head = b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + struct.pack("<3H", 8, 8, 8)
    path.write_bytes(head + bytes(4 * n * n))
    refused(path, "claims 1,000,000 x 1,000,000 pixels, more than any slide", mpp=0.25)


def test_offsets_beyond_what_files_can_have(tmp_path):
    path = tmp_path / "big.tif"
    tifffile.imwrite(path, picture(), bigtiff=True)
    content = bytearray(path.read_bytes())
    content[8:16] = b"\xff" * 8
    path.write_bytes(content)
    refused(path, "truncated or damaged", mpp=0.5)


def test_a_level_behind_the_end_of_the_file(tmp_path):
    """Levels in sub-images that are cut off: not read without them, which would only be slow."""
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path) as tiff:
        for k in (1, 2, 4):
            tiff.write(picture()[::k, ::k], tile=(64, 64), photometric="rgb", subifds=2 * (k == 1), metadata=None)
    with tifffile.TiffFile(path) as tiff:
        first, second = tiff.pages[0].tags[330].value
        size = path.stat().st_size
    overwrite(path, 0, 330, (first, size + 1000))
    refused(path, f"ends at byte {size:,}, before the sub-image at byte {size + 1000:,}", mpp=0.5)
    overwrite(path, 0, 330, (first, second))
    with open_slide(path, mpp=0.5) as opened:
        assert len(opened.levels) == 3


def test_a_first_image_that_is_smaller_than_the_next(tmp_path):
    """A thumbnail, label or the coarsest level first: it is not taken for the slide."""
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as tiff:
        for k in (4, 2, 1):
            tiff.write(picture()[::k, ::k], tile=(64, 64), photometric="rgb", metadata=None)
    refused(path, "begins with an image of 75 x 50 pixels, and one of 150 x 100 follows", mpp=0.5)


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
    refused(path, "does not say how many micrometres")
    with open_slide(path, mpp=0.5) as opened:
        assert isinstance(opened, TiffslideSlide)
        assert (opened.read_level(0, (10, 20), (100, 90)) == pixels[20:110, 10:110]).all()
    refused(path, "stack of 3 .*Leave the reader", mpp=0.5, reader="tiff")
    sides = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, pixels.transpose(2, 0, 1), **{**options, "metadata": {"axes": "CYX", **sides}})
    with open_slide(path) as opened:
        assert isinstance(opened, TiffslideSlide)
        assert opened.mpp == 0.25


def test_what_tifffile_logs_is_not_shown(tmp_path, caplog):
    path = write(tmp_path / "s.tif", picture(), compression="zstd")
    overwrite(path, 0, 305, "tifffile.py")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[305].offset
    content[at + 2 : at + 4] = struct.pack("<H", 41)  # a type of values that there is not
    path.write_bytes(content)
    with open_slide(path) as opened:
        assert isinstance(opened, TiffslideSlide)
    assert not caplog.records


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
