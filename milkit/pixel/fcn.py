"""FCN-8s: fully convolutional networks for semantic segmentation (Long, Shelhamer & Darrell, CVPR 2015).

VGG-16 with its fully connected layers as convolutions; scores at 1/32 of the resolution, enlarged twice by 2, each time
with scores from the pooled features there added, and by 8 at last. One map.

It is a supervised upper bound: see `milkit.pixel.supervised` for what it learns from here.

Deviations:
    - Zeros round the image as each convolution needs; the paper pads the image by 100 pixels and crops.
    - Enlarging is bilinear and fixed; the paper's two enlargements by 2 start as that and are trained.
    - Batch normalisation in VGG (`batch_norm=False`: none, as in the paper, for weights of ImageNet).
    - A sigmoid a label instead of a softmax over classes; all layers are trained at once, not 32s, 16s, 8s in turn.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Float

from milkit.fields import check_fields
from milkit.nn.dropout import dropout_or_none
from milkit.nn.images import Conv, ConvInit, max_pool, pooled_mask, resize
from milkit.pixel.sides import check_head, exponent
from milkit.pixel.supervised import check_canvas, output_of_pixels, supervised_loss
from milkit.pixel.vgg import VGGStage
from milkit.types import Batch, Images, Output

DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions of each stage of VGG-16."""


@dataclass(frozen=True)
class FCN8s:
    """VGG-16 as a fully convolutional network with two skips."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    learns_from_pixels: ClassVar[bool] = True
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = 2 ** len(DEPTHS)

    width: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)  # VGG-16
    """Channels of the stages."""
    hidden: int = 4096  # VGG-16
    """Of the two layers that were fully connected."""
    dropout: float = 0.5  # the paper's
    """Rate after each of these two."""
    r: float | Literal["max"] = 4.0  # as the weakly supervised models beside which it stands
    """Exponent of the generalised mean, where it learns from image labels; "max" is the maximum."""
    batch_norm: bool = True
    init: ConvInit = "torch"

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)", hidden="[1, inf)", dropout="[0, 1)")
        check_head(self.r, (0.0, 0.0, 1.0))

    @classmethod
    def from_scratch(cls, **changes: Any) -> "FCN8s":
        """A quarter of VGG's channels, which two cores can train; Adam at about 1e-3."""
        return replace(cls(width=(16, 32, 64, 128, 128), hidden=256), **changes)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has: all of it."""
        return 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "FCN8sModule":
        """Make the module for images of `in_channels` and `out_features` labels."""
        return FCN8sModule(self, in_channels, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The loss on masks of pixels where the batch has them, else of the map's image probability."""
        return supervised_loss(output, batch, bag_loss)


class FCN8sModule(nnx.Module):
    """See `FCN8s`."""

    def __init__(self, config: FCN8s, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.r = exponent(config.r)
        options: dict[str, Any] = {"batch_norm": config.batch_norm, "init": config.init}
        widths = pairwise((in_channels, *config.width))
        self.stages = nnx.List(
            [VGGStage(a, b, depth, rngs=rngs, **options) for (a, b), depth in zip(widths, DEPTHS, strict=True)]
        )
        self.fc6 = Conv(config.width[-1], config.hidden, 7, rngs=rngs, init=config.init)
        self.fc7 = Conv(config.hidden, config.hidden, 1, rngs=rngs, init=config.init)
        self.dropout = dropout_or_none(config.dropout)
        self.scores = nnx.List([Conv(c, out_features, 1, rngs=rngs) for c in (*config.width[2:4], config.hidden)])

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The map "fused" and the logit of its GM_r.

        Raises:
            ConfigError: the canvas is smaller than `FCN8s.smallest_side`, or dropout finds no `rngs`.
        """
        x, mask = images.x, images.mask
        check_canvas(mask, FCN8s.smallest_side, len(DEPTHS))
        read = []
        for stage in self.stages:
            x = max_pool(stage(x, mask, deterministic=deterministic))
            mask = pooled_mask(mask)
            read.append((x, mask))
        for layer in (self.fc6, self.fc7):
            x = nnx.relu(layer(x, mask))
            if self.dropout is not None:
                x = self.dropout(x, deterministic=deterministic, rngs=rngs)
        score = self.scores[2](x, mask)
        for i in (1, 0):
            features, finer = read[2 + i]
            score = resize(score, mask, finer, "half_pixel") + self.scores[i](features, finer)
            mask = finer
        return output_of_pixels(resize(score, mask, images.mask, "half_pixel"), images.mask, self.r)
