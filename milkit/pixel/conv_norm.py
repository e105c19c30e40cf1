"""A convolution without bias and the batch normalisation after it: the unit that ResNets and EfficientNets repeat."""

from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.nn.depthwise import Depthwise
from milkit.nn.images import BatchNorm, Conv
from milkit.pixel.weights import Layer

Features = tuple[Array, Array]
"""What a trunk gives at one resolution: features [b, h, w, c] and the mask of their real pixels [b, h, w]."""


class ConvNorm(nnx.Module):
    """`conv`, then batch normalisation; no activation.

    Args:
        conv: a convolution with a stride of 1 or 2.
        norm: of its output's channels.
    """

    def __init__(self, conv: Conv | Depthwise, norm: BatchNorm):
        self.conv, self.norm = conv, norm

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        mask: Bool[Array, "b h w"],
        to: Bool[Array, "b i j"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b i j d"]:
        """Of `x` with real pixels `mask` the normalised convolution, whose real pixels are `to`."""
        return self.norm(self.conv(x, mask), to, deterministic=deterministic)


class Trunk(nnx.Module):
    """Stages one after the other, each at a resolution of its own; a subclass makes `stages` and says `stage`."""

    stages: nnx.List

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> list[Features]:
        """Features and masks from the finest resolution to the coarsest."""
        found = []
        for stage in range(len(self.stages)):
            x, mask = self.stage(stage, x, mask, deterministic=deterministic)
            found.append((x, mask))
        return found

    def stage(
        self, stage: int, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, deterministic: bool = True
    ) -> Features:
        """One resolution's features from those of the one before, or from the image."""
        raise NotImplementedError


def named(path: str, conv: str, norm: str) -> Layer:
    """The `ConvNorm` at `path`, by PyTorch's names of its convolution and of its normalisation."""
    return Layer(f"{path}/conv", conv, f"{path}/norm", norm)
