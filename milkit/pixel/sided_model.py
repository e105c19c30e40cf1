"""What the configurations of SA-MIL, DWS-MIL, CDWS-MIL and Baseline have in common: the trunk, its weights, learning
rates, and the generalised mean.

`pretrained` puts the papers' heads on an EfficientNet-Lite0, of which a package with ImageNet's weights exists. Its
rates are not the papers', which move a VGG at 1e-5 and the heads at a hundredth of that: heads and attention, which
nobody has trained, learn at the run's rate, and the trunk follows at a tenth.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn.images import ConvInit
from milkit.pixel.efficientnet_lite import EfficientNetLite0
from milkit.pixel.maps import image_label_loss
from milkit.pixel.resnet import ResNet
from milkit.pixel.sides import SIDES, Backbone, Head, SidedTrunk
from milkit.pixel.vgg import VGG, Width
from milkit.types import Batch, Output

Model = TypeVar("Model", bound="SidedModel")


@dataclass(frozen=True)
class SidedModel:
    """A trunk with a supervised map at its last stages."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False

    width: Width = (64, 128, 256)  # VGG-16
    """Channels of the three VGG stages."""
    backbone: EfficientNetLite0 | ResNet | None = None  # the papers': VGG
    """Another trunk in place of the VGG stages, of whose last three resolutions maps are made; `width`, `batch_norm`
    and `init` then mean nothing."""
    r: float | Literal["max"] = 4.0  # the papers'
    """Exponent of the generalised mean: 1 is the mean, "max" the maximum."""
    loss_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # the papers' loss is the sum
    """Of the losses of the fused map and the three side maps; a model of one map has the first."""
    batch_norm: bool = True
    init: ConvInit = "torch"  # the authors' code is PyTorch with defaults
    side_rate: float = 0.01  # the papers': a hundredth for the heads, which start untrained on trained features
    """Learning rate of the side heads, as a share of the run's."""
    trunk_rate: float = 1.0  # the papers'
    """Learning rate of the trunk, as a share of the run's; attention has the run's own. 0 leaves the trunk as it is, at
    a third of the time a step: it normalises by running statistics, and attention is read but not fed on."""
    statistics: Literal["batch", "running"] = "batch"
    """What the trunk's batch normalisation goes by in training. `running`: what it was loaded with, which then stays as
    it is; for few images or few steps, in which running statistics hardly follow."""
    normalisation: Literal["training", "imagenet"] = "training"
    """How channels are standardised: by the training part, or as ImageNet's weights expect."""
    weights: str = ""
    """A `.safetensors` or `.npz` file, in the trunk's PyTorch naming, from which the trunk of each run starts."""
    remat: bool = False
    """Compute each stage again for the gradient instead of keeping its features: less memory, about a third more
    time."""

    every_side: ClassVar[bool] = True
    """Whether maps are made of three resolutions, or of the last alone."""

    def __post_init__(self) -> None:
        some = "[0, inf)"
        check_fields(self, "model", width="[1, inf)", side_rate="(0, inf)", trunk_rate=some, loss_weights=some)
        if not any(self.loss_weights):
            raise ConfigError("model.loss_weights are all 0, so that nothing would be learned; make one of them 1.")
        needed = SIDES if self.every_side else 1
        if self.trunk.stages < needed:
            raise ConfigError(
                f"model.backbone has {self.trunk.stages} stages; maps are made of the last {needed}, so that many are "
                "needed at least."
            )

    @classmethod
    def from_scratch(cls: type[Model], width: Width = (16, 32, 64), **changes: Any) -> Model:
        """The preset without ImageNet's weights; train it with Adam at a rate of about 1e-3.

        The rate of 1e-5 fine-tunes; random filters would hardly move. Heads learn as fast as what is beneath them,
        since neither is trained. A quarter of VGG's channels are trained on two cores at 1/16 of the arithmetic.
        """
        return replace(cls(width=width, side_rate=1.0), **changes)

    @classmethod
    def pretrained(cls: type[Model], weights: str, **changes: Any) -> Model:
        """The preset with ImageNet's weights: EfficientNet-Lite0, maps at 1/4, 1/8 and 1/16 of the resolution.

        Train it with Adam at a rate of about 1e-3, which heads and attention have; the trunk has a tenth. With
        `trunk_rate=0` only they learn.
        """
        chosen: dict[str, Any] = {"backbone": EfficientNetLite0(stages=4), "side_rate": 1.0, "trunk_rate": 0.1}
        return cls(**{**chosen, "normalisation": "imagenet", "weights": weights, **changes})

    @property
    def trunk(self) -> Backbone:
        """The trunk's configuration."""
        return self.backbone or VGG(self.width, self.batch_norm, self.init)

    @property
    def pools(self) -> bool:
        """Whether features are pooled by 2 before a side output reads them: VGG's, as SA-MIL does."""
        return self.backbone is None

    @property
    def smallest_side(self) -> int:
        """The fewest pixels an image may have a side."""
        return self.trunk.smallest_side

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has."""
        return {"trunk": self.trunk_rate, "heads": self.side_rate}.get(path[0], 1.0)

    def load(self, module: SidedTrunk, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill the trunk with arrays in the naming that its configuration states; attention and heads stay.

        Raises:
            DataError: they do not fit.
        """
        self.trunk.load(module.trunk, arrays)

    def network(self, in_channels: int, out_features: int, head: Head, rngs: nnx.Rngs, **attention: Any) -> SidedTrunk:
        """The module with the papers' head on the trunk, and attention if any."""
        options: dict[str, Any] = {"remat": self.remat, "frozen": self.trunk_rate == 0, **attention}
        options["running"] = self.statistics == "running"
        return SidedTrunk(self.trunk, in_channels, out_features, head, rngs=rngs, **options)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Weighted sum over the fused and the side maps of the loss of their image probability."""
        return image_label_loss(output, batch, bag_loss, self.loss_weights)
