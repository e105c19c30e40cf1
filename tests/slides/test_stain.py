"""Stain normalisation: arrays that published code gave, and what holds of any image."""

import numpy as np
import pytest

from milkit.errors import DataError
from milkit.slides.stain import (
    HED,
    fit_macenko,
    fit_reinhard,
    hed_jitter,
    lab_of,
    macenko,
    reinhard,
    rgb_of_lab,
    stain_images,
)

IMAGES = ("source", "source2", "half_white")


@pytest.fixture(scope="module")
def oracle(shared):
    return np.load(shared / "parity/pixel/stain_normalisation.npz", allow_pickle=False)


@pytest.mark.parametrize("name", [*IMAGES, "target"])
def test_stains_are_those_of_the_published_code(oracle, name):
    found = fit_macenko(oracle[f"in/{name}"])
    np.testing.assert_allclose(found.vectors, oracle[f"out64/macenko/{name}/stain_matrix"], atol=1e-9)
    np.testing.assert_allclose(found.most, oracle[f"out64/macenko/{name}/maxC"], rtol=1e-9)


def test_other_settings_too(oracle):
    found = fit_macenko(oracle["in/target"], light=255.0, tail=5.0, faintest=0.1)
    key = "out64/macenko_Io255_alpha5_beta.1/target"
    np.testing.assert_allclose(found.vectors, oracle[f"{key}/stain_matrix"], atol=1e-9)
    np.testing.assert_allclose(found.most, oracle[f"{key}/maxC"], rtol=1e-9)


@pytest.mark.parametrize("name", IMAGES)
def test_macenko_gives_the_pixels_of_the_published_code(oracle, name):
    image = oracle[f"in/{name}"]
    to_reference = f"out/macenko_default_reference/{name}"
    h, e = stain_images(image)
    fitted = macenko(image, fit_macenko(oracle["in/target"]))
    for ours, key in [(macenko(image), ""), (h, "/H"), (e, "/E")]:
        np.testing.assert_array_equal(ours, oracle[to_reference + key])
    np.testing.assert_array_equal(fitted, oracle[f"out/macenko_fit/{name}"])


@pytest.mark.parametrize("name", IMAGES)
def test_reinhard_gives_the_pixels_of_the_published_code_to_one_step(oracle, name):
    # its arithmetic is in float32 and its result truncated: one step of 255 either way
    target = fit_reinhard(oracle["in/target"])
    # their white is (0.95047, 1, 1.08883), ours that of the matrix (1.088754), so that grey has no colour:
    # b differs by 200/3 * 7e-5 * 0.5, a by 500/3 * 1.5e-5 * 0.5
    np.testing.assert_allclose(target.mean, oracle["out64/reinhard/target/mean"], atol=3e-3)
    np.testing.assert_allclose(target.sd, oracle["out64/reinhard/target/std"], atol=1e-3)
    for modified, key in [(False, "standard"), (True, "modified")]:
        ours = reinhard(oracle[f"in/{name}"], target, modified=modified)
        assert np.abs(ours.astype(int) - oracle[f"out/reinhard_{key}/{name}"]).max() <= 1


def test_white_and_plain_tiles_come_back_as_they_were(oracle):
    target = fit_reinhard(oracle["in/target"])
    for value in (255, 238, 0):
        plain = np.full((8, 8, 3), value, np.uint8)
        np.testing.assert_array_equal(macenko(plain), plain)
        np.testing.assert_array_equal(reinhard(plain, target), plain)
    with pytest.raises(DataError, match="0 of 64 pixels are stained"):
        fit_macenko(np.full((8, 8, 3), 250, np.uint8))


def test_an_image_normalised_to_itself_stays(oracle):
    image = oracle["in/source"]
    again = reinhard(image, fit_reinhard(image))
    assert np.abs(again.astype(int) - image).max() <= 1


def test_stains_of_a_mixture_made_by_hand_are_found():
    rng = np.random.default_rng(0)
    vectors = (HED[:2] / np.linalg.norm(HED[:2], axis=1, keepdims=True)).T
    amounts = rng.dirichlet([0.05, 0.05], 40000).T * rng.uniform(1.5, 2.5, 40000)  # most pixels hold one stain only
    rgb = np.rint(240 * np.exp(-vectors @ amounts) - 1).T.astype(np.uint8)
    found = fit_macenko(rgb, faintest=0.0)
    np.testing.assert_allclose(found.vectors, vectors, atol=0.02)


def test_lab_goes_there_and_back():
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(-1, 3).astype(np.uint8)
    assert np.abs(rgb_of_lab(lab_of(every)).astype(int) - every).max() <= 1
    np.testing.assert_allclose(lab_of(np.array([[255, 255, 255]], np.uint8)), [[100, 0, 0]], atol=0.01)
    np.testing.assert_allclose(lab_of(np.array([[255, 0, 0]], np.uint8)), [[53.24, 80.09, 67.20]], atol=0.02)


def test_jitter_changes_amounts_by_what_was_drawn_and_each_image_by_its_own():
    images = np.full((3, 4, 4, 3), (150, 90, 160), np.uint8)
    out = hed_jitter(images, np.random.default_rng(3))
    assert len(np.unique(out[:, 0, 0], axis=0)) == 3
    assert (out == out[:, :1, :1]).all()
    np.testing.assert_array_equal(out, hed_jitter(images, np.random.default_rng(3)))
    np.testing.assert_array_equal(hed_jitter(images, np.random.default_rng(3), scale=0.0, shift=0.0), images)


def test_twice_the_stain_lets_the_square_of_the_light_through():
    class Twice(np.random.Generator):
        def uniform(self, low, high, size):
            return np.full(size, 2.0 if high > 1 else 0.0)

    out = hed_jitter(np.full((1, 2, 2, 3), (150, 90, 160), np.uint8), Twice(np.random.Philox(0)))
    through = (np.array([150, 90, 160]) + 1) / 256
    np.testing.assert_array_equal(out[0, 0, 0], np.rint(256 * through**2 - 1))
