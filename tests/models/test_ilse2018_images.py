"""Convolutional encoders of instances: against scipy's correlation, and what augmentation may do to a picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.signal import correlate

from milkit.errors import ConfigError
from milkit.models import ABMIL, InstancePooling, PatchCNN
from milkit.models.ilse2018_images import restained, turned
from milkit.nn.stains import HED
from milkit.types import Bags


def encoded(image, module):
    """The embedding of one image in float64: each kernel by scipy, then maxima, then matrix products."""
    x = image.astype(np.float64)
    for layer in module.filters:
        kernel, bias = np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...], np.float64)
        y = np.stack([correlate(x, kernel[..., o], "valid")[..., 0] for o in range(kernel.shape[3])], -1)
        y = np.maximum(y + bias, 0)
        h, w = y.shape[0] // 2, y.shape[1] // 2
        x = y[: 2 * h, : 2 * w].reshape(h, 2, w, 2, -1).max((1, 3))
    x = x.reshape(-1)
    for layer in module.hidden.layers:
        x = np.maximum(x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64), 0)
    return x


def test_the_network_is_convolutions_maxima_and_layers_and_the_model_after_it():
    config = PatchCNN(ABMIL((), 4), channels=2, filters=(3, 5), kernels=(4, 3), hidden=(7, 6))
    module = config.build(13 * 13 * 2, 1, rngs=nnx.Rngs(0))  # 13 -> 10 -> 5 -> 3 -> 1: an odd column is left out
    x = np.random.default_rng(0).normal(size=(4, 13 * 13 * 2)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda bags: module(bags))(Bags.of([x, x[:2]]))
    embeddings = np.stack([encoded(one.reshape(13, 13, 2), module) for one in x])
    expected = jax.jit(lambda bags: module.model(bags))(
        Bags.of([embeddings.astype(np.float32), embeddings[:2].astype(np.float32)])
    )
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.attention, expected.attention, rtol=1e-5, atol=1e-6)
    mean = (np.asarray(found.attention)[0] * embeddings).sum(0)
    np.testing.assert_allclose(found.embedding[0], mean, rtol=1e-5, atol=1e-6)


def test_the_papers_networks_have_the_papers_sizes():
    """Shapes only: 800 values after the digits' convolutions, 1,200 after the nuclei's."""
    digits = nnx.eval_shape(lambda: PatchCNN.digits().build(784, 1, rngs=nnx.Rngs(0)))
    assert digits.hidden.layers[0].kernel.shape == (800, 500)
    assert digits.model.pool.score.kernel.shape == (128, 1)
    nuclei = nnx.eval_shape(lambda: PatchCNN.nuclei(InstancePooling("max", ())).build(27 * 27 * 3, 1, rngs=nnx.Rngs(0)))
    assert [layer.kernel.shape for layer in nuclei.hidden.layers] == [(1200, 512), (512, 512)]
    assert [layer.kernel.shape for layer in nuclei.filters] == [(4, 4, 3, 36), (3, 3, 36, 48)]


def test_turns_are_the_eight_positions_and_all_of_them():
    one = np.arange(18, dtype=np.float32).reshape(3, 3, 2)
    positions = [np.rot90(p, k) for p in (one, one[::-1]) for k in range(4)]
    found = np.asarray(turned(jnp.asarray(np.repeat(one[None], 200, 0)), jax.random.key(0)))
    which = [[i for i, p in enumerate(positions) if (p == f).all()] for f in found]
    assert all(len(w) == 1 for w in which)
    assert {w[0] for w in which} == set(range(8))


def test_a_stain_comes_back_times_its_factor():
    """A pixel of haematoxylin alone keeps its colour's direction and changes in depth; nothing is done at SD 0."""
    direction = HED[0] / np.linalg.norm(HED[0])
    rgb = 256 * np.exp(-0.8 * direction) - 1
    x = np.broadcast_to(np.float32(rgb / 127.5 - 1), (300, 1, 1, 3))
    same = restained(jnp.asarray(x), jax.random.key(0), 0.0)
    np.testing.assert_allclose(same, x, atol=1e-5)
    changed = (np.asarray(restained(jnp.asarray(x), jax.random.key(0), 0.1), np.float64) + 1) * 127.5
    density = -np.log((changed + 1) / 256)[:, 0, 0]
    depth = density @ direction
    np.testing.assert_allclose(density, depth[:, None] * direction, atol=1e-4)
    assert abs(depth.mean() / 0.8 - 1) < 0.03
    assert 0.08 < depth.std() / 0.8 < 0.12


def test_training_turns_and_prediction_does_not():
    config = PatchCNN(ABMIL((), 4), channels=3, filters=(3,), kernels=(3,), hidden=(5,), turn=True, restain=0.2)
    module = config.build(8 * 8 * 3, 1, rngs=nnx.Rngs(0))
    bags = Bags.of(np.random.default_rng(0).uniform(-1, 1, (3, 192)).astype(np.float32))
    plain = jax.jit(lambda: module(bags).logits)()
    draw = jax.jit(lambda key: module(bags, deterministic=False, rngs=nnx.Rngs(dropout=key)).logits)
    drawn = [draw(jax.random.key(s)) for s in (1, 1, 2)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).all()
    assert (plain != drawn[0]).all()


@pytest.mark.parametrize(
    ("config", "features", "said"),
    [
        (PatchCNN(), 783, "no square image"),
        (PatchCNN(channels=3), 784, "no square image"),
        (PatchCNN(), 49, "too small"),
    ],
)
def test_what_is_no_picture_is_refused(config, features, said):
    with pytest.raises(ConfigError, match=said):
        config.build(features, 1, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "wrong", [{"kernels": (5,)}, {"restain": 0.1}, {"hidden": (), "dropout": 0.5}, {"filters": (0, 5)}]
)
def test_options_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ConfigError):
        PatchCNN(**wrong)
