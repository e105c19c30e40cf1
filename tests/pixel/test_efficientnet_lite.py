"""EfficientNet-Lite0: depthwise convolution against XLA's, plain PyTorch, real weights on real images, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.data.arrays import read_arrays
from milkit.errors import DataError
from milkit.nn.depthwise import grouped, shifted_sum
from milkit.pixel.efficientnet_lite import BLOCKS, EfficientNetLite0

WEIGHTS = "data/weights/efficientnet_lite0_imagenet_f16.npz"
MEAN, SD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, (1, 1)), (5, 2, (1, 2)), (3, 2, (0, 1))])
@pytest.mark.parametrize("width", [8, 69])
def test_the_sum_of_shifted_products_is_a_grouped_convolution(size, stride, padding, width):
    """Values and both gradients, on odd and even sides; lines in one part and in two."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, width, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 3)), jnp.float32)

    def both(f):
        total = lambda x, k: jnp.sin(f(x, k, stride, padding)).sum()  # noqa: E731
        return f(x, kernel, stride, padding), *jax.grad(total, (0, 1))(x, kernel)

    ours, theirs = jax.jit(lambda: (both(shifted_sum), both(grouped)))()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def loaded(config, arrays):
    """A trunk with these weights; none are drawn before."""
    trunk = nnx.eval_shape(lambda: config.build(3, rngs=nnx.Rngs(0)))
    config.load(trunk, arrays)
    return trunk


def torch_features(arrays, x):
    """The features at each resolution in plain PyTorch functions, in double precision."""
    import torch
    import torch.nn.functional as F

    a = {k: torch.tensor(np.asarray(v), dtype=torch.float64) for k, v in arrays.items()}

    def unit(x, conv, norm, stride=1):
        w = a[f"{conv}.weight"]
        zeros = w.shape[-1] - stride
        x = F.pad(x, (zeros // 2, zeros - zeros // 2) * 2)
        x = F.conv2d(x, w, stride=stride, groups=x.shape[1] if w.shape[1] == 1 and x.shape[1] > 1 else 1)
        named = (a[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *named, eps=1e-3)

    x = F.relu6(unit(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64), "_conv_stem", "_bn0", 2))
    found, i = [], 0
    for repeats, _, stride, expansion, _ in BLOCKS:
        for repeat in range(repeats):
            p, y = f"_blocks.{i}", x
            if expansion > 1:
                y = F.relu6(unit(y, f"{p}._expand_conv", f"{p}._bn0"))
            y = F.relu6(unit(y, f"{p}._depthwise_conv", f"{p}._bn1", 1 if repeat else stride))
            y = unit(y, f"{p}._project_conv", f"{p}._bn2")
            x = x + y if repeat else y
            i += 1
        found.append(x)
    found[-1] = F.relu6(unit(x, "_conv_head", "_bn1"))
    return [found[i].numpy().transpose(0, 2, 3, 1) for i in (0, 1, 2, 4, 6)]


@pytest.mark.parity
def test_features_are_those_of_torch(shared):
    """The real weights, on an image of odd sides."""
    pytest.importorskip("torch")
    config, arrays = EfficientNetLite0(), read_arrays(shared / WEIGHTS)
    x = np.random.default_rng(1).normal(size=(1, 75, 98, 3)).astype(np.float32)
    trunk = loaded(config, arrays)
    with jax.default_matmul_precision("highest"):
        got = jax.jit(lambda x: trunk(x, jnp.ones(x.shape[:3], bool)))(x)
    for (ours, _), theirs in zip(got, torch_features(arrays, x), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_real_images_have_the_features_that_others_computed(shared):
    """A tile of GlaS, enlarged to 224 pixels, against features computed from the image before it was made a JPEG.

    So not to rounding: compressing once more moves ours as far. Zeros on both sides in place of "SAME" move them
    further than the bound.
    """
    image = pytest.importorskip("PIL.Image")
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared / "data/features_efflite0/glas.h5", "r") as file:
        theirs, corners = file["testA_1"]["features"][:].astype(np.float64), file["testA_1"]["coords"][:]
    whole = image.open(shared / "data/glas/images/testA_1.jpg").convert("RGB")
    chosen = (17,)
    tiles = [
        whole.crop((*corners[i], *(corners[i] + 112))).resize((224, 224), image.Resampling.BICUBIC) for i in chosen
    ]
    x = ((np.stack([np.asarray(tile) for tile in tiles]) / 255 - MEAN) / SD).astype(np.float32)
    config = EfficientNetLite0()
    trunk = loaded(config, read_arrays(shared / WEIGHTS))
    graph, state = nnx.split(trunk)
    features = jax.jit(lambda state, x: nnx.merge(graph, state)(x, jnp.ones(x.shape[:3], bool))[-1][0])(state, x)
    assert features.shape == (1, 7, 7, 1280)
    for ours, tile in zip(np.asarray(features).mean((1, 2)), chosen, strict=True):
        alike = [np.corrcoef(ours, row)[0, 1] for row in theirs]
        assert np.argmax(alike) == tile
        assert alike[tile] > 0.975


def test_an_image_in_a_larger_canvas_has_the_same_features():
    config = EfficientNetLite0(width=0.125, stages=3)
    trunk = config.build(3, rngs=nnx.Rngs(0))
    call = jax.jit(lambda x, mask: trunk(x, mask))
    x = np.random.default_rng(2).normal(size=(1, 17, 22, 3)).astype(np.float32)
    large, mask = np.full((1, 24, 32, 3), 1e6, np.float32), np.zeros((1, 24, 32), bool)
    large[:, :17, :22], mask[:, :17, :22] = x, True
    want, got = call(x, np.ones((1, 17, 22), bool)), call(large, mask)
    assert [f.shape[1:3] for f, _ in want] == [(8, 11), (4, 5), (2, 2)]
    for (a, _), (b, real) in zip(want, got, strict=True):
        assert real.sum() == a.shape[1] * a.shape[2]
        np.testing.assert_allclose(b[:, : a.shape[1], : a.shape[2]], a, atol=1e-5 * float(jnp.abs(a).max()))


def test_channels_as_published():
    assert EfficientNetLite0().channels == (16, 24, 40, 112, 1280)
    assert EfficientNetLite0(head=False).channels == (16, 24, 40, 112, 320)
    assert EfficientNetLite0(stages=3).channels == (16, 24, 40)


def test_fewer_stages_take_their_part_of_the_weights_and_no_other_width_fits(shared):
    arrays = read_arrays(shared / WEIGHTS)
    config = EfficientNetLite0(stages=1)
    trunk = loaded(config, arrays)
    kernel = np.asarray(trunk.stages[0][0].depthwise.conv.kernel[...])
    assert kernel.shape == (3, 3, 1, 32)
    assert kernel[0, 2, 0, 5] == arrays["_blocks.0._depthwise_conv.weight"][5, 0, 0, 2]
    narrow = EfficientNetLite0(width=0.5, stages=1)
    with pytest.raises(
        DataError, match=r"of another shape: _conv_stem.weight \(32, 3, 3, 3\) \(expected \(16, 3, 3, 3\)"
    ):
        loaded(narrow, arrays)
