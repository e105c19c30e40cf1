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
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn.images import masked
from milkit.pixel.maps import SigmoidAt, image_label_loss
from milkit.pixel.sided_model import SidedModel
from milkit.pixel.sides import Fusion, Head, SidedTrunk, check_head, exponent
from milkit.types import Batch, Output

Model = TypeVar("Model", bound="DWSMIL")


@dataclass(frozen=True)
class DWSMIL(SidedModel):
    """VGG-16 stages, or another trunk, with a supervised map at each of the last three."""

    sides_at: Literal["pooled", "unpooled"] = "pooled"
    """Whether a side output reads its VGG stage's features after pooling, at 1/2, 1/4 and 1/8 of the image's
    resolution, or before, at 1, 1/2 and 1/4. Of a `backbone`, whose stages halve by themselves, features are read as
    they are."""
    sigmoid: SigmoidAt = "after"
    """Whether the sigmoid is taken after a side's logits are enlarged, or before."""
    fusion: Fusion = "fixed"
    fusion_weights: tuple[float, float, float] = (0.2, 0.35, 0.45)  # both papers'
    """Of the side maps in the fused one; where `fusion` is "learned", what they start from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_head(self.r, self.fusion_weights)
        if self.backbone is not None and self.sides_at == "unpooled":
            raise ConfigError(
                "model.sides_at is 'unpooled' with a backbone, whose stages halve by themselves; that is of VGG's "
                "stages (backbone=None). For finer maps take a backbone of fewer stages."
            )

    @classmethod
    def original(cls: type[Model], **changes: Any) -> Model:
        """The paper's network: sides before pooling, no batch normalisation; for weights of ImageNet."""
        return cls(**{"sides_at": "unpooled", "sigmoid": "before", "batch_norm": False, **changes})

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> SidedTrunk:
        """Make the module for images of `in_channels` and `out_features` labels."""
        pooled = self.pools and self.sides_at == "pooled"
        head = Head(
            pooled, True, self.sigmoid, self.fusion_weights, self.fusion, exponent(self.r), root_only=self._root_only
        )
        return self.network(in_channels, out_features, head, rngs)

    @property
    def _root_only(self) -> bool:
        return False


@dataclass(frozen=True)
class CDWSMIL(DWSMIL):
    """DWS-MIL with an area constraint on the maps of positive images."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Not `standard`: how much of the image is positive enters its loss."""

    area: float = 0.5  # ours: rough; annotators are asked for tenths
    """Fraction of positive pixels, in [0, 1], of positive images whose own is not given with their label."""
    side_area_weights: tuple[float, float, float] = (2.5, 5.0, 10.0)  # the paper's
    """Weight eta of the constraint on each side map; all 0 is DWS-MIL."""
    fused_area_weight: float = 10.0  # the paper's
    compat: Literal["correct", "wesup"] = "correct"
    """`wesup`: image probabilities are (mean p)^(1/r), as a public re-implementation computes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        some = "[0, inf)"
        check_fields(self, "model", area="[0, 1]", side_area_weights=some, fused_area_weight=some)

    @property
    def _root_only(self) -> bool:
        return self.compat == "wesup"

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Sum over maps of the loss of their image probability and of the area constraint; the mean over labels.

        Of the batch it reads the target and which pixels are real.
        """
        target, area = self._labels(batch.target)
        if area is None:
            loss, parts = image_label_loss(output, batch, bag_loss, self.loss_weights)
            area = jnp.full(target.shape, self.area)
        else:  # a fraction is no label: the task's loss would take it for a soft one

            def of_labels(z: Array) -> Float[Array, "b"]:
                return (jax.nn.softplus(z) - target * z).mean(-1)

            loss, parts = image_label_loss(output, batch, of_labels, self.loss_weights)
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
