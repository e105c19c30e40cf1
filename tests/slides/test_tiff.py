"""The fast reader against the pixels that were written, tiffslide and tifffile; in threads; what it keeps."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import aperio, overwrite, picture, write

from milkit.slides import open_slide
from milkit.slides.tiff import TiffSlide

YCBCR = {"photometric": "rgb", "compressionargs": {"outcolorspace": "ycbcr"}}
"""As scanners write JPEG: tifffile then states YCbCr, colours at half the resolution."""
LOSSLESS = [None, "deflate", "adobe_deflate", "lzw", "packbits"]


def whole(slide, level=0):
    held = slide.levels[level]
    return slide.read_level(level, (0, 0), (held.width, held.height))


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("layout", [{"tile": (64, 48)}, {"tile": None, "rowsperstrip": 7}])
def test_lossless_pixels_come_back(tmp_path, compression, layout):
    pixels = picture()
    predictor = compression in ("lzw", "deflate")
    path = write(tmp_path / "s.tif", pixels, compression=compression, predictor=predictor, **layout)
    with open_slide(path) as slide:
        assert isinstance(slide, TiffSlide)
        assert (whole(slide) == pixels).all()
        assert (slide.read_level(0, (50, 61), (101, 77)) == pixels[61:138, 50:151]).all()


@pytest.mark.parametrize(
    ("compression", "options"),
    [
        ("jpeg", {"photometric": "rgb"}),
        ("jpeg", YCBCR),
        ("aperio_jp2000_rgb", {}),
        ("jpeg2000", {}),
    ],
)
def test_lossy_pixels_are_those_of_tiffslide(tmp_path, compression, options):
    import tiffslide

    path = write(tmp_path / "s.svs", picture(), compression=compression, levels=2, **options)
    with open_slide(path) as slide, tiffslide.TiffSlide(path) as other:
        assert isinstance(slide, TiffSlide)
        assert (whole(slide) == other.read_region((0, 0), 0, (300, 200), as_array=True)).all()
        assert np.abs(whole(slide).astype(int) - picture()).mean() < 6
        assert (whole(slide, 1) == tifffile.imread(path, key=1)).all()


def test_colours_at_half_the_resolution_are_those_of_libtiff(tmp_path):
    """Which Pillow reads by, and neither tifffile nor imagecodecs."""
    path = write(tmp_path / "s.tif", picture(), compression="jpeg", **YCBCR)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
        assert tiff.pages[0].tags["YCbCrSubSampling"].value == (2, 2)
    with open_slide(path) as slide, Image.open(path) as image:
        assert (whole(slide) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs"])
def test_real_slides_pixel_for_pixel(shared, name):
    import tiffslide

    path = shared / "data" / "wsi" / name
    with open_slide(path, mpp=0.5) as slide, tiffslide.TiffSlide(path) as other:
        assert isinstance(slide, TiffSlide)
        assert slide.size_px == other.dimensions
        assert tuple((level.width, level.height) for level in slide.levels) == other.level_dimensions
        for corner, size in [((0, 0), (256, 256)), ((700, 901), (500, 300)), ((240, 480), (240, 240))]:
            mine = slide.read_level(0, corner, size)
            assert (mine == other.read_region(corner, 0, size, as_array=True)).all()
        for level, held in enumerate(slide.levels[1:], 1):
            theirs = other.read_region((0, 0), level, (held.width, 300), as_array=True)
            assert (slide.read_level(level, (0, 0), (held.width, 300)) == theirs).all()


@pytest.mark.parametrize(
    ("options", "of"),
    [({"bigtiff": True}, "BigTIFF"), ({"byteorder": ">"}, "other byte order")],
)
def test_kinds_of_tiff(tmp_path, options, of):
    pixels = picture()
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path, **options) as tiff:
        tiff.write(pixels, tile=(64, 64), photometric="rgb", description=aperio(), metadata=None)
    with open_slide(path) as slide:
        assert (whole(slide) == pixels).all(), of


def test_grey_becomes_rgb(tmp_path):
    pixels = picture()[..., 0]
    for photometric, expected in [("minisblack", pixels), ("miniswhite", 255 - pixels)]:
        with open_slide(write(tmp_path / f"{photometric}.tif", pixels, photometric=photometric)) as slide:
            assert (whole(slide) == expected[..., None]).all()


def test_levels_in_sub_images_and_thumbnails_left_out(tmp_path):
    pixels, path = picture(320, 256), tmp_path / "s.ome.tif"
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, subifds=2, description=aperio(), **options)
        tiff.write(pixels[::2, ::2], subfiletype=1, **options)
        tiff.write(pixels[::4, ::4], subfiletype=1, **options)
        tiff.write(pixels[::3, ::3], photometric="rgb", metadata=None)  # in strips: a thumbnail
        tiff.write(pixels[:100, :40], **options)  # other proportions: a label
    with open_slide(path) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(320, 256), (160, 128), (80, 64)]
        assert (whole(slide, 2) == pixels[::4, ::4]).all()


def test_a_tile_that_was_left_out_is_white(tmp_path):
    pixels = picture()
    path = write(tmp_path / "s.tif", pixels)
    with tifffile.TiffFile(path) as tiff:
        counts = list(tiff.pages[0].databytecounts)
    counts[1] = 0
    overwrite(path, 0, 325, counts)
    with open_slide(path) as slide:
        got = whole(slide)
    assert (got[:64, 64:128] == 255).all()
    assert (got[:64, :64] == pixels[:64, :64]).all()


def test_threads_read_the_same_and_little_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("milkit.slides.tiff.KEPT", 5 * 64 * 64 * 3)
    pixels = picture(500, 400)
    corners = [(x, y) for y in range(0, 300, 37) for x in range(0, 400, 41)]
    with open_slide(write(tmp_path / "s.tif", pixels, compression="deflate")) as slide:
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda c: slide.read_level(0, c, (90, 80)), corners))
        assert len(slide._kept) <= 5
        assert slide._bytes == sum(tile.nbytes for tile in slide._kept.values())
    for (x, y), one in zip(corners, got, strict=True):
        assert (one == pixels[y : y + 80, x : x + 90]).all()


def test_what_is_read_may_be_written_to(tmp_path):
    """A caller that paints on a tile must not paint on the next reader's."""
    pixels = picture()
    with open_slide(write(tmp_path / "s.tif", pixels)) as slide:
        slide.read_level(0, (0, 0), (64, 64))[:] = 0
        assert (slide.read_level(0, (0, 0), (64, 64)) == pixels[:64, :64]).all()


def test_only_the_tiles_of_a_region_are_decoded(tmp_path, monkeypatch):
    seen = []
    with open_slide(write(tmp_path / "s.tif", picture(640, 640))) as slide:
        real = slide._decoded
        monkeypatch.setattr(slide, "_decoded", lambda level, index: seen.append(index) or real(level, index))
        slide.read_level(0, (70, 130), (50, 70))
    assert seen == [21, 31]  # column 1, rows 2 and 3, of ten columns
