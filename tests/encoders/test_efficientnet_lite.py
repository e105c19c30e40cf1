"""EfficientNet-Lite0 against the masked trunk of milkit.pixel, against stored features, and files that do not fit."""

import io

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from benchmarks.encoders import weights
from milkit.encoders.efficientnet_lite import EfficientNetLite0
from milkit.encoders.encoder import NetworkEncoder
from milkit.encoders.pixels import Pixels
from milkit.errors import ConfigError, DataError
from milkit.pixel.efficientnet_lite import EfficientNetLite0 as Trunk

NETWORK = EfficientNetLite0(Pixels(64))


@pytest.fixture(scope="module")
def encoder():
    return NetworkEncoder("lite", NETWORK, weights(), batch=2)


def test_the_trunk_that_takes_masks_gives_the_same(encoder):
    tiles = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    config = Trunk()
    trunk = config.build(3, rngs=nnx.Rngs(0))
    config.load(trunk, weights())
    x = NETWORK.pixels.prepare(jnp.asarray(tiles))
    last, _ = trunk(x, jnp.ones(x.shape[:3], bool))[-1]
    want = np.asarray(last).mean((1, 2))
    np.testing.assert_allclose(encoder.encode(tiles), want, rtol=1e-4, atol=1e-4 * want.max())


def test_a_row_is_a_tile_whatever_stands_beside_it(encoder):
    tiles = np.random.default_rng(2).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    whole = encoder.encode(tiles)
    assert whole.shape == (5, encoder.width) == (5, 1280)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(encoder.encode(tiles[3:4])[0], whole[3])
    assert encoder.encode(tiles[:0]).shape == (0, 1280)


def test_what_a_store_says_of_it(encoder):
    facts = encoder.facts()
    assert facts["encoder"] == "lite"
    assert (facts["width"], facts["side_px"], facts["precision"]) == (1280, 64, "float32")


def test_weights_that_do_not_fit_are_all_named():
    bad = weights()
    del bad["_bn1.bias"]
    bad["extra.weight"] = np.zeros(3)
    bad["_fc.weight"] = np.zeros((2, 1280))
    bad["_conv_head.weight"] = bad["_conv_head.weight"][:, :3]
    bad["_bn0.weight"] = bad["_bn0.weight"] * np.nan
    with pytest.raises(DataError) as error:
        NETWORK.parameters(bad)
    for said in ("missing: _bn1.bias", "unexpected: extra.weight", "_conv_head.weight (1280, 3, 1, 1)", "_bn0.weight"):
        assert said in str(error.value)
    assert "_fc" not in str(error.value)


def test_a_batch_below_one_is_refused():
    with pytest.raises(ConfigError, match="batch is -1"):
        NetworkEncoder("lite", NETWORK, {}, batch=-1)


@pytest.mark.parametrize(("name", "side", "suffix"), [("ucsb_breast", 128, "jpg"), ("glas", 112, "jpg")])
def test_stored_features_of_real_tiles(shared, name, side, suffix):
    """As near as one more JPEG pass brings them; that loss of the images is the cause is likely, not proven."""
    weights = dict(np.load(shared / "data/weights/efficientnet_lite0_imagenet_f16.npz"))
    encoder = NetworkEncoder("lite", EfficientNetLite0(), weights)
    with h5py.File(shared / f"data/features_efflite0/{name}.h5") as file:
        bag = sorted(file)[0]
        want, coords = file[bag]["features"][:6].astype(np.float32), file[bag]["coords"][:6]
    image = Image.open(shared / f"data/{name}/images/{bag}.{suffix}").convert("RGB")
    again = io.BytesIO()
    image.save(again, "JPEG", quality=90)
    got, more = (encoder.encode(_tiles(i, coords, side)) for i in (image, Image.open(again)))
    assert np.abs(got - want).mean() < 1.25 * np.abs(got - more).mean()


def _tiles(image: Image.Image, coords: np.ndarray, side: int) -> np.ndarray:
    return np.stack([np.asarray(image.crop((x, y, x + side, y + side))) for x, y in coords.tolist()])
