"""U-Net (Ronneberger, Fischer & Brox, MICCAI 2015), and its form with group normalisation and nearest upsampling.

Two 3x3 convolutions a level, pooling by 2 between levels; back up with what each level saw on the way down. One map.

It is a supervised upper bound: see `milkit.pixel.supervised` for what it learns from here.

Deviations:
    - Convolutions fill up with zeros, so that the map has the image's size; the paper's cut 92 pixels off each edge.
    - Normalisation after each convolution (the paper has none; `norm="none"`), no dropout.
    - A sigmoid a label instead of a softmax over classes.
    - Where pooling leaves out an odd last row or column, it gets zeros on the way up, beside what its level saw.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn.group_norm import GroupNorm
from milkit.nn.images import BatchNorm, Conv, ConvInit, masked, max_pool, pooled_mask
from milkit.nn.initialisers import torch_bias, torch_kernel
from milkit.pixel.sides import check_head, exponent
from milkit.pixel.supervised import check_canvas, output_of_pixels, supervised_loss
from milkit.types import Batch, Images, Output

Norm = Literal["batch", "group", "none"]
Upsampling = Literal["transposed", "nearest"]


@dataclass(frozen=True)
class UNet:
    """Down and up again, with the features of each level carried across."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    learns_from_pixels: ClassVar[bool] = True
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False

    width: tuple[int, ...] = (64, 128, 256, 512, 1024)  # the paper's
    """Channels of the levels."""
    norm: Norm = "batch"
    """After each convolution: over the batch, over groups of each image's channels, or none (the paper's)."""
    groups: int = 8
    """Of channels, where `norm` is "group"."""
    upsampling: Upsampling = "transposed"  # the paper's
    """`transposed`: a 2x2 transposed convolution. `nearest`: pixels repeated, then a 3x3 convolution."""
    r: float | Literal["max"] = 4.0  # as the weakly supervised models beside which it stands
    """Exponent of the generalised mean, where it learns from image labels; "max" is the maximum."""
    init: ConvInit = "he"  # the paper's: deviation sqrt(2 / fan_in)

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)", groups="[1, inf)")
        check_head(self.r, (0.0, 0.0, 1.0))
        if not self.width:
            raise ConfigError("model.width is (); expected the channels of at least one level, such as (16, 32, 64).")
        odd = [c for c in self.width if c % self.groups]
        if self.norm == "group" and odd:
            raise ConfigError(f"model.groups is {self.groups}, which does not divide the {odd[0]} channels of a level.")

    @classmethod
    def gnni(cls, **changes: Any) -> "UNet":
        """Group normalisation and nearest upsampling: no checkerboard, and an image does not depend on its batch."""
        return replace(cls(norm="group", upsampling="nearest"), **changes)

    @classmethod
    def from_scratch(cls, width: tuple[int, ...] = (16, 32, 64, 128), **changes: Any) -> "UNet":
        """A quarter of the channels and a level less, which two cores can train; Adam at about 1e-3."""
        return replace(cls(width=width), **changes)

    @property
    def smallest_side(self) -> int:
        """Pixels of the smallest side of an image: the levels but the first are each pooled by 2."""
        return 2 ** (len(self.width) - 1)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has: all of it."""
        return 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "UNetModule":
        """Make the module for images of `in_channels` and `out_features` labels."""
        return UNetModule(self, in_channels, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The loss on masks of pixels where the batch has them, else of the map's image probability."""
        return supervised_loss(output, batch, bag_loss)


class Level(nnx.Module):
    """Two 3x3 convolutions, each normalised, with ReLU."""

    def __init__(self, config: UNet, in_channels: int, channels: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List([Conv(a, channels, rngs=rngs, init=config.init) for a in (in_channels, channels)])
        kinds: dict[str, Any] = {"batch": BatchNorm, "group": partial(GroupNorm, groups=config.groups)}
        kind = kinds.get(config.norm)
        self.norms = None if kind is None else nnx.List([kind(channels) for _ in self.convs])

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], deterministic: bool
    ) -> Float[Array, "b h w d"]:
        """Features at the resolution of `x`."""
        for i, conv in enumerate(self.convs):
            x = conv(x, mask)
            if self.norms is not None:
                norm = self.norms[i]
                x = norm(x, mask, deterministic=deterministic) if isinstance(norm, BatchNorm) else norm(x, mask)
            x = nnx.relu(x)
        return x


class Up(nnx.Module):
    """Twice the resolution and half of the channels."""

    def __init__(self, in_channels: int, channels: int, upsampling: Upsampling, init: ConvInit, *, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, channels, rngs=rngs, init=init) if upsampling == "nearest" else None
        if self.conv is None:
            # torch's fan_in of a transposed kernel is that of its output
            fan_in = 4 * channels
            kernel = torch_kernel()(rngs.params(), (fan_in, in_channels), jnp.float32)
            self.kernel = nnx.Param(kernel.reshape(2, 2, channels, in_channels).swapaxes(2, 3))
            self.bias = nnx.Param(torch_bias(fan_in)(rngs.params(), (channels,), jnp.float32))

    def __call__(
        self, x: Float[Array, "b i j c"], mask: Bool[Array, "b i j"], to: Bool[Array, "b h w"]
    ) -> Float[Array, "b h w d"]:
        """`x`, whose mask is the pooled one of `to`, at the resolution of `to`; zeros where pooling left pixels out."""
        x, real = masked(x, mask), doubled(mask, to)
        if self.conv is not None:
            return masked(self.conv(doubled(x, to), real), real)
        b, h, w, _ = x.shape
        y = jnp.einsum("bhwc,ijcd->bhiwjd", x, self.kernel[...]) + self.bias[...]
        y = y.reshape(b, 2 * h, 2 * w, -1)
        return masked(jnp.pad(y, ((0, 0), (0, to.shape[1] - 2 * h), (0, to.shape[2] - 2 * w), (0, 0))), real)


class UNetModule(nnx.Module):
    """See `UNet`."""

    def __init__(self, config: UNet, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.r, self.smallest = exponent(config.r), config.smallest_side
        widths = config.width
        self.down = nnx.List([Level(config, a, b, rngs=rngs) for a, b in pairwise((in_channels, *widths))])
        across = list(pairwise(widths))
        self.ups = nnx.List([Up(b, a, config.upsampling, config.init, rngs=rngs) for a, b in across])
        self.merging = nnx.List([Level(config, 2 * a, a, rngs=rngs) for a, _ in across])
        self.head = Conv(widths[0], out_features, 1, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The map "fused" and the logit of its GM_r.

        Raises:
            ConfigError: the canvas is smaller than the config's `smallest_side`.
        """
        check_canvas(images.mask, self.smallest, len(self.ups))
        x, mask = self.down[0](images.x, images.mask, deterministic), images.mask
        seen = []
        for level in list(self.down)[1:]:
            seen.append((x, mask))
            x, mask = max_pool(x), pooled_mask(mask)
            x = level(x, mask, deterministic)
        for up, merge in zip(reversed(list(self.ups)), reversed(list(self.merging)), strict=True):
            across, to = seen.pop()
            x = merge(jnp.concatenate([across, up(x, mask, to)], -1), to, deterministic)
            mask = to
        return output_of_pixels(self.head(x, mask), mask, self.r)


def doubled(x: Array, to: Bool[Array, "b h w"]) -> Array:
    """Every pixel (or entry of a mask) twice in both directions, in the canvas of `to`; zeros where that is larger."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    beyond = ((0, 0), (0, to.shape[1] - x.shape[1]), (0, to.shape[2] - x.shape[2]))
    return jnp.pad(x, beyond + ((0, 0),) * (x.ndim - 3))
