"""DWS-MIL and CDWS-MIL: deep weak supervision, and constrained by area (Jia, Huang, Chang & Xu, IEEE Transactions on
Medical Imaging 36:2376, 2017; arXiv:1701.00794).

A side map at each of three VGG stages, and their fusion; each map's generalised mean is the image's probability. CDWS
adds, for positive images, eta * (mean of the map - a)^2, where a is a rough fraction of positive pixels that whoever
labelled the image gave with the label.

Two forms: the paper's reads its side outputs before pooling and has no batch normalisation (`original()`); the
comparison in Li et al. (2023) pools first and normalises, and is SA-MIL without attention. That one is the default:
without ImageNet's weights a VGG without normalisation hardly trains, and a comparison with SA-MIL is then about
attention.

How the area is given, in order of what is looked at:
    - with each label: a `MultiLabel` target strictly between 0 and 1 is the fraction of pixels of that label, and the
      label is 1;
    - else `area`, one fraction for all positive images.

Deviations: log-space generalised mean. `compat="wesup"` pools by (mean p)^(1/r), without the power inside, as a public
re-implementation does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from milkit.fields import check_fields
from milkit.nn.images import ConvInit, masked
from milkit.pixel.maps import SigmoidAt, image_label_loss
from milkit.pixel.sides import SMALLEST, Fusion, Head, SidedVGG, check_head, exponent
from milkit.pixel.vgg import Width
from milkit.types import Batch, Output


@dataclass(frozen=True)
class DWSMIL:
    """VGG-16 stages with a supervised map at each."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = SMALLEST

    width: Width = (64, 128, 256)  # VGG-16
    """Channels of the three stages."""
    sides_at: Literal["pooled", "unpooled"] = "pooled"
    """Whether a side output reads its stage's features after pooling, at 1/2, 1/4 and 1/8 of the image's resolution, or
    before, at 1, 1/2 and 1/4."""
    sigmoid: SigmoidAt = "after"
    """Whether the sigmoid is taken after a side's logits are enlarged, or before."""
    r: float | Literal["max"] = 4.0  # both papers'
    """Exponent of the generalised mean: 1 is the mean, "max" the maximum."""
    fusion: Fusion = "fixed"
    fusion_weights: tuple[float, float, float] = (0.2, 0.35, 0.45)  # both papers'
    """Of the side maps in the fused one; where `fusion` is "learned", what they start from."""
    batch_norm: bool = True
    init: ConvInit = "torch"
    side_rate: float = 0.01
    """Learning rate of the side heads, as a share of the run's."""
    remat: bool = False
    """Compute each stage again for the gradient instead of keeping its features."""

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)", side_rate="(0, inf)")
        check_head(self.r, self.fusion_weights)

    @classmethod
    def original(cls, **changes: Any) -> "DWSMIL":
        """The paper's network: sides before pooling, no batch normalisation; for weights of ImageNet."""
        return replace(cls(sides_at="unpooled", sigmoid="before", batch_norm=False), **changes)

    @classmethod
    def from_scratch(cls, width: Width = (16, 32, 64), **changes: Any) -> "DWSMIL":
        """Without ImageNet's weights: a quarter of the channels, the heads at the full rate, about 1e-3 with Adam."""
        return replace(cls(width=width, side_rate=1.0), **changes)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has."""
        return self.side_rate if path[0] == "heads" else 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> SidedVGG:
        """Make the module for images of `in_channels` and `out_features` labels."""
        return _built(self, in_channels, out_features, rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Sum over the fused and the side maps of the loss of their image probability."""
        return image_label_loss(output, batch, bag_loss)


@dataclass(frozen=True)
class CDWSMIL:
    """DWS-MIL with an area constraint on the maps of positive images."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Not `standard`: how much of the image is positive enters its loss."""
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = SMALLEST

    width: Width = (64, 128, 256)  # VGG-16
    sides_at: Literal["pooled", "unpooled"] = "pooled"
    sigmoid: SigmoidAt = "after"
    r: float | Literal["max"] = 4.0
    fusion: Fusion = "fixed"
    fusion_weights: tuple[float, float, float] = (0.2, 0.35, 0.45)
    batch_norm: bool = True
    init: ConvInit = "torch"
    side_rate: float = 0.01
    remat: bool = False
    area: float = 0.5  # ours: rough; annotators are asked for tenths
    """Fraction of positive pixels, in [0, 1], of positive images whose own is not given with their label."""
    side_area_weights: tuple[float, float, float] = (2.5, 5.0, 10.0)  # the paper's
    """Weight eta of the constraint on each side map; all 0 is DWS-MIL."""
    fused_area_weight: float = 10.0  # the paper's
    compat: Literal["correct", "wesup"] = "correct"
    """`wesup`: image probabilities are (mean p)^(1/r), as a public re-implementation computes them."""

    def __post_init__(self) -> None:
        some = "[0, inf)"
        check_fields(
            self,
            "model",
            width="[1, inf)",
            side_rate="(0, inf)",
            area="[0, 1]",
            side_area_weights=some,
            fused_area_weight=some,
        )
        check_head(self.r, self.fusion_weights)

    @classmethod
    def original(cls, **changes: Any) -> "CDWSMIL":
        """See `DWSMIL.original`."""
        return replace(cls(sides_at="unpooled", sigmoid="before", batch_norm=False), **changes)

    @classmethod
    def from_scratch(cls, width: Width = (16, 32, 64), **changes: Any) -> "CDWSMIL":
        """See `DWSMIL.from_scratch`."""
        return replace(cls(width=width, side_rate=1.0), **changes)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """See `DWSMIL.learning_rate_scale`."""
        return self.side_rate if path[0] == "heads" else 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> SidedVGG:
        """Make the module for images of `in_channels` and `out_features` labels."""
        return _built(self, in_channels, out_features, rngs, root_only=self.compat == "wesup")

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Sum over maps of the loss of their image probability and of the area constraint; the mean over labels.

        Of the batch it reads the target and which pixels are real.
        """
        target, area = self._labels(batch.target)
        if area is None:
            loss, parts = image_label_loss(output, batch, bag_loss)
            area = jnp.full(target.shape, self.area)
        else:  # a fraction is no label: the task's loss would take it for a soft one
            loss, parts = image_label_loss(output, batch, lambda z: (jax.nn.softplus(z) - target * z).mean(-1))
        weights = {"fused": self.fused_area_weight}
        weights |= {f"side{i + 1}": eta for i, eta in enumerate(self.side_area_weights)}
        mask = batch.bags.mask
        count = jnp.maximum(mask.sum((1, 2)), 1)[:, None]
        for name, p in output.extras["maps"].items():
            mean = masked(p, mask).sum((1, 2)) / count
            parts[f"area_{name}"] = (weights[name] * target * jnp.square(mean - area)).mean(-1)
            loss = loss + parts[f"area_{name}"]
        return loss, parts

    def _labels(
        self, target: Int[Array, "b"] | Float[Array, "b c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b k"] | None]:
        """0 or 1 for each label, and the fraction of its pixels, None where targets cannot hold one."""
        if jnp.issubdtype(target.dtype, jnp.integer):
            return target[:, None].astype(jnp.float32), None
        given = (target > 0) & (target < 1)
        return (target > 0).astype(target.dtype), jnp.where(given, target, self.area)


def _built(config: DWSMIL | CDWSMIL, in_channels: int, out_features: int, rngs: nnx.Rngs, **more: Any) -> SidedVGG:
    head = Head(
        config.sides_at == "pooled",
        True,
        config.sigmoid,
        config.fusion_weights,
        config.fusion,
        exponent(config.r),
        **more,
    )
    options: dict[str, Any] = {"batch_norm": config.batch_norm, "init": config.init, "remat": config.remat}
    return SidedVGG(in_channels, out_features, config.width, head, rngs=rngs, **options)
