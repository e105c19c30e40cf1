"""SA-MIL, U-Net and the EfficientNet-Lite0 trunk in PyTorch, written from the papers, for `benchmarks.pixel_speed`.

Needs the extra `bench`. Each class takes the same choices as milkit's and has as many parameters, which the benchmark
checks before it times anything.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as f
from torch import nn

BLOCKS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
"""Of EfficientNet-B0: repeats, side of the kernel, stride of the first, expansion, channels."""


class CrissCross(nn.Module):
    """Attention to a pixel's row and column by one softmax over both (CCNet)."""

    def __init__(self, c: int):
        super().__init__()
        self.q, self.k, self.v = nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Any) -> Any:
        """The same shape as `x`."""
        b, _, h, w = x.shape
        q, k, v = self.q(x), self.k(x), self.v(x)

        def lines(a: Any, order: tuple[int, ...]) -> Any:
            return a.permute(*order).reshape(-1, a.shape[order[2]], a.shape[1])

        column, row = (0, 3, 2, 1), (0, 2, 3, 1)
        e_column = lines(q, column) @ lines(k, column).transpose(1, 2)
        e_column = e_column.masked_fill(torch.eye(h, dtype=torch.bool), -torch.inf)
        e_column = e_column.view(b, w, h, h).transpose(1, 2)
        e_row = (lines(q, row) @ lines(k, row).transpose(1, 2)).view(b, h, w, w)
        weight = torch.cat([e_column, e_row], -1).softmax(-1)
        of_column = weight[..., :h].transpose(1, 2).reshape(b * w, h, h) @ lines(v, column)
        of_row = weight[..., h:].reshape(b * h, w, w) @ lines(v, row)
        total = of_column.view(b, w, h, -1).permute(0, 3, 2, 1) + of_row.view(b, h, w, -1).permute(0, 3, 1, 2)
        return x + self.gamma * total


def convolutions(c: int, d: int, depth: int) -> nn.Sequential:
    """3x3 convolutions with batch normalisation and ReLU."""
    layers: list[Any] = []
    for i in range(depth):
        layers += [nn.Conv2d(d if i else c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SAMIL(nn.Module):
    """The fused map and the three of the sides."""

    def __init__(self, width: tuple[int, ...]):
        super().__init__()
        before = (3, *width)
        self.stages = nn.ModuleList(convolutions(c, d, n) for c, d, n in zip(before, width, (2, 2, 3), strict=False))
        self.attention = nn.ModuleList(CrissCross(c) for c in width)
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in width)

    def forward(self, x: Any) -> list[Any]:
        """Four maps [b, 1, h, w], the fused one first."""
        size, sides = x.shape[2:], []
        for stage, attention, head in zip(self.stages, self.attention, self.heads, strict=True):
            x = stage(x)
            x = f.max_pool2d(attention(attention(x)), 2)
            large = f.interpolate(head(x), size=size, mode="bilinear", align_corners=True)
            sides.append(torch.sigmoid(large))
        return [0.2 * sides[0] + 0.35 * sides[1] + 0.45 * sides[2], *sides]


def samil_loss(maps: list[Any], target: Any) -> Any:
    """Four binary cross-entropies of generalised means."""
    bags = [(m**4).mean((1, 2, 3)).clamp(1e-12, 1) ** 0.25 for m in maps]
    return sum(f.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), target) for p in bags)


class UNet(nn.Module):
    """One map; batch normalisation, transposed convolutions on the way up."""

    def __init__(self, width: tuple[int, ...]):
        super().__init__()
        self.down = nn.ModuleList(convolutions(a, b, 2) for a, b in zip((3, *width), width, strict=False))
        pairs = list(pairwise(width))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.merge = nn.ModuleList(convolutions(2 * a, a, 2) for a, _ in pairs)
        self.head = nn.Conv2d(width[0], 1, 1)

    def forward(self, x: Any) -> list[Any]:
        """One map [b, 1, h, w]."""
        seen = []
        for i, level in enumerate(self.down):
            x = level(f.max_pool2d(x, 2) if i else x)
            seen.append(x)
        seen.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(torch.cat([seen.pop(), up(x)], 1))
        return [torch.sigmoid(self.head(x))]


class Bottleneck(nn.Module):
    """An inverted bottleneck, its zeros at the right and the bottom where the stride is 2."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner, zeros = before * expansion, kernel - stride
        self.beside = stride == 1 and before == after
        layers: list[Any] = []
        if expansion > 1:
            layers += [nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner, 1e-3, 0.01), nn.ReLU6(True)]
        if stride == 1:
            depthwise = [nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner, bias=False)]
        else:
            sides = (zeros // 2, zeros - zeros // 2) * 2
            depthwise = [nn.ZeroPad2d(sides), nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)]
        layers += [*depthwise, nn.BatchNorm2d(inner, 1e-3, 0.01), nn.ReLU6(True)]
        layers += [nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after, 1e-3, 0.01)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Any) -> Any:
        """The block's output."""
        y = self.layers(x)
        return x + y if self.beside else y


class Lite0(nn.Module):
    """EfficientNet-Lite0 to the 1x1 convolution to 1280 channels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 32, 3, 2, bias=False)]
        layers += [nn.BatchNorm2d(32, 1e-3, 0.01), nn.ReLU6(True)]
        before = 32
        for repeats, kernel, stride, expansion, out in BLOCKS:
            for i in range(repeats):
                layers.append(Bottleneck(before, out, kernel, 1 if i else stride, expansion))
                before = out
        layers += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, 1e-3, 0.01), nn.ReLU6(True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Any) -> list[Any]:
        """Features at 1/32 of the resolution."""
        return [self.layers(x)]


def mean_square(found: list[Any], target: Any) -> Any:
    """A loss that costs nothing, of what gives a map or features."""
    return found[0].square().mean()
