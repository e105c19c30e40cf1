"""Micrometres to pixels: means of blocks by hand, ramps for any factor, which level is taken, white outside."""

import numpy as np
import pytest
from PIL import Image
from slide_files import picture, write

from milkit.errors import DataError
from milkit.slides import Level, Slide, open_slide
from milkit.slides.opened import levels_of


def png(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def grey(tmp_path):
    """4 x 4 pixels of 0.5 um, 0, 10 ... 150 row by row."""
    values = np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)
    return png(tmp_path / "s.png", np.repeat(values[..., None], 3, -1))


def test_pixels_as_they_are_where_the_level_has_the_mpp(grey):
    with open_slide(grey, mpp=0.5) as slide:
        assert slide.read((0.5, 1.0), (2, 1), 0.5)[..., 0].tolist() == [[90, 100]]
        assert slide.read((0.6, 1.1), (2, 1), 0.5)[..., 0].tolist() == [[90, 100]]  # the nearest corner
        assert slide.size_um == (2.0, 2.0)
        assert isinstance(slide, Slide)


def test_means_of_blocks_by_hand(grey):
    with open_slide(grey, mpp=0.5) as slide:
        # (0 + 10 + 40 + 50) / 4, ...
        assert slide.read((0, 0), (2, 2), 1.0)[..., 0].tolist() == [[25, 45], [105, 125]]
        assert slide.read((0.5, 0.5), (1, 1), 1.0)[..., 0].tolist() == [[75]]
        assert slide.read((0, 0), (1, 1), 2.0)[0, 0].tolist() == [75, 75, 75]


def test_outside_is_white(grey):
    with open_slide(grey, mpp=0.5) as slide:
        assert slide.read((-0.5, 1.5), (3, 2), 0.5)[..., 0].tolist() == [[255, 120, 130], [255, 255, 255]]
        assert (slide.read((100, 100), (5, 3), 0.7) == 255).all()
        # half of the block lies outside: (30 + 70 + 2 * 255) / 4 = 152.5
        assert slide.read((1.5, 0), (1, 1), 1.0)[0, 0, 0] in (152, 153)


@pytest.mark.parametrize("factor", [0.8, 1.3, 2.7, 3.9, 5.3, 11.1])
def test_a_ramp_stays_a_ramp_at_any_factor(tmp_path, factor):
    """A pixel's value is the ramp's at its middle: neither the corner nor the middle is shifted."""
    ramp = np.broadcast_to(np.arange(600) * 0.4 + 8, (40, 600)).round().astype(np.uint8)
    columns = np.repeat(ramp[..., None], 3, -1).repeat(10, 0)
    with open_slide(png(tmp_path / "ramp.png", columns), mpp=0.5) as slide:
        n = 20
        corner = 103.3  # pixels
        got = slide.read((corner / 2, 60.0), (n, 8), 0.5 * factor)[4, :, 0]
    middles = corner + (np.arange(n) + 0.5) * factor - 0.5
    np.testing.assert_allclose(got, middles * 0.4 + 8, atol=1.0)


@pytest.mark.parametrize("factor", [1.7, 2.0, 6.6])
def test_neighbours_fit_without_a_seam(tmp_path, factor):
    with open_slide(png(tmp_path / "s.png", picture(400, 300)), mpp=0.25) as slide:
        mpp = 0.25 * factor
        whole = slide.read((3.3, 2.1), (24, 16), mpp).astype(int)
        parts = [slide.read((3.3 + k * 12 * mpp, 2.1), (12, 16), mpp) for k in range(2)]
    assert np.abs(whole - np.concatenate(parts, 1)).max() <= 1


def test_large_factors_are_read_in_bands(tmp_path, monkeypatch):
    pixels = picture(520, 410)
    path = write(tmp_path / "s.tif", pixels)
    with open_slide(path) as slide:
        at_once = slide.read((0, 0), (24, 18), 0.25 * 20)
        monkeypatch.setattr("milkit.slides.opened.BLOCK", 3000)
        in_bands = slide.read((0, 0), (24, 18), 0.25 * 20)
    assert (at_once == in_bands).all()
    by_hand = pixels[:400, :480].reshape(20, 20, 24, 20, 3).mean((1, 3))
    assert np.abs(at_once - by_hand[:18]).max() <= 0.51


def test_the_coarsest_level_that_is_fine_enough(tmp_path):
    """Levels hold one colour each, so that the colour read says which was taken."""
    import tifffile

    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as tiff:
        for k, value in enumerate((10, 20, 40)):
            plain = np.full((256 >> k, 512 >> k, 3), value, np.uint8)
            tiff.write(plain, tile=(64, 64), photometric="rgb", subfiletype=int(k > 0), metadata=None)
    with open_slide(path, mpp=0.25) as slide:
        assert [level.mpp for level in slide.levels] == [0.25, 0.5, 1.0]
        for mpp, value in [(0.1, 10), (0.25, 10), (0.4, 10), (0.495, 20), (0.5, 20), (0.9, 20), (0.99, 40), (7, 40)]:
            assert slide.read((20, 20), (4, 4), mpp)[0, 0, 0] == value, mpp


def test_levels_of_odd_sizes_are_coarser_by_whole_numbers():
    halves = levels_of([(4443, 3567), (2221, 1783), (1111, 892)], 0.25)
    assert halves == (Level(4443, 3567, 0.25), Level(2221, 1783, 0.5), Level(1111, 892, 1.0))
    assert levels_of([(1000, 500), (400, 200)], 0.2)[1].mpp == pytest.approx(0.5)


def test_thumbnail(tmp_path):
    pixels = picture(300, 200)
    with open_slide(png(tmp_path / "s.png", pixels), mpp=0.5) as slide:
        assert slide.thumbnail(60).shape == (40, 60, 3)
        by_hand = pixels.reshape(40, 5, 60, 5, 3).mean((1, 3))
        # a mean is rounded to the nearest, but for what is nearest to a half (12/25 and 13/25)
        assert np.abs(slide.thumbnail(60) - by_hand).max() <= 0.5201
        assert (slide.thumbnail(10_000) == pixels).all()
        assert slide.thumbnail(1).shape == (1, 1, 3)


def test_what_cannot_be_asked_for(grey):
    with open_slide(grey, mpp=0.5) as slide:
        for size, mpp in [((0, 5), 0.5), ((5, -1), 0.5), ((100_000, 100_000), 0.5), ((4, 4), 0.0), ((4, 4), np.nan)]:
            with pytest.raises(DataError, match="asked for"):
                slide.read((0, 0), size, mpp)
        with pytest.raises(DataError, match="levels 0 to 0; level 1"):
            slide.read_level(1, (0, 0), (1, 1))
    slide.close()
    with pytest.raises(DataError, match="closed"):
        slide.read((0, 0), (1, 1), 0.5)
