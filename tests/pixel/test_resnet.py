"""ResNet: against plain PyTorch, the window's maximum by hand, names, padding, dilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.errors import ConfigError, DataError
from milkit.pixel.resnet import BLOCKS, EXPANSION, ResNet, highest_of_nine

SIZE = (33, 46)


def arrays_of(config, in_channels=3, seed=0):
    """Random arrays in torchvision's naming and shapes, written from its layout and not from milkit's."""
    rng = np.random.default_rng(seed)
    found = {}

    def conv(name, out, into, k):
        found[f"{name}.weight"] = rng.normal(0, (2 / (into * k * k)) ** 0.5, (out, into, k, k)).astype(np.float32)

    def norm(name, c):
        for leaf in ("weight", "running_var"):
            found[f"{name}.{leaf}"] = rng.uniform(0.5, 1.5, c).astype(np.float32)
        for leaf in ("bias", "running_mean"):
            found[f"{name}.{leaf}"] = rng.normal(0, 0.1, c).astype(np.float32)
        found[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", config.width, in_channels, 7)
    norm("bn1", config.width)
    before, expansion = config.width, EXPANSION[config.depth]
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        inner = config.width * 2**stage
        for block in range(blocks):
            p = f"layer{stage + 1}.{block}"
            shapes = [(inner, before, 3), (inner, inner, 3)]
            if expansion == 4:
                shapes = [(inner, before, 1), (inner, inner, 3), (4 * inner, inner, 1)]
            for i, (out, into, k) in enumerate(shapes):
                conv(f"{p}.conv{i + 1}", out, into, k)
                norm(f"{p}.bn{i + 1}", out)
            if before != inner * expansion:
                conv(f"{p}.downsample.0", inner * expansion, before, 1)
                norm(f"{p}.downsample.1", inner * expansion)
            before = inner * expansion
    found["fc.weight"], found["fc.bias"] = rng.normal(size=(10, before)), np.zeros(10)
    return found


def torch_features(arrays, x, dilated=0):
    """The stages' features in plain PyTorch functions, in double precision, as torchvision's forward pass goes."""
    import torch
    import torch.nn.functional as F

    a = {k: torch.tensor(np.asarray(v), dtype=torch.float64) for k, v in arrays.items()}

    def unit(x, conv, norm, stride=1, dilation=1):
        w = a[f"{conv}.weight"]
        x = F.conv2d(x, w, stride=stride, padding=dilation * (w.shape[-1] // 2), dilation=dilation)
        return F.batch_norm(x, *(a[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")))

    x = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64)
    x = F.max_pool2d(F.relu(unit(x, "conv1", "bn1", 2)), 3, 2, 1)
    found, dilation = [], 1
    for stage in range(4):
        block, spread = 0, stage >= 4 - dilated
        before, dilation = dilation, dilation * (2 if spread else 1)
        while f"layer{stage + 1}.{block}.conv1.weight" in a:
            p = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block and not spread else 1
            taps = dilation if block else before
            beside = x
            if f"{p}.downsample.0.weight" in a:
                beside = unit(x, f"{p}.downsample.0", f"{p}.downsample.1", stride)
            if f"{p}.conv3.weight" in a:
                y = F.relu(unit(x, f"{p}.conv1", f"{p}.bn1"))
                y = F.relu(unit(y, f"{p}.conv2", f"{p}.bn2", stride, taps))
                y = unit(y, f"{p}.conv3", f"{p}.bn3")
            else:
                y = F.relu(unit(x, f"{p}.conv1", f"{p}.bn1", stride))
                y = unit(y, f"{p}.conv2", f"{p}.bn2")
            x = F.relu(y + beside)
            block += 1
        found.append(x.numpy().transpose(0, 2, 3, 1))
    return found


@pytest.mark.parity
@pytest.mark.parametrize(("depth", "dilated"), [(18, 0), (34, 0), (50, 2)])
def test_features_are_those_of_torch(depth, dilated):
    pytest.importorskip("torch")
    config = ResNet(depth, width=4, dilated=dilated)
    arrays = arrays_of(config)
    x = np.random.default_rng(1).normal(size=(1, *SIZE, 3)).astype(np.float32)
    trunk = nnx.eval_shape(lambda: config.build(3, rngs=nnx.Rngs(0)))
    config.load(trunk, arrays)
    with jax.default_matmul_precision("highest"):
        got = jax.jit(lambda x: trunk(x, jnp.ones(x.shape[:3], bool)))(x)
    for (ours, _), theirs in zip(got, torch_features(arrays, x, dilated), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_the_highest_of_nine_by_hand():
    """Around every other pixel; what lies beyond the image does not count, even where all is negative."""
    x = jnp.array([[-1.0, -5, -2, 9], [-3, -4, -2, 9], [-9, -8, -7, 9], [9, 9, 9, 9]])[None, :, :, None]
    mask = jnp.zeros((1, 4, 4), bool).at[:, :3, :3].set(True)
    got = highest_of_nine(x, mask)
    assert got[0, :, :, 0].tolist() == [[-1, -2], [-3, -2]]


@pytest.mark.parametrize("config", [ResNet(18, width=4, stages=2), ResNet(50, width=2, stages=3, dilated=1)])
def test_an_image_in_a_larger_canvas_has_the_same_features(config):
    trunk = nnx.eval_shape(lambda: config.build(3, rngs=nnx.Rngs(0)))
    config.load(trunk, arrays_of(config))
    call = jax.jit(lambda x, mask: trunk(x, mask))
    x = np.random.default_rng(2).normal(size=(1, 13, 18, 3)).astype(np.float32)
    large, mask = np.full((1, 20, 24, 3), 1e6, np.float32), np.zeros((1, 20, 24), bool)
    large[:, :13, :18], mask[:, :13, :18] = x, True
    for (want, _), (got, real) in zip(call(x, np.ones((1, 13, 18), bool)), call(large, mask), strict=True):
        _, h, w, _ = want.shape
        assert np.asarray(real).sum() == h * w
        np.testing.assert_allclose(got[:, :h, :w], want, atol=1e-4 * float(jnp.abs(want).max()))


def test_sizes_and_channels():
    config = ResNet(50, width=2, dilated=2)
    shapes = jax.eval_shape(
        lambda x, m: config.build(1, rngs=nnx.Rngs(0))(x, m),
        jax.ShapeDtypeStruct((1, 33, 64, 1), jnp.float32),
        jax.ShapeDtypeStruct((1, 33, 64), bool),
    )
    assert [f.shape[1:] for f, _ in shapes] == [(9, 16, 8), (5, 8, 16), (5, 8, 32), (5, 8, 64)]
    assert config.channels == (8, 16, 32, 64)


def test_weights_of_another_network_are_refused():
    config = ResNet(18, width=2, stages=1)
    arrays = arrays_of(config)
    del arrays["layer1.0.bn2.bias"]
    arrays["layer1.0.se.weight"] = np.zeros(3)
    arrays["conv1.weight"] = np.zeros((2, 3, 3, 3))
    trunk = nnx.eval_shape(lambda: config.build(3, rngs=nnx.Rngs(0)))
    with pytest.raises(
        DataError, match=r"missing: layer1.0.bn2.bias; unexpected: layer1.0.se.weight; .*\(2, 3, 7, 7\)"
    ):
        config.load(trunk, arrays)


def test_the_first_stage_cannot_be_dilated():
    with pytest.raises(ConfigError, match="at most 1"):
        ResNet(stages=2, dilated=2)
