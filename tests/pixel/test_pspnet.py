"""PSPNet: the pyramid's bins by hand and against plain loops, the head against NumPy, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError
from milkit.pixel import PSPNet, ResNet
from milkit.pixel.pspnet import mean_of_bins
from milkit.types import Images

SMALL = PSPNet(ResNet(18, width=2, stages=2, dilated=1), bins=(1, 3), hidden=3, dropout=0.0)


def test_bins_by_hand():
    """Three columns in two parts share the middle one; rows 0-1 and 1-2 likewise; padding is not read."""
    x = np.full((2, 4, 5, 1), 99.0, np.float32)
    x[0, :3, :3, 0] = np.arange(9).reshape(3, 3)
    mask = np.zeros((2, 4, 5), bool)
    mask[0, :3, :3] = True
    got, real = mean_of_bins(jnp.asarray(x), jnp.asarray(mask), 2)
    np.testing.assert_allclose(got[0, :, :, 0], [[2, 3], [5, 6]], rtol=1e-6)
    whole, _ = mean_of_bins(jnp.asarray(x), jnp.asarray(mask), 1)
    assert float(whole[0, 0, 0, 0]) == pytest.approx(4)
    assert real[0].all()
    assert not real[1].any()
    assert not np.asarray(got[1]).any()


@pytest.mark.parametrize("size", [(7, 13), (2, 5)])
def test_bins_against_loops(size):
    """Also where there are more bins than pixels."""
    h, w = size
    x = np.random.default_rng(0).normal(size=(1, 8, 15, 2)).astype(np.float32)
    mask = np.zeros((1, 8, 15), bool)
    mask[0, :h, :w] = True
    got, _ = mean_of_bins(jnp.asarray(x), jnp.asarray(mask), 6)
    for i in range(6):
        for j in range(6):
            rows = slice(int(np.floor(i * h / 6)), int(np.ceil((i + 1) * h / 6)))
            columns = slice(int(np.floor(j * w / 6)), int(np.ceil((j + 1) * w / 6)))
            np.testing.assert_allclose(got[0, i, j], x[0, rows, columns].mean((0, 1)), rtol=1e-5, atol=1e-6)


def pinned(x, height, width):
    """Bilinear with corners aligned, a pixel at a time."""
    h, w = x.shape[:2]
    out = np.zeros((height, width, x.shape[2]))
    for i in range(height):
        for j in range(width):
            y, z = i * (h - 1) / max(height - 1, 1), j * (w - 1) / max(width - 1, 1)
            a, b = min(int(y), h - 1), min(int(z), w - 1)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            u, v = y - a, z - b
            out[i, j] = (1 - u) * ((1 - v) * x[a, b] + v * x[a, d]) + u * ((1 - v) * x[c, b] + v * x[c, d])
    return out


def unit(layer, x):
    """A convolution of odd size with zeros around, and normalisation by running statistics; then ReLU."""
    kernel = np.asarray(layer.conv.kernel[...], np.float64)
    k, (h, w) = kernel.shape[0], x.shape[:2]
    padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    y = sum(padded[i : i + h, j : j + w] @ kernel[i, j] for i in range(k) for j in range(k))
    n = layer.norm
    mean, var, scale, bias = (np.asarray(a[...], np.float64) for a in (n.mean, n.var, n.scale, n.bias))
    return np.maximum((y - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)


def test_the_head_against_numpy_and_padding_changes_nothing():
    module = SMALL.build(3, 2, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(3)
    for path, leaf in nnx.to_flat_state(nnx.state(module)):
        if path[-1] in ("scale", "mean", "var"):
            leaf.set_value(jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32))
    x = rng.normal(size=(1, 17, 14, 3)).astype(np.float32)
    canvas = np.full((2, 24, 24, 3), 1e6, np.float32)
    canvas[0, :17, :14] = x[0]
    mask = np.zeros((2, 24, 24), bool)
    mask[0, :17, :14] = True  # the second is a filler
    graph, state = nnx.split(module)

    def run(x, mask):
        model = nnx.merge(graph, state)
        return model(Images(x, mask)), model.trunk(x, mask)[-1]

    alone, (features, _) = jax.jit(run)(jnp.asarray(x), jnp.ones((1, 17, 14), bool))
    f = np.asarray(features[0], np.float64)
    h, w = f.shape[:2]
    assert (h, w) == (5, 4)  # a dilated stage keeps a quarter of the resolution
    beside = []
    for bins, level in zip((1, 3), module.levels, strict=True):
        pooled = np.stack(
            [
                np.stack(
                    [
                        f[i * h // bins : -(-(i + 1) * h // bins), j * w // bins : -(-(j + 1) * w // bins)].mean((0, 1))
                        for j in range(bins)
                    ]
                )
                for i in range(bins)
            ]
        )
        beside.append(pinned(unit(level, pooled), h, w))
    hidden = unit(module.merge, np.concatenate([f, *beside], -1))
    logits = hidden @ np.asarray(module.head.kernel[0, 0], np.float64) + np.asarray(module.head.bias[...])
    want = 1 / (1 + np.exp(-pinned(logits, 17, 14)))
    np.testing.assert_allclose(alone.extras["maps"]["fused"][0], want, atol=2e-5)
    assert np.ptp(want) > 1e-3
    both, _ = jax.jit(run)(jnp.asarray(canvas), jnp.asarray(mask))
    np.testing.assert_allclose(both.logits[:1], alone.logits, atol=2e-5)
    np.testing.assert_allclose(both.extras["maps"]["fused"][0, :17, :14], want, atol=4e-5)
    assert (np.asarray(both.extras["maps"]["fused"])[~mask] == 0).all()


def test_refused_and_preset():
    with pytest.raises(ConfigError, match="at least one level"):
        PSPNet(bins=())
    with pytest.raises(ConfigError, match="dropout"):
        PSPNet(dropout=1.0)
    preset = PSPNet.from_scratch(trunk_rate=0.5)
    assert preset.backbone.channels[-1] == 64
    assert preset.learning_rate_scale(("trunk", "stem")) == 0.5
    assert preset.learning_rate_scale(("head", "kernel")) == 1.0
