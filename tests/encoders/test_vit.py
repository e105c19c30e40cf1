"""Vision transformers against a float64 evaluation written from the papers; namings; files that do not fit."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from milkit.encoders.encoder import NetworkEncoder
from milkit.encoders.pixels import Pixels
from milkit.encoders.positions import to_grid
from milkit.encoders.vit import ViT
from milkit.errors import ConfigError, DataError

_spec = importlib.util.spec_from_file_location("vit_arrays", Path(__file__).with_name("vit_arrays.py"))
assert _spec is not None
assert _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

PIXELS = Pixels(12)


@pytest.mark.parametrize(
    ("options", "pool"),
    [
        ({}, "class"),
        ({"registers": 2, "gated": True, "scale": True, "placed": "patches"}, "class_mean"),
        ({"registers": 3, "scale": True, "placed": "all"}, "mean"),
    ],
)
def test_against_float64(options, pool):
    arrays = small.timm_arrays(**options)
    tiles = np.random.default_rng(1).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    network = ViT(3, pool=pool, pixels=PIXELS)
    prepared = np.asarray(PIXELS.prepare(jnp.asarray(tiles)))
    want = []
    for x in prepared:
        tokens = small.by_numpy(arrays, x, heads=3)
        first, mean = tokens[0], tokens[-9:].mean(0)
        want.append({"class": first, "mean": mean, "class_mean": np.concatenate([first, mean])}[pool])
    got = NetworkEncoder("vit", network, arrays, batch=2).encode(tiles)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    if options.get("gated"):  # DINOv2's names hold the same network; its registers have no positions
        other = NetworkEncoder("vit", network, small.as_dinov2(arrays), batch=2).encode(tiles)
        np.testing.assert_array_equal(other, got)
        half = NetworkEncoder("vit", network, arrays, batch=2, precision="bfloat16").encode(tiles)
        assert 0 < np.abs(half - got).max() < 0.05 * np.abs(got).max()


def test_weights_of_another_network_are_named():
    arrays = small.timm_arrays()
    with pytest.raises(DataError, match=r"width 12 \(expected 16\).*registers 0 \(expected 4\)"):
        ViT(4, width=16, registers=4, pixels=PIXELS).parameters(arrays)
    with pytest.raises(DataError, match="5 heads do not divide"):
        ViT(5, pixels=PIXELS).parameters(arrays)
    with pytest.raises(DataError, match="does not divide the input of 13"):
        ViT(3, pixels=Pixels(13)).parameters(arrays)


def test_missing_and_unexpected_arrays_are_named():
    arrays = small.timm_arrays()
    del arrays["blocks.1.mlp.fc2.bias"]
    arrays["blocks.0.attn.q_norm.weight"] = np.ones(4)
    arrays["head.weight"] = np.ones((2, 12))
    with pytest.raises(DataError) as error:
        ViT(3, pixels=PIXELS).parameters(arrays)
    assert "missing: blocks.1.mlp.fc2.bias" in str(error.value)
    assert "unexpected: blocks.0.attn.q_norm.weight" in str(error.value)
    assert "head.weight" not in str(error.value)


@pytest.mark.parametrize("arrays", [{}, {"conv1.weight": np.zeros((1, 3, 7, 7))}])
def test_no_transformer_at_all(arrays):
    with pytest.raises(DataError, match="no vision transformer"):
        ViT(3).parameters(arrays)


def test_positions_of_no_square_grid():
    arrays = small.timm_arrays()
    arrays["pos_embed"] = np.zeros((1, 7, 12), np.float32)
    with pytest.raises(DataError, match="7 positions"):
        ViT(3, pixels=PIXELS).parameters(arrays)


def test_a_side_that_the_stated_patch_does_not_divide():
    with pytest.raises(ConfigError, match="no multiple of the patch of 16"):
        ViT(3, patch=16, pixels=Pixels(100))


@pytest.mark.parametrize("how", ["timm", "dinov2", "transformers"])
def test_equal_positions_stay_equal_and_a_grid_of_the_same_side_stays(how):
    same = np.full((9, 2), 3.0)
    np.testing.assert_allclose(to_grid(same, 5, how), np.full((25, 2), 3.0))
    grid = np.arange(18.0).reshape(9, 2)
    np.testing.assert_array_equal(to_grid(grid, 3, how), grid)
