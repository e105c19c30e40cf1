"""Encoders against PyTorch: networks of plain torch layers, and Transformers' own classes where they are installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from milkit.encoders.encoder import NetworkEncoder
from milkit.encoders.pixels import Pixels
from milkit.encoders.positions import to_grid
from milkit.encoders.resnet import BLOCKS, ResNet50
from milkit.encoders.vit import ViT

pytestmark = pytest.mark.parity

_spec = importlib.util.spec_from_file_location("vit_arrays", Path(__file__).with_name("vit_arrays.py"))
assert _spec is not None
assert _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)


def prepared(tiles: np.ndarray, pixels: Pixels):
    """What torch is given: standardised, channels first."""
    import torch

    x = (tiles / 255 - np.asarray(pixels.mean)) / np.asarray(pixels.std)
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)


def tiles_of(side: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("stages", [3, 4])
def test_resnet50(stages):
    import torch

    torch.manual_seed(0)
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, inner, stride, beside):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
            conv = nn.Conv2d(before, 4 * inner, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * inner)) if beside else None

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
            before = 8
            for stage, count in enumerate(BLOCKS):
                inner, blocks = 8 * 2**stage, []
                for i in range(count):
                    blocks.append(Block(before, inner, 2 if stage and not i else 1, not i))
                    before = 4 * inner
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            for stage in range(stages):
                x = getattr(self, f"layer{stage + 1}")(x)
            return x.mean((2, 3))

    net = Net()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.weight, module.running_var):
                    values.uniform_(0.5, 1.0)
                for values in (module.bias, module.running_mean):
                    values.uniform_(-0.3, 0.3)
        net.eval()
        pixels = Pixels(64)
        want = net(prepared(tiles_of(64), pixels)).numpy()
    arrays = {name: value.numpy() for name, value in net.state_dict().items()}
    got = NetworkEncoder("resnet", ResNet50(stages, 8, pixels), arrays, batch=2).encode(tiles_of(64))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("side", [28, 42])
def test_dinov2_of_transformers(side, gated):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=7, mlp_ratio=4,
        layerscale_value=0.7, use_swiglu_ffn=gated,
    )  # fmt: skip
    _compare(transformers.Dinov2Model(config).eval(), ViT(3, positions="transformers", pixels=Pixels(side)), side)


def test_vit_of_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=7, intermediate_size=48
    )
    net = transformers.ViTModel(config, add_pooling_layer=False).eval()
    _compare(net, ViT(3, epsilon=1e-12, positions="transformers", pixels=Pixels(28)), 28)


def _compare(net, network: ViT, side: int) -> None:
    import tempfile

    import torch
    from safetensors.numpy import load_file

    with torch.no_grad():
        for values in net.parameters():
            values.add_(0.2 * torch.randn_like(values))
        want = net(pixel_values=prepared(tiles_of(side), network.pixels)).last_hidden_state[:, 0].numpy()
    with tempfile.TemporaryDirectory() as folder:  # as it is published, whatever the names are in memory
        net.save_pretrained(folder)
        arrays = load_file(f"{folder}/model.safetensors")
    got = NetworkEncoder("vit", network, arrays, batch=2).encode(tiles_of(side))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "old"), [(5, 3), (4, 7), (16, 37)])
@pytest.mark.parametrize("how", ["timm", "dinov2", "transformers"])
def test_positions(how, side, old):
    import torch

    grid = np.random.default_rng(0).normal(size=(old**2, 4))
    image = torch.tensor(grid.reshape(1, old, old, 4).transpose(0, 3, 1, 2))
    options = {"size": (side, side), "antialias": how == "timm"}
    if how == "dinov2":
        options = {"scale_factor": ((side + 0.1) / old,) * 2}
    want = torch.nn.functional.interpolate(image, mode="bicubic", **options).numpy()[0].transpose(1, 2, 0)
    np.testing.assert_allclose(to_grid(grid, side, how), want.reshape(-1, 4), rtol=1e-6, atol=1e-6)
