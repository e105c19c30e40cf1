"""Stages 1 to 3 of VGG-16, with or without batch normalisation: what the weakly supervised models stand on.

References:
    Simonyan & Zisserman (2015, ICLR), configuration D; its convolutions are torchvision's vgg16 features 0, 2, 5, 7,
    10, 12 and 14.
"""

from itertools import pairwise

from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.images import BatchNorm, Conv, ConvInit

DEPTHS = (2, 2, 3)
"""Convolutions of each stage."""

Width = tuple[int, int, int]
"""Channels of each stage; VGG-16 has (64, 128, 256)."""


class VGGStage(nnx.Module):
    """3x3 convolutions, each followed by batch normalisation (if any) and ReLU; no pooling.

    Args:
        in_channels, channels: of the input, and of every layer.
        depth: number of convolutions.
        batch_norm: whether each is normalised.
        init: how kernels start.
    """

    def __init__(
        self, in_channels: int, channels: int, depth: int, *, rngs: nnx.Rngs, batch_norm: bool, init: ConvInit
    ):
        widths = [in_channels, *[channels] * depth]
        self.convs = nnx.List([Conv(a, b, rngs=rngs, init=init) for a, b in pairwise(widths)])
        self.norms = nnx.List([BatchNorm(channels) for _ in range(depth)]) if batch_norm else None

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Float[Array, "b h w d"]:
        """Features at the resolution of `x`."""
        for i, conv in enumerate(self.convs):
            x = conv(x, mask)
            if self.norms is not None:
                x = self.norms[i](x, mask, deterministic=deterministic)
            x = nnx.relu(x)
        return x


def vgg_stages(
    in_channels: int, width: Width, *, rngs: nnx.Rngs, batch_norm: bool = True, init: ConvInit = "torch"
) -> list[VGGStage]:
    """The three stages, to be pooled by 2 in between."""
    before = (in_channels, *width)
    return [
        VGGStage(a, b, depth, rngs=rngs, batch_norm=batch_norm, init=init)
        for a, b, depth in zip(before, width, DEPTHS, strict=False)
    ]
