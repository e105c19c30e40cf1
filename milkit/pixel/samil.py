"""SA-MIL: weakly supervised segmentation by deep supervision and self-attention (Li, Qian, Han, Chang, Wei, Lai, Liao,
Fan & Xu, Medical Image Analysis 86:102791, 2023), and its baseline without either.

Three stages of VGG-16 with batch normalisation; after each, criss-cross attention twice with shared weights; pooling; a
1x1 convolution, enlarged to the image (corners aligned), through a sigmoid: a side map. The fused map is their
weighted mean. Each map's generalised mean is a probability of the image's label, and the loss is the sum of the four
binary cross-entropies.

The paper's recipe: 256 x 256 pixels, VGG weights of ImageNet, Adam, rate 1e-5 (side heads a hundredth of it), decay
5e-4, 4 images a step, 60 epochs, flips. `SAMIL.from_scratch()` is for training without those weights.

Deviations:
    - The generalised mean is worked in log space, so that maps that are 0 or 1 everywhere have gradients.
    - The published code takes the softmax of its attention over the wrong axis and counts each pixel twice;
      `compat="authors"` does so too.
    - The enlarged maps have the image's size, also where that is no multiple of 8 (torch's would be smaller).

Additions of ours: `attention="full"`, to a coarser map of the whole image; `fusion="learned"`; several labels an image.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Float

from milkit.fields import check_fields
from milkit.nn.criss_cross import Compat, CrissCross
from milkit.nn.images import ConvInit
from milkit.nn.pooled_attention import PooledAttention
from milkit.pixel.maps import image_label_loss
from milkit.pixel.sides import SMALLEST, Fusion, Head, SidedVGG, check_head, exponent
from milkit.pixel.vgg import Width
from milkit.types import Batch, Output


@dataclass(frozen=True)
class SAMIL:
    """VGG-16 stages with criss-cross attention and a supervised map at each."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = SMALLEST

    width: Width = (64, 128, 256)  # VGG-16
    """Channels of the three stages."""
    attention: Literal["criss_cross", "full", "none"] = "criss_cross"
    """`criss_cross`: the pixel's row and column. `full`: the whole image at an eighth of its resolution. `none`."""
    recurrences: int = 2  # the paper's R: after two every pixel has heard of every other
    """How often attention is applied, with the same weights; 0 is no attention."""
    compat: Compat = "correct"
    """`authors`: the attention as the published code computes it."""
    sides: bool = True
    """Whether every stage has a map of its own; without, the last one's is the only one."""
    r: float | Literal["max"] = 4.0  # the paper's
    """Exponent of the generalised mean: 1 is the mean, "max" the maximum."""
    fusion: Fusion = "fixed"  # the paper's
    fusion_weights: tuple[float, float, float] = (0.2, 0.35, 0.45)  # the paper's
    """Of the side maps in the fused one; where `fusion` is "learned", what they start from."""
    batch_norm: bool = True
    init: ConvInit = "torch"  # the authors' code is PyTorch with defaults
    side_rate: float = 0.01  # the paper's: a hundredth for the heads, which start untrained on trained features
    """Learning rate of the side heads, as a share of the run's."""
    remat: bool = False
    """Compute each stage again for the gradient instead of keeping its features: less memory, about a third more
    time."""

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)", recurrences="[0, 10]", side_rate="(0, inf)")
        check_head(self.r, self.fusion_weights)

    @classmethod
    def from_scratch(cls, width: Width = (16, 32, 64), **changes: Any) -> "SAMIL":
        """The preset without ImageNet's weights; train it with Adam at a rate of about 1e-3.

        The rate of 1e-5 fine-tunes; random filters would hardly move. Heads learn as fast as what is beneath them,
        since neither is trained. A quarter of VGG's channels are trained on two cores at 1/16 of the arithmetic.
        """
        return replace(cls(width=width, side_rate=1.0), **changes)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has."""
        return self.side_rate if path[0] == "heads" else 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> SidedVGG:
        """Make the module for images of `in_channels` and `out_features` labels."""
        head = Head(True, self.sides, "after", self.fusion_weights, self.fusion, exponent(self.r))
        times = self.recurrences if self.attention != "none" else 0
        attention = [self._attention(stage, c, rngs) for stage, c in enumerate(self.width)] if times else None
        return SidedVGG(
            in_channels,
            out_features,
            self.width,
            head,
            rngs=rngs,
            attention=attention,
            times=times,
            batch_norm=self.batch_norm,
            init=self.init,
            remat=self.remat,
        )

    def _attention(self, stage: int, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        if self.attention == "full":
            return PooledAttention(channels, halvings=3 - stage, rngs=rngs)
        return CrissCross(channels, rngs=rngs, compat=self.compat)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Sum over the fused and the side maps of the loss of their image probability."""
        return image_label_loss(output, batch, bag_loss)


@dataclass(frozen=True)
class Baseline:
    """The paper's baseline: the same three stages, one map from the last, no attention."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = SMALLEST

    width: Width = (64, 128, 256)  # VGG-16
    r: float | Literal["max"] = 4.0
    batch_norm: bool = True
    init: ConvInit = "torch"
    side_rate: float = 0.01
    remat: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)", side_rate="(0, inf)")
        check_head(self.r, (0.0, 0.0, 1.0))

    @classmethod
    def from_scratch(cls, width: Width = (16, 32, 64), **changes: Any) -> "Baseline":
        """See `SAMIL.from_scratch`."""
        return replace(cls(width=width, side_rate=1.0), **changes)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """See `SAMIL.learning_rate_scale`."""
        return self.side_rate if path[0] == "heads" else 1.0

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> SidedVGG:
        """Make the module for images of `in_channels` and `out_features` labels."""
        head = Head(True, False, "after", (1.0,), "fixed", exponent(self.r))
        options: dict[str, Any] = {"batch_norm": self.batch_norm, "init": self.init, "remat": self.remat}
        return SidedVGG(in_channels, out_features, self.width, head, rngs=rngs, **options)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The loss of the map's image probability."""
        return image_label_loss(output, batch, bag_loss)
