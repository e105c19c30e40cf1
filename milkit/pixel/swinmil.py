"""Swin-MIL: transformer-based multiple instance learning for weakly supervised histopathology image segmentation (Qian,
Li, Lai, Chang, Wei, Fan & Xu, MICCAI 2022).

Swin-T; of each of its first three stages a 1x1 convolution, enlarged to the image (corners aligned), through a sigmoid:
a side map. The fused map is their weighted mean. Each map's generalised mean is a probability of the image's label, and
the loss is the sum of the four binary cross-entropies, as in SA-MIL.

The paper's recipe: 256 x 256 pixels, weights of ImageNet, Adam, rate 1e-6 (side heads 1e-9), 4 images a step.
`SwinMIL.from_scratch()` is for training without those weights, `SwinMIL.pretrained(file)` for training with them at
rates at which a few epochs are enough.

Deviations:
    - The trunk ends after its third stage; the fourth, which the published code also runs, is read by nothing.
    - Tokens that fill a map up to whole windows are not attended to; the published code attends to them, as
      `compat="authors"` does. The two are the same where each stage's map is a multiple of 7 tokens (112 x 112 pixels).
    - The generalised mean is worked in log space, so that maps that are 0 or 1 everywhere have gradients.
    - The enlarged maps have the image's size, also where that is no multiple of 16 (torch's would be larger).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from milkit.fields import check_fields
from milkit.nn.criss_cross import Compat
from milkit.nn.images import Conv
from milkit.pixel.maps import Map, fused, image_label_loss, map_of_logits, output_of
from milkit.pixel.sides import check_head, exponent
from milkit.pixel.swin import SwinTrunk, check_heads, load_trunk
from milkit.types import Batch, Images, Output

FOURTH = 2
"""Blocks of Swin-T's fourth stage, which no side reads."""


@dataclass(frozen=True)
class SwinMIL:
    """The first three stages of a Swin transformer with a supervised map at each."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False
    smallest_side: ClassVar[int] = 1
    mirrored: ClassVar[bool] = False
    """Windows begin in the top left corner."""

    channels: int = 96  # Swin-T
    """Of the first stage; the next two have twice and four times as many."""
    depths: tuple[int, int, int] = (2, 2, 6)  # Swin-T
    """Blocks of each stage."""
    heads: tuple[int, int, int] = (3, 6, 12)  # Swin-T: 32 channels each
    window: int = 7  # Swin-T
    """Tokens of 4 x 4 pixels a side of a window."""
    compat: Compat = "correct"
    """`authors`: attention to the filling of a map as in the published code."""
    drop_path: float = 0.2  # the published code's
    """Rate of stochastic depth at the end of the four stages; it rises linearly from 0."""
    r: float | Literal["max"] = 4.0  # the paper's
    """Exponent of the generalised mean: 1 is the mean, "max" the maximum."""
    fusion_weights: tuple[float, float, float] = (0.3, 0.4, 0.3)  # the paper's
    """Of the side maps in the fused one."""
    side_rate: float = 0.001  # the paper's: 1e-9 beside 1e-6
    """Learning rate of the side heads, as a share of the run's."""
    trunk_rate: float = 1.0  # the paper's
    """Learning rate of the trunk, as a share of the run's; 0 leaves it as it is, without stochastic depth, and spares
    the backward pass through it."""
    remat: bool = False
    """Compute each block again for the gradient instead of keeping its features."""
    normalisation: Literal["training", "imagenet"] = "training"
    """How channels are standardised: by the training part, or as ImageNet's weights expect."""
    weights: str = ""
    """A `.safetensors` or `.npz` file from which the trunk of each run starts, in the naming of the published code, of
    timm or of torchvision."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", channels=some, depths=some, heads=some, window="[2, 64]", drop_path="[0, 1)",
            side_rate="(0, inf)", trunk_rate="[0, inf)",
        )  # fmt: skip
        check_head(self.r, self.fusion_weights)
        check_heads([self.channels * 2**i for i in range(3)], self.heads)

    @classmethod
    def from_scratch(cls, channels: int = 24, **changes: Any) -> "SwinMIL":
        """The preset without ImageNet's weights; train it with Adam at a rate of about 1e-3.

        A quarter of Swin-T's channels, a third of its third stage, no stochastic depth (which is for long training of
        large networks), and heads that learn as fast as what is beneath them.
        """
        return replace(cls(channels=channels, depths=(2, 2, 2), side_rate=1.0, drop_path=0.0), **changes)

    @classmethod
    def pretrained(cls, weights: str, **changes: Any) -> "SwinMIL":
        """The preset with ImageNet's weights of Swin-T; train it with Adam at a rate of about 1e-3.

        That is the rate of the heads, which nobody has trained; the trunk has a twentieth, since a transformer's
        trained weights stand less than a convolutional network's.
        """
        chosen: dict[str, Any] = {"side_rate": 1.0, "trunk_rate": 0.05, "normalisation": "imagenet"}
        return cls(**{**chosen, "weights": weights, **changes})

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has."""
        return {"trunk": self.trunk_rate, "heads": self.side_rate}.get(path[0], 1.0)

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "SwinMILModule":
        """Make the module for images of `in_channels` and `out_features` labels."""
        return SwinMILModule(self, in_channels, out_features, rngs=rngs)

    def load(self, module: "SwinMILModule", arrays: Mapping[str, np.ndarray]) -> None:
        """Fill the trunk with arrays in the naming of the published code, of timm or of torchvision; heads stay.

        Raises:
            DataError: they do not fit.
        """
        load_trunk(module.trunk, arrays)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Sum over the fused and the side maps of the loss of their image probability."""
        return image_label_loss(output, batch, bag_loss)


class SwinMILModule(nnx.Module):
    """See `SwinMIL`."""

    def __init__(self, config: SwinMIL, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.weights, self.r, self.frozen = config.fusion_weights, exponent(config.r), config.trunk_rate == 0
        self.trunk = SwinTrunk(
            in_channels,
            config.channels,
            config.depths,
            config.heads,
            rngs=rngs,
            window=config.window,
            compat=config.compat,
            drop_path=config.drop_path,
            unread=FOURTH,
            remat=config.remat,
        )
        self.heads = nnx.List([Conv(c, out_features, 1, rngs=rngs) for c in self.trunk.widths])

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Maps "fused", "side1" to "side3", and the logit of the fused map's GM_r."""
        stages = self.trunk(images.x, images.mask, deterministic=deterministic or self.frozen, rngs=rngs)
        if self.frozen:
            stages = jax.lax.stop_gradient(stages)
        sides = [
            map_of_logits(head(x, mask), mask, images.mask) for head, (x, mask) in zip(self.heads, stages, strict=True)
        ]
        maps: dict[str, Map] = {"fused": fused(sides, jnp.asarray(self.weights))}
        return output_of(maps | {f"side{i + 1}": side for i, side in enumerate(sides)}, images.mask, self.r)
