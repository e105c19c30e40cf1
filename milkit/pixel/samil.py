"""SA-MIL: weakly supervised segmentation by deep supervision and self-attention (Li, Qian, Han, Chang, Wei, Lai, Liao,
Fan & Xu, Medical Image Analysis 86:102791, 2023), and its baseline without either.

Three stages of VGG-16 with batch normalisation; after each, criss-cross attention twice with shared weights; pooling; a
1x1 convolution, enlarged to the image (corners aligned), through a sigmoid: a side map. The fused map is their
weighted mean. Each map's generalised mean is a probability of the image's label, and the loss is the sum of the four
binary cross-entropies.

The paper's recipe: 256 x 256 pixels, VGG weights of ImageNet, Adam, rate 1e-5 (side heads a hundredth of it), decay
5e-4, 4 images a step, 60 epochs, flips. `SAMIL.from_scratch()` is for training without those weights,
`SAMIL.pretrained(file)` puts the same heads and attention on an EfficientNet-Lite0 that has them.

Deviations:
    - The generalised mean is worked in log space, so that maps that are 0 or 1 everywhere have gradients.
    - The published code takes the softmax of its attention over the wrong axis and counts each pixel twice;
      `compat="authors"` does so too.
    - The enlarged maps have the image's size, also where that is no multiple of 8 (torch's would be smaller).

Additions of ours: other trunks (`backbone`); `attention="full"`, to a coarser map of the whole image;
`fusion="learned"`; several labels an image.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from flax import nnx

from milkit.fields import check_fields
from milkit.nn.criss_cross import Compat, CrissCross
from milkit.nn.pooled_attention import PooledAttention
from milkit.pixel.sided_model import SidedModel
from milkit.pixel.sides import SIDES, Fusion, Head, SidedTrunk, check_head, exponent


@dataclass(frozen=True)
class SAMIL(SidedModel):
    """VGG-16 stages, or another trunk, with criss-cross attention and a supervised map at each of the last three."""

    attention: Literal["criss_cross", "full", "none"] = "criss_cross"
    """`criss_cross`: the pixel's row and column. `full`: the whole image, after three poolings by 2 (of a `backbone`:
    pooled to about the last stage's resolution). `none`."""
    recurrences: int = 2  # the paper's R: after two every pixel has heard of every other
    """How often attention is applied, with the same weights; 0 is no attention."""
    compat: Compat = "correct"
    """`authors`: the attention as the published code computes it."""
    sides: bool = True
    """Whether every stage has a map of its own; without, the last one's is the only one."""
    fusion: Fusion = "fixed"  # the paper's
    fusion_weights: tuple[float, float, float] = (0.2, 0.35, 0.45)  # the paper's
    """Of the side maps in the fused one; where `fusion` is "learned", what they start from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "model", recurrences="[0, 10]")
        check_head(self.r, self.fusion_weights)

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> SidedTrunk:
        """Make the module for images of `in_channels` and `out_features` labels."""
        head = Head(self.pools, self.sides, "after", self.fusion_weights, self.fusion, exponent(self.r))
        times = self.recurrences if self.attention != "none" else 0
        channels = self.trunk.channels[-SIDES:] if times else ()
        attention = [self._attention(i, c, rngs) for i, c in enumerate(channels)]
        return self.network(in_channels, out_features, head, rngs, attention=attention, times=times)

    def _attention(self, stage: int, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        if self.attention == "full":
            halvings = SIDES - stage - (0 if self.backbone is None else 1)
            return PooledAttention(channels, halvings=halvings, rngs=rngs)
        return CrissCross(channels, rngs=rngs, compat=self.compat)


@dataclass(frozen=True)
class Baseline(SidedModel):
    """The paper's baseline: the same trunk, one map from its last stage, no attention."""

    every_side: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_head(self.r, (0.0, 0.0, 1.0))

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> SidedTrunk:
        """Make the module for images of `in_channels` and `out_features` labels."""
        head = Head(self.pools, False, "after", (1.0,), "fixed", exponent(self.r))
        return self.network(in_channels, out_features, head, rngs)
