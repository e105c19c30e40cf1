"""CAM and Grad-CAM: where a classifier of images looks, as the weak baseline of weakly supervised segmentation.

A trunk, the mean over pixels, one linear layer; trained on image labels alone. CAM (Zhou, Khosla, Lapedriza, Oliva &
Torralba, CVPR 2016, arXiv:1512.04150) applies the linear layer to each pixel's features instead of to their mean.
Grad-CAM (Selvaraju et al., ICCV 2017, arXiv:1610.02391) weighs the channels of any layer by the mean of the logit's
gradient, so that finer layers can be asked; of the last one it is CAM without bias, cut off at 0.

Maps are enlarged bilinearly to the image, and squashed into [0, 1] by one of two rules:
    - `sigmoid`: of the pixel's own logit w . f + b. The image's logit is their mean: 1/2 is where a pixel begins to
      speak for the label, and maps of different images are on one scale.
    - `max`: the part above 0 of w . f (Grad-CAM: of the weighted sum), divided by its maximum in the image, as both
      papers show it; times the image's probability, since else a negative image too would have a pixel of 1.
The threshold is chosen elsewhere, on validation labels.

Deviations: where a map is made of labels that are known, the literature sets those of absent labels to 0; labels are
never seen here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn.images import masked, resize
from milkit.nn.initialisers import linear
from milkit.pixel.conv_norm import Features
from milkit.pixel.efficientnet_lite import EfficientNetLite0
from milkit.pixel.on_trunk import OnTrunk
from milkit.pixel.resnet import ResNet
from milkit.types import Batch, Images, Output

Backbone = EfficientNetLite0 | ResNet


@dataclass(frozen=True)
class CAM(OnTrunk):
    """A classifier of images and its class activation map."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Not `standard`: the image's logit is a mean, which many negative pixels outvote."""
    position_aware: ClassVar[bool] = True
    chunked: ClassVar[bool] = False

    backbone: Backbone = ResNet(18)  # the usual choice for CAM
    """The trunk; fewer `stages` give finer maps of what is seen in less context."""
    method: Literal["cam", "grad_cam"] = "cam"
    stage: int = -1
    """Of which of the trunk's features Grad-CAM is taken; -1 is the last."""
    squash: Literal["sigmoid", "max"] = "sigmoid"
    """How activations become [0, 1]; see above. Grad-CAM has no scale of its own: `max` only."""
    trunk_rate: float = 1.0
    """Learning rate of the trunk, as a share of the run's; 0.1 or less where it has weights already. 0 leaves the trunk
    as it is, at a third of the time a step: it then normalises by running statistics."""
    normalisation: Literal["training", "imagenet"] = "training"
    """How channels are standardised: by the training part, or as ImageNet's weights expect."""
    weights: str = ""
    """A `.safetensors` or `.npz` file, in the backbone's PyTorch naming, from which the trunk of each run starts."""

    def __post_init__(self) -> None:
        check_fields(self, "model", trunk_rate="[0, inf)")
        if self.method == "grad_cam" and self.squash != "max":
            raise ConfigError("model.squash is 'sigmoid' with Grad-CAM, which has no scale of its own; write 'max'.")
        stages = self.backbone.stages
        if not -stages <= self.stage < stages:
            raise ConfigError(
                f"model.stage is {self.stage}; the backbone has stages 0 to {stages - 1}, or -1, the last."
            )

    @classmethod
    def from_scratch(cls, **changes: Any) -> "CAM":
        """The preset without weights: ResNet-18 of a quarter of the channels, to 1/8 of the resolution; Adam, 1e-3."""
        return replace(cls(backbone=ResNet(18, width=16, stages=2)), **changes)

    @classmethod
    def pretrained(cls, weights: str, **changes: Any) -> "CAM":
        """The preset with ImageNet's weights: EfficientNet-Lite0 to 1/16 of the resolution, at a tenth of the rate."""
        backbone = EfficientNetLite0(stages=4)
        return replace(cls(backbone=backbone, trunk_rate=0.1, normalisation="imagenet", weights=weights), **changes)

    @classmethod
    def grad_cam(cls, **changes: Any) -> "CAM":
        """Grad-CAM, of the last features unless `stage` says otherwise."""
        return cls(**{"method": "grad_cam", "squash": "max", **changes})

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "CAMClassifier":
        """Make the module for images of `in_channels` and `out_features` labels."""
        return CAMClassifier(self, in_channels, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The task's loss of the image's logits; the map has none."""
        return bag_loss(output.logits), {}


class CAMClassifier(nnx.Module):
    """A trunk, the mean over pixels, a linear layer."""

    def __init__(self, config: CAM, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.method, self.squash, self.seen = config.method, config.squash, config.stage
        self.frozen = config.trunk_rate == 0
        self.smallest = config.smallest_side
        self.trunk = config.backbone.build(in_channels, rngs=rngs)
        self.head = linear(config.backbone.channels[-1], out_features, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Image logits, and the map "fused".

        Raises:
            ConfigError: the canvas is smaller than the trunk can halve.
        """
        mask = images.mask
        if min(mask.shape[1:]) < self.smallest:
            raise ConfigError(
                f"Images of {mask.shape[1]} x {mask.shape[2]} pixels are too small for the backbone; it needs at least "
                f"{self.smallest} pixels a side."
            )
        features = self.trunk(images.x, mask, deterministic=deterministic or self.frozen)
        if self.frozen:
            features = jax.lax.stop_gradient(features)
        last, logits = features[-1], self._logits(features[-1])
        if self.method == "cam":
            kernel = self.head.kernel[...]
            activation, small = last[0] @ kernel.astype(last[0].dtype), last[1]
        else:
            activation, small = self._grad_cam(images)
        return Output(logits, extras={"maps": {"fused": self._squashed(activation, small, mask, logits)}})

    def _logits(self, features: Features) -> Float[Array, "b c"]:
        return self.head(mean_of_real(*features))

    def _grad_cam(self, images: Images) -> Features:
        """The features summed with the mean gradient of each logit as weights; always by running statistics."""
        stage = self.seen % len(self.trunk.stages)
        x, mask = images.x, images.mask
        for i in range(stage + 1):
            x, mask = self.trunk.stage(i, x, mask)

        def rest(x: Array) -> Array:
            at = (x, mask)
            for i in range(stage + 1, len(self.trunk.stages)):
                at = self.trunk.stage(i, *at)
            return self._logits(at)

        logits, back = jax.vjp(rest, x)
        of_each = jnp.eye(logits.shape[1], dtype=logits.dtype)[:, None].repeat(len(logits), 1)
        gradient = jax.vmap(lambda one: back(one)[0])(of_each)  # [label, b, h, w, channel]
        alpha = jax.vmap(lambda g: mean_of_real(g, mask))(gradient)
        return jnp.einsum("bhwd,cbd->bhwc", masked(x, mask), alpha), mask

    def _squashed(
        self, activation: Array, small: Array, mask: Bool[Array, "b h w"], logits: Float[Array, "b c"]
    ) -> Float[Array, "b h w c"]:
        large = resize(activation, small, mask, "half_pixel")
        if self.squash == "sigmoid":
            bias = self.head(jnp.zeros((1, self.head.in_features), large.dtype))[0]
            return masked(jax.nn.sigmoid(large + bias.astype(large.dtype)), mask)
        above = nnx.relu(large)
        highest = above.max((1, 2), keepdims=True)
        share = above / jnp.where(highest > 0, highest, 1)
        return share * jax.nn.sigmoid(logits.astype(large.dtype))[:, None, None]


def mean_of_real(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b c"]:
    """The mean over an image's real pixels, 0 without any; summed in float32 at least."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    total = masked(x, mask).astype(wide).sum((1, 2))
    return (total / jnp.maximum(mask.sum((1, 2)), 1)[:, None]).astype(x.dtype)
