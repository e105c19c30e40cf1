"""Weights in PyTorch's naming: layouts by hand, folded normalisation, what is refused; and the files they come from."""

import json
import struct

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from milkit.data.arrays import read_arrays
from milkit.errors import DataError
from milkit.nn.depthwise import Depthwise
from milkit.nn.images import BatchNorm, Conv
from milkit.nn.initialisers import linear
from milkit.pixel.conv_norm import ConvNorm, named
from milkit.pixel.vgg import VGG
from milkit.pixel.weights import Layer, load


class Small(nnx.Module):
    """A convolution and its normalisation, a depthwise one, a linear layer, and an array of its own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.stages = nnx.List([ConvNorm(Conv(2, 3, 3, use_bias=False, rngs=rngs), BatchNorm(3, epsilon=0.25))])
        self.deep = Depthwise(3, 3, padding=(1, 1), rngs=rngs)
        self.head = linear(3, 2, rngs=rngs)
        self.gamma = nnx.Param(jnp.zeros(1))


NAMES = [
    named("stages/0", "features.0", "features.1"),
    Layer("deep", "deep"),
    Layer("head", "fc"),
    Layer("gamma", "attention.gamma"),
]


def arrays_of(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "features.0.weight": (3, 2, 3, 3),
        "deep.weight": (3, 1, 3, 3),
        "fc.weight": (2, 3),
        "fc.bias": (2,),
        "attention.gamma": (1,),
        **{f"features.1.{leaf}": (3,) for leaf in ("weight", "bias", "running_mean")},
    }
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    found["features.1.running_var"] = rng.uniform(0.5, 2, 3).astype(np.float32)
    return {**found, "features.1.num_batches_tracked": np.array(3)}


def test_layouts():
    module, arrays = Small(), arrays_of()
    load(module, arrays, NAMES)
    assert module.stages[0].conv.kernel[...][2, 0, 1, 2] == arrays["features.0.weight"][2, 1, 2, 0]
    assert module.deep.kernel[...][2, 0, 0, 1] == arrays["deep.weight"][1, 0, 2, 0]
    assert module.head.kernel[...][2, 1] == arrays["fc.weight"][1, 2]
    assert module.gamma[...] == arrays["attention.gamma"]
    norm = module.stages[0].norm
    for ours, theirs in (("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("var", "running_var")):
        assert (getattr(norm, ours)[...] == arrays[f"features.1.{theirs}"]).all()


def test_a_folded_normalisation_gives_the_same_numbers():
    """Folded by hand: kernel * g and bias - mean * g with g = weight / sqrt(var + eps)."""
    whole, arrays = Small(), arrays_of()
    load(whole, arrays, NAMES)
    norm = {leaf: arrays.pop(f"features.1.{leaf}") for leaf in ("weight", "bias", "running_mean", "running_var")}
    gain = norm["weight"] / np.sqrt(norm["running_var"] + 0.25)
    arrays["features.0.weight"] = arrays["features.0.weight"] * gain[:, None, None, None]
    arrays["features.0.bias"] = norm["bias"] - norm["running_mean"] * gain
    del arrays["features.1.num_batches_tracked"]
    folded = Small()
    load(folded, arrays, NAMES)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 5, 2)), jnp.float32)
    mask = jnp.ones((1, 4, 5), bool)
    np.testing.assert_allclose(folded.stages[0](x, mask, mask), whole.stages[0](x, mask, mask), atol=1e-5)


def test_half_precision_becomes_single():
    module = Small()
    load(module, {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in arrays_of().items()}, NAMES)
    assert module.head.kernel[...].dtype == jnp.float32


def test_all_that_does_not_fit_is_said_and_nothing_is_changed():
    module, arrays = Small(), arrays_of()
    before = np.asarray(module.head.kernel[...])
    del arrays["features.1.running_mean"]
    arrays["deep.weight"] = np.zeros((3, 1, 5, 5), np.float32)
    arrays["fc.bias"][0] = np.nan
    arrays["other.weight"] = np.zeros(2, np.float32)
    with pytest.raises(DataError) as error:
        load(module, arrays, NAMES)
    said = str(error.value)
    assert "missing: features.1.running_mean;" in said
    assert "unexpected: other.weight;" in said
    assert "deep.weight (3, 1, 5, 5) (expected (3, 1, 3, 3))" in said
    assert "no finite numbers: fc.bias." in said
    assert (np.asarray(module.head.kernel[...]) == before).all()


def test_a_name_is_ignored_whole_or_up_to_a_dot():
    arrays = {**arrays_of(), "classifier.0.weight": np.zeros(1)}
    load(Small(), arrays, NAMES, ignore=("classifier",))
    with pytest.raises(DataError, match=r"unexpected: classifier.0.weight"):
        load(Small(), arrays, NAMES, ignore=("class",))


def vgg_arrays(numbers, norms, width=(2, 3, 4)):
    """Random arrays in torchvision's naming, and some of what lies above."""
    rng, found, before = np.random.default_rng(0), {"classifier.0.weight": np.zeros(1)}, 3
    for number, out in zip(numbers, np.repeat(width, (2, 2, 3)), strict=True):
        found[f"features.{number}.weight"] = rng.normal(size=(out, before, 3, 3)).astype(np.float32)
        found[f"features.{number}.bias"] = rng.normal(size=out).astype(np.float32)
        if norms:
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                found[f"features.{number + 1}.{leaf}"] = rng.uniform(0.5, 1.5, out).astype(np.float32)
        before = out
    return {**found, f"features.{numbers[-1] + 3}.weight": np.zeros(1)}


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("norms", [True, False])
def test_weights_of_vgg(norms, normalised):
    """vgg16 fits stages with and without normalisation, vgg16_bn those with it; folded it is like vgg16."""
    config = VGG((2, 3, 4), batch_norm=normalised)
    trunk = nnx.eval_shape(lambda: config.build(3, rngs=nnx.Rngs(0)))
    numbers = (0, 3, 7, 10, 14, 17, 20) if norms else (0, 2, 5, 7, 10, 12, 14)
    arrays = vgg_arrays(numbers, norms)
    if norms and not normalised:
        with pytest.raises(DataError, match=r"unexpected: features.1.bias"):
            config.load(trunk, arrays)
        return
    config.load(trunk, arrays)
    last = trunk.stages[2]
    name = f"features.{numbers[-1]}"
    assert (np.asarray(last.convs[2].kernel[...]).transpose(3, 2, 0, 1) == arrays[f"{name}.weight"]).all()
    assert (last.convs[2].bias[...] == arrays[f"{name}.bias"]).all()
    if normalised:
        scale = arrays["features.21.weight"] if norms else np.ones(4)
        assert (last.norms[2].scale[...] == scale).all()
    if normalised and not norms:  # the normalisation does nothing
        x, mask = jnp.ones((1, 2, 2, 4)) * jnp.arange(4), jnp.ones((1, 2, 2), bool)
        np.testing.assert_allclose(last.norms[2](x, mask), x, rtol=1e-6)


# ---- files


def test_both_kinds_of_file_give_the_same_arrays(tmp_path):
    arrays = arrays_of()
    save_file(arrays, tmp_path / "w.safetensors", metadata={"format": "pt"})
    np.savez(tmp_path / "w.npz", **arrays)
    for file in ("w.safetensors", "w.npz"):
        got = read_arrays(tmp_path / file)
        assert got.keys() == arrays.keys()
        assert all((got[k] == v).all() and got[k].dtype == v.dtype for k, v in arrays.items())


def test_bfloat16_is_read_as_float32(tmp_path):
    values = np.array([1.5, -3e38, 0.0078125]).astype(ml_dtypes.bfloat16)
    save_file({"a": values}, tmp_path / "w.safetensors")
    got = read_arrays(tmp_path / "w.safetensors")["a"]
    assert got.dtype == np.float32
    assert (got == values.astype(np.float32)).all()


def spoiled(header, numbers=b"\0" * 16, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        spoiled({}, length=1 << 60),
        spoiled(b"[1, 2]"),
        spoiled(b"\xff\xfe"),
        spoiled(b"[" * 100_000),
        spoiled({"a": 3}),
        spoiled({"a": {**ENTRY, "dtype": "C64"}}),
        spoiled({"a": {**ENTRY, "dtype": ["F32"]}}),
        spoiled({"a": {**ENTRY, "shape": [1 << 60]}}),
        spoiled({"a": {**ENTRY, "shape": [-2, -2]}}),
        spoiled({"a": {**ENTRY, "shape": [4.0]}}),
        spoiled({"a": {**ENTRY, "data_offsets": [8, 24]}}),
        spoiled({"a": {**ENTRY, "data_offsets": [-16, 0]}}),
        spoiled({"a": {**ENTRY, "data_offsets": [0]}}),
    ],
)
def test_a_spoiled_file_is_refused(tmp_path, content):
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"w\.safetensors"):
        read_arrays(file)


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(DataError, match="no file"):
        read_arrays(tmp_path / "gone.npz")
    (tmp_path / "w.pth").write_bytes(b"PK")
    with pytest.raises(DataError, match="weights_only=True"):
        read_arrays(tmp_path / "w.pth")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(DataError, match=r"objects\.npz"):
        read_arrays(tmp_path / "objects.npz")
    np.savez(tmp_path / "text.npz", a=np.array(["b"]))
    with pytest.raises(DataError, match="text under a"):
        read_arrays(tmp_path / "text.npz")
