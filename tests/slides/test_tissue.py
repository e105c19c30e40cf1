"""What is taken for tissue, ink and folds: pictures drawn by hand, and a mask that published code made."""

import numpy as np
import pytest
from fake_slides import PINK, glass

from milkit.slides.tissue import TissueRule, filled, otsu, shares, tissue_of, value_saturation, without_small

PX = (8.0, 8.0)
BLUE, GREEN, BLACK = (40, 80, 190), (30, 130, 60), (25, 25, 30)


def test_otsu_of_a_histogram_by_hand():
    counts = np.zeros(256, int)
    counts[[10, 12, 200, 210]] = 5, 5, 5, 5
    assert otsu(counts) == 12
    rng = np.random.default_rng(1)
    counts = np.bincount(np.clip(rng.normal([40, 120], [12, 20], (500, 2)), 0, 255).astype(int).ravel(), minlength=256)
    values = np.repeat(np.arange(256), counts)
    within = [
        (values <= t).sum() * values[values <= t].var() + (values > t).sum() * values[values > t].var()
        for t in range(values.min(), values.max())
    ]
    assert otsu(counts) == values.min() + int(np.argmin(within))


def test_saturation_of_known_colours():
    rgb = np.array([[[255, 0, 0], [128, 128, 128], [200, 100, 150], [20, 0, 0]]], np.uint8)
    value, saturation = value_saturation(rgb)
    assert value.tolist() == [[255, 128, 200, 20]]
    assert saturation.tolist() == [[255, 0, 128, 0]]  # 100/200 of 255 is 127.5, to even; near black counts as none


def test_shares_by_hand():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    # squares of 4 um on pixels of 2 um: 2 x 2 pixels; the second starts in the middle of a pixel
    found = shares(mask, (2.0, 2.0), np.array([0.0, 3.0, 8.0, 10.0]), np.array([0.0, 2.0, 6.0]), 4.0)
    np.testing.assert_allclose(found, [[0, 0.375, 0.25, 0], [0, 0.75, 0.5, 0], [0, 0, 0, 0]])
    # pixels that are not square, and a square that reaches over the border by half
    np.testing.assert_allclose(
        shares(np.ones((2, 2), bool), (3.0, 1.0), np.array([5.0]), np.array([0.0]), 2.0), [[0.5]]
    )


def drawn():
    """200 x 200 pixels of 8 um: tissue with a small hole and a large one, a speck, and three pens."""
    rgb = glass(200, 200)
    rgb[40:160, 40:160] = PINK
    rgb[60:64, 60:64] = 240  # 1,024 um^2: filled
    rgb[100:130, 100:130] = 240  # 57,600 um^2: stays
    rgb[10:14, 10:14] = PINK  # a speck
    rgb[170:180, 20:120] = BLUE
    rgb[20:30, 60:160] = GREEN
    rgb[80:90, 20:150] = BLACK
    return rgb


def test_holes_specks_and_pens():
    found = tissue_of(drawn(), PX)
    assert found.tissue[62, 62]
    assert not found.tissue[115, 115]
    assert not found.tissue[:30].any()
    assert not found.tissue[165:].any()
    for row, column in [(175, 70), (25, 110), (85, 100)]:
        assert found.ink[row, column]
        assert not found.tissue[row, column]
    assert found.ink.sum() < 1.6 * (1000 + 1000 + 1300)
    expected = np.zeros((200, 200), bool)
    expected[40:160, 40:160] = True
    expected[100:130, 100:130] = False
    expected &= ~found.ink
    both, either = (found.tissue & expected).sum(), (found.tissue | expected).sum()
    assert both / either > 0.97


def test_pens_stay_where_they_are_told_to():
    assert tissue_of(drawn(), PX, TissueRule(ink=False)).tissue[175, 70]


def test_no_tissue_and_nothing_else():
    assert not tissue_of(glass(120, 100), PX).tissue.any()
    assert tissue_of(np.full((50, 60, 3), PINK, np.uint8), PX).tissue.all()
    one = tissue_of(glass(1, 1), PX)
    assert one.tissue.shape == (1, 1)


def test_a_corner_of_glass_is_no_hole():
    rgb = np.full((60, 60, 3), PINK, np.uint8)
    rgb[-6:, -6:] = 242
    assert not tissue_of(rgb, PX).tissue[-1, -1]
    ring = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
    assert filled(ring, 2.0).tolist() == [[True, True, True, False], [True, True, True, False], [True] * 4]
    np.testing.assert_array_equal(filled(ring, 1.0), ring)


def test_a_fold_is_found_and_tissue_as_it_is_not():
    rgb = np.full((100, 100, 3), PINK, np.uint8)
    rgb[:, 45:53] = (120, 20, 90)  # twice the optical density, and less light
    fold = tissue_of(rgb, PX).fold
    assert fold[:, 46:52].all()
    assert not fold[:, :43].any()
    assert not fold[:, 55:].any()


def test_agrees_with_the_mask_of_published_code_on_a_real_slide(shared):
    oracle = np.load(shared / "parity/pixel/clam_patching.npz", allow_pickle=False)
    image, px_um = oracle["in/level1_image"], (3.992, 3.992)
    key = "out/pyramid_sthresh20_patch128"
    shape = oracle[f"{key}/mask_shape"]
    theirs = np.unpackbits(oracle[f"{key}/mask"])[: shape.prod()].reshape(shape) > 0
    theirs = without_small(filled(theirs, 20_000 / 3.992**2), 50_000 / 3.992**2)  # theirs has not judged areas yet
    found = tissue_of(image, px_um, TissueRule(saturation=20.0))
    assert (found.tissue & theirs).sum() / (found.tissue | theirs).sum() > 0.95
    assert not found.ink.any()


@pytest.mark.parametrize("level", [20.0, 60.0])
def test_a_threshold_that_is_given_is_used(level):
    rgb = np.full((60, 60, 3), (230, 195, 210), np.uint8)  # saturation 39 of 255
    found = tissue_of(rgb, PX, TissueRule(saturation=level))
    assert found.tissue.all() == (level == 20.0)
    assert found.threshold == level
