"""SegNet (Badrinarayanan, Kendall & Cipolla, IEEE Transactions on Pattern Analysis and Machine Intelligence 39:2481,
2017; arXiv:1511.00561).

The convolutions of VGG-16 down; the same mirrored up again, where each enlargement puts a value back to the place of
the maximum that its pooling took, and zeros beside it. One map.

It is a supervised upper bound: see `milkit.pixel.supervised` for what it learns from here.

Deviations:
    - A sigmoid a label instead of a softmax over classes.
    - The last layer is a convolution without normalisation or ReLU, as its result is a logit.
    - Where pooling leaves out an odd last row or column, it stays zero on the way up.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.fields import check_fields
from milkit.nn.images import Conv, ConvInit, max_pool, pooled_mask
from milkit.pixel.fcn import DEPTHS
from milkit.pixel.sides import check_head, exponent
from milkit.pixel.supervised import check_canvas, output_of_pixels, supervised_loss
from milkit.pixel.vgg import VGGStage
from milkit.types import Batch, Images, Output


@dataclass(frozen=True)
class SegNet:
    """VGG-16 down and mirrored up, by the places of the maxima."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    learns_from_pixels: ClassVar[bool] = True
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = 2 ** len(DEPTHS)
    mirrored: ClassVar[bool] = False
    """Of equal values in a window, as ReLU leaves them, the first is the place of the maximum."""

    width: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)  # VGG-16
    """Channels of the stages."""
    r: float | Literal["max"] = 4.0  # as the weakly supervised models beside which it stands
    """Exponent of the generalised mean, where it learns from image labels; "max" is the maximum."""
    init: ConvInit = "he"  # the paper's

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)")
        check_head(self.r, (0.0, 0.0, 1.0))

    @classmethod
    def from_scratch(cls, **changes: Any) -> "SegNet":
        """A quarter of VGG's channels, which two cores can train; Adam at about 1e-3."""
        return replace(cls(width=(16, 32, 64, 128, 128)), **changes)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has: all of it."""
        return 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "SegNetModule":
        """Make the module for images of `in_channels` and `out_features` labels."""
        return SegNetModule(self, in_channels, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The loss on masks of pixels where the batch has them, else of the map's image probability."""
        return supervised_loss(output, batch, bag_loss)


class SegNetModule(nnx.Module):
    """See `SegNet`."""

    def __init__(self, config: SegNet, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.r = exponent(config.r)
        options: dict[str, Any] = {"batch_norm": True, "init": config.init}
        sizes = list(zip(pairwise((in_channels, *config.width)), DEPTHS, strict=True))
        self.down = nnx.List([VGGStage(a, b, depth, rngs=rngs, **options) for (a, b), depth in sizes])
        # mirrored: all but the last layer of a stage have the stage's channels, the last has those of the next finer
        self.up = nnx.List([VGGStage(b, b, depth - 1, rngs=rngs, **options) for (_, b), depth in sizes])
        self.narrow = nnx.List([VGGStage(b, a, 1, rngs=rngs, **options) for (a, b), _ in sizes[1:]])
        self.head = Conv(config.width[0], out_features, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The map "fused" and the logit of its GM_r.

        Raises:
            ConfigError: the canvas is smaller than `SegNet.smallest_side`.
        """
        x, mask = images.x, images.mask
        check_canvas(mask, SegNet.smallest_side, len(DEPTHS))
        pooled = []
        for stage in self.down:
            x = stage(x, mask, deterministic=deterministic)
            pooled.append((place_of_maximum(x), mask))
            x, mask = max_pool(x), pooled_mask(mask)
        for i in reversed(range(len(DEPTHS))):
            place, finer = pooled[i]
            x = unpool(jnp.where(mask[..., None], x, 0), place, finer)
            mask = finer
            x = self.up[i](x, mask, deterministic=deterministic)
            if i:
                x = self.narrow[i - 1](x, mask, deterministic=deterministic)
        return output_of_pixels(self.head(x, mask), mask, self.r)


def place_of_maximum(x: Float[Array, "b h w c"]) -> Int[Array, "b i j c"]:
    """Which of each 2x2 window's values, row by row, is the highest; the first of equal ones."""
    h, w = 2 * (x.shape[1] // 2), 2 * (x.shape[2] // 2)
    four = jnp.stack([x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)])
    return jnp.argmax(jax.lax.stop_gradient(four), 0).astype(jnp.int8)


def unpool(
    x: Float[Array, "b i j c"], place: Int[Array, "b i j c"], to: Bool[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    """Each value at its place in a window of 2x2 zeros, in the canvas of `to`."""
    b, h, w, c = x.shape
    places = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    spread = jnp.where(place[:, :, None, :, None] == places, x[:, :, None, :, None], 0).reshape(b, 2 * h, 2 * w, c)
    return jnp.pad(spread, ((0, 0), (0, to.shape[1] - 2 * h), (0, to.shape[2] - 2 * w), (0, 0)))
