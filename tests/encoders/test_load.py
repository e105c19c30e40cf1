"""Encoders by name; files; callables; what is refused and what is said."""

import sys

import numpy as np
import pytest

from milkit.encoders import KNOWN, ViT, load_encoder
from milkit.encoders.custom import CallableEncoder
from milkit.encoders.pixels import Pixels
from milkit.errors import ConfigError, DataError

TILES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def test_a_callable_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "my_encoder.py").write_text("def mean(tiles):\n    return tiles.mean((1, 2))\n")
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("my_encoder:mean", batch=2)
    np.testing.assert_allclose(encoder.encode(TILES), TILES.mean((1, 2)), rtol=1e-6)
    assert encoder.width == 3
    assert encoder.facts() == {"encoder": "my_encoder:mean", "width": 3, "side_px": 0}
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda t: t, r"\[3, 8, 8, 3\]"),
        (lambda t: np.zeros((1, 4)), r"\[1, 4\]"),
        (lambda t: np.full((3, 4), np.nan), "not finite"),
        (lambda t: [["a"]] * 3, "for 3 tiles"),
    ],
)
def test_what_a_callable_may_not_return(returned, said):
    with pytest.raises(DataError, match=said):
        CallableEncoder("mine", returned).encode(TILES)


def test_a_width_that_changes():
    encoder = CallableEncoder("mine", lambda t: np.zeros((len(t), 2 + len(t))), batch=2)
    with pytest.raises(DataError, match="3 features, and 4 before"):
        encoder.encode(TILES)


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("resnet51", None, "did you mean 'resnet50'"),
        ("uni", None, "--weights FILE"),
        ("nowhere_at_all:f", None, "cannot be imported"),
        ("math:", None, "none was named"),
        ("math:nothing", None, "no function nothing"),
        ("math:sqrt", "w.npz", "leave w.npz"),
    ],
)
def test_names_that_are_refused(name, weights, said):
    with pytest.raises(ConfigError, match=said):
        load_encoder(name, weights)


def test_a_negative_batch():
    with pytest.raises(ConfigError, match="--batch is -1"):
        load_encoder("math:sqrt", batch=-1)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="no file"):
        load_encoder("uni", tmp_path / "none.safetensors")
    np.savez(tmp_path / "other.npz", w=np.zeros(3, np.float32))
    with pytest.raises(DataError, match="no vision transformer"):
        load_encoder("uni", tmp_path / "other.npz")
    with pytest.raises(DataError, match="no file"):
        load_encoder(str(tmp_path / "none.onnx"))


def test_every_known_encoder_states_what_it_takes():
    for name, known in KNOWN.items():
        pixels = known.network.pixels
        assert pixels.side == 224, name
        assert known.licence, name
        if isinstance(known.network, ViT):
            network = known.network
            assert network.width % network.heads == 0, name
            assert pixels.side % network.patch == 0, name
            assert known.width == network.width * (2 if network.pool == "class_mean" else 1), name


@pytest.mark.parity  # with what else needs other frameworks
def test_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])
    graph = helper.make_graph([helper.make_node("GlobalAveragePool", ["x"], ["y"])], "mean", [image], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "mean.onnx"))
    from milkit.encoders.onnx import OnnxEncoder

    plain = Pixels(8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    encoder = OnnxEncoder(tmp_path / "mean.onnx", plain, batch=2)
    np.testing.assert_allclose(encoder.encode(TILES), TILES.mean((1, 2)) / 255, rtol=1e-5)
    assert encoder.width == 3
    with pytest.raises(DataError, match="takes 8 pixels a side, not 224"):
        load_encoder(str(tmp_path / "mean.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no ONNX file"):
        load_encoder(str(tmp_path / "bad.onnx"))
