"""PSPNet (Zhao, Shi, Qi, Wang & Jia, CVPR 2017, arXiv:1612.01105): pyramid pooling on a dilated ResNet.

Features at 1/8 of the resolution; beside them their means over the whole image, and over 2x2, 3x3 and 6x6 bins of it,
each narrowed by a 1x1 convolution and enlarged bilinearly again, so that a pixel's logit knows its surroundings and the
whole image. One map.

It is a supervised upper bound: see `milkit.pixel.supervised` for what it learns from here.

Deviations:
    - ResNet as in torchvision, whose weights fit: one 7x7 convolution first, where the authors' has three of 3x3.
    - No auxiliary loss on the last stage but one (the paper's section 4; weight 0.4).
    - A sigmoid a label instead of a softmax over classes.
    - Batch normalisation of the bins sees as many values as images a step has, times the bins: the mean over a whole
      image needs steps of several images (the paper's have 16).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn.dropout import dropout_or_none
from milkit.nn.images import BatchNorm, Conv, image_sizes, masked, resize
from milkit.pixel.conv_norm import ConvNorm
from milkit.pixel.on_trunk import OnTrunk
from milkit.pixel.resnet import ResNet
from milkit.pixel.sides import check_head, exponent
from milkit.pixel.supervised import output_of_pixels, supervised_loss
from milkit.types import Batch, Images, Output


@dataclass(frozen=True)
class PSPNet(OnTrunk):
    """A dilated ResNet and what its features are on average in parts of the image."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    learns_from_pixels: ClassVar[bool] = True
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False

    backbone: ResNet = ResNet(50, dilated=2)  # the paper's, to 1/8 of the resolution
    """The trunk."""
    bins: tuple[int, ...] = (1, 2, 3, 6)  # the paper's
    """Bins a side of each level of the pyramid; each level has an even share of the features' channels."""
    hidden: int = 512  # the paper's
    """Channels before the last layer."""
    dropout: float = 0.1  # the authors' code
    """Rate before the last layer."""
    r: float | Literal["max"] = 4.0  # as the weakly supervised models beside which it stands
    """Exponent of the generalised mean, where it learns from image labels; "max" is the maximum."""
    trunk_rate: float = 1.0
    """Learning rate of the trunk, as a share of the run's; 0.1 where it has weights already (the paper's)."""
    normalisation: Literal["training", "imagenet"] = "training"
    """How channels are standardised: by the training part, or as ImageNet's weights expect."""
    weights: str = ""
    """A `.safetensors` or `.npz` file in torchvision's naming, from which the trunk of each run starts."""

    def __post_init__(self) -> None:
        check_fields(self, "model", bins="[1, 64]", hidden="[1, inf)", dropout="[0, 1)", trunk_rate="[0, inf)")
        check_head(self.r, (0.0, 0.0, 1.0))
        if not 0 < len(self.bins) <= self.backbone.channels[-1]:
            raise ConfigError(f"model.bins is {self.bins}; expected at least one level, such as (1, 2, 3, 6).")

    @classmethod
    def from_scratch(cls, **changes: Any) -> "PSPNet":
        """ResNet-18 of a quarter of the channels to 1/8 of the resolution, which two cores can train; Adam, 1e-3."""
        return replace(cls(backbone=ResNet(18, width=16, stages=3, dilated=1), hidden=32), **changes)

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "PSPNetModule":
        """Make the module for images of `in_channels` and `out_features` labels."""
        return PSPNetModule(self, in_channels, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The loss on masks of pixels where the batch has them, else of the map's image probability."""
        return supervised_loss(output, batch, bag_loss)


class PSPNetModule(nnx.Module):
    """See `PSPNet`."""

    def __init__(self, config: PSPNet, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.r, self.bins = exponent(config.r), config.bins
        self.trunk = config.backbone.build(in_channels, rngs=rngs)
        seen = config.backbone.channels[-1]
        each = seen // len(config.bins)
        self.levels = nnx.List([_unit(seen, each, 1, rngs) for _ in config.bins])
        self.merge = _unit(seen + each * len(config.bins), config.hidden, 3, rngs)
        self.dropout = dropout_or_none(config.dropout)
        self.head = Conv(config.hidden, out_features, 1, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The map "fused" and the logit of its GM_r.

        Raises:
            ConfigError: dropout finds no `rngs`.
        """
        x, mask = self.trunk(images.x, images.mask, deterministic=deterministic)[-1]
        beside = []
        for bins, level in zip(self.bins, self.levels, strict=True):
            pooled, real = mean_of_bins(x, mask, bins)
            pooled = nnx.relu(level(pooled, real, real, deterministic=deterministic))
            beside.append(resize(pooled, real, mask).astype(x.dtype))
        x = nnx.relu(self.merge(jnp.concatenate([x, *beside], -1), mask, mask, deterministic=deterministic))
        if self.dropout is not None:
            x = self.dropout(x, deterministic=deterministic, rngs=rngs)
        return output_of_pixels(resize(self.head(x, mask), mask, images.mask), images.mask, self.r)


def mean_of_bins(
    x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], bins: int
) -> tuple[Float[Array, "b n n c"], Bool[Array, "b n n"]]:
    """The mean over each of bins x bins parts of an image's real pixels, and which are of a real image (all or none).

    Part i of n of a side of s pixels goes from floor(i s / n) to ceil((i + 1) s / n), so that parts share a pixel where
    n does not divide s, and none is empty (torch's adaptive average pooling).

    Args:
        x: features.
        mask: True on real pixels.
        bins: n.
    """
    size = image_sizes(mask)
    wide = masked(x, mask).astype(jnp.promote_types(x.dtype, jnp.float32))
    rows, columns = (
        _shares(size[:, axis], x.shape[axis + 1], bins).astype(wide.dtype) for axis in (0, 1)
    )  # fmt: skip
    exact = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("bnh,bhwc->bnwc", rows, wide, precision=exact)
    means = jnp.einsum("bmw,bnwc->bnmc", columns, tall, precision=exact).astype(x.dtype)
    return means, jnp.broadcast_to((size > 0).all(1)[:, None, None], means.shape[:3])


def _shares(size: Int[Array, "b"], canvas: int, bins: int) -> Float[Array, "b n s"]:
    """Matrices that take a line of `size` pixels in a canvas to the means of its parts."""
    part, place = jnp.arange(bins, dtype=jnp.int32), jnp.arange(canvas, dtype=jnp.int32)
    start = part * size[:, None] // bins
    end = -(-(part + 1) * size[:, None] // bins)
    within = (place >= start[..., None]) & (place < end[..., None])
    return within / jnp.maximum(end - start, 1)[..., None]


def _unit(before: int, after: int, size: int, rngs: nnx.Rngs) -> ConvNorm:
    """A convolution without bias and batch normalisation; the ReLU is the caller's."""
    return ConvNorm(Conv(before, after, size, use_bias=False, init="he", rngs=rngs), BatchNorm(after))
