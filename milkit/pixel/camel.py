"""CAMEL's first stage: an image is cut into a lattice of cells, its instances, and one of them speaks in the loss.

CAMEL (Xu et al., ICCV 2019) trains two such classifiers of instances, and takes from each image the instances that they
name; `milkit.stages.camel` runs what follows. The loss of an image is that of one of its instances:
    - `max_max`: of the one with the highest logit, whatever the label. It finds the clearest positives, and in negative
      images what looks most like one.
    - `max_min`: of the highest in a positive image, of the lowest in a negative one.
With a lattice of 1 the image is its only instance, and both are ordinary supervised learning: so the same network is
the instance classifier of the second stage, and its weights fit a lattice of any size.

Image logits are the highest instance logit: labels are not known where models are used. The map paints each instance's
probability onto its cell.

Cells: row i of N holds the pixels floor(i h / N) to floor((i + 1) h / N) - 1 of an image of h pixels, and columns
likewise. So where N does not divide h, cells differ by one pixel. Cells are cut from the image's own pixels, never from
the canvas around it, and pass through the trunk as a batch: instances do not see each other (but through batch
normalisation while training, as any two images of a batch do).

Deviations:
    - Network: the default is a ResNet-18 from random weights (`backbone`, `weights`), a choice of this project.
    - With several labels, each has its own highest and lowest instance (the paper has one label).
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
from milkit.nn.images import image_sizes, masked
from milkit.nn.initialisers import linear
from milkit.pixel.cam import Backbone, mean_of_real
from milkit.pixel.efficientnet_lite import EfficientNetLite0
from milkit.pixel.on_trunk import OnTrunk
from milkit.pixel.resnet import ResNet
from milkit.types import Batch, Images, Output

Criterion = Literal["max_max", "max_min"]


@dataclass(frozen=True)
class CAMEL(OnTrunk):
    """A classifier of the cells of an image, learnt from image labels by the highest or the lowest of them."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    position_aware: ClassVar[bool] = True
    mirrored: ClassVar[bool] = False
    """Cells of one image may differ by a pixel, and the larger ones come last."""
    chunked: ClassVar[bool] = False

    criterion: Criterion = "max_max"
    """Which instance of an image speaks in the loss; see above."""
    lattice: int = 4  # a cell should be about as large as what is looked for
    """N: the image is cut into N x N cells."""
    backbone: Backbone = ResNet(18)
    """The trunk, whose features' mean over a cell is classified."""
    trunk_rate: float = 1.0
    """Learning rate of the trunk, as a share of the run's; 0.1 or less where it has weights already, 0 leaves them."""
    normalisation: Literal["training", "imagenet"] = "training"
    """How channels are standardised: by the training part, or as ImageNet's weights expect."""
    weights: str = ""
    """A `.safetensors` or `.npz` file, in the backbone's PyTorch naming, from which the trunk of each run starts."""

    def __post_init__(self) -> None:
        check_fields(self, "model", lattice="[1, 256]", trunk_rate="[0, inf)")

    @classmethod
    def from_scratch(cls, **changes: Any) -> "CAMEL":
        """The preset without weights: two stages of a ResNet-18 of a quarter of the channels; Adam at about 1e-3."""
        return replace(cls(backbone=ResNet(18, width=16, stages=2)), **changes)

    @classmethod
    def pretrained(cls, weights: str, **changes: Any) -> "CAMEL":
        """The preset with ImageNet's weights: EfficientNet-Lite0 to 1/16 of the resolution, at a tenth of the rate."""
        backbone = EfficientNetLite0(stages=4)
        return replace(cls(backbone=backbone, trunk_rate=0.1, normalisation="imagenet", weights=weights), **changes)

    @property
    def smallest_side(self) -> int:
        """The fewest pixels an image may have a side: each cell needs as many as the backbone."""
        return self.lattice * self.backbone.smallest_side

    def build(self, in_channels: int, out_features: int, *, rngs: nnx.Rngs) -> "CAMELClassifier":
        """Make the module for images of `in_channels` and `out_features` labels."""
        return CAMELClassifier(self, in_channels, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Array], Array]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The task's loss of the instance that the criterion names; it alone has a gradient.

        Raises:
            ConfigError: Max-Min of a task whose targets are no labels of 0 and 1, one a logit.
        """
        cells, real = output.extras["instance_logits"], output.extras["instances"]
        if self.criterion == "max_max":
            return bag_loss(extreme(cells, real, highest=True)), {}
        target = batch.target[:, None] if batch.target.ndim == 1 else batch.target
        if target.shape[1] != cells.shape[-1]:
            raise ConfigError(
                f"CAMEL's Max-Min needs a label of 0 or 1 for each of {cells.shape[-1]} logits, but the task has "
                f"{target.shape[1]} target a bag; take Binary() or MultiLabel(...)."
            )
        named = jnp.where(target > 0, extreme(cells, real, highest=True), extreme(cells, real, highest=False))
        return bag_loss(named), {}


class CAMELClassifier(nnx.Module):
    """Cells through a trunk, the mean over each cell, a linear layer."""

    def __init__(self, config: CAMEL, in_channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.lattice, self.smallest = config.lattice, config.smallest_side
        self.trunk = config.backbone.build(in_channels, rngs=rngs)
        self.head = linear(config.backbone.channels[-1], out_features, rngs=rngs)

    def __call__(self, images: Images, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Image logits and the map "fused"; `extras` has each cell's logits [b, N, N, c] and whether it is one.

        Raises:
            ConfigError: the canvas is too small for the lattice.
        """
        mask, n = images.mask, self.lattice
        if min(mask.shape[1:]) < self.smallest:
            raise ConfigError(
                f"Images of {mask.shape[1]} x {mask.shape[2]} pixels are too small for a lattice of {n} x {n}; it "
                f"needs at least {self.smallest} pixels a side. Take a smaller lattice."
            )
        cells = cells_of(images, n)
        logits = self.head(mean_of_real(*self.trunk(cells.x, cells.mask, deterministic=deterministic)[-1]))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)).reshape(len(mask), n, n, -1)
        real = cells.mask.any((1, 2)).reshape(len(mask), n, n)
        maps = {"fused": paint(jax.nn.sigmoid(logits), mask)}
        found = {"maps": maps, "instance_logits": logits, "instances": real}
        return Output(extreme(logits, real, highest=True), extras=found)


def extreme(logits: Float[Array, "b n n c"], real: Bool[Array, "b n n"], *, highest: bool) -> Float[Array, "b c"]:
    """The highest or lowest logit of an image's real cells, for each label; 0 for a filler, which has none.

    Of equal cells the first, row by row, speaks and gets the gradient: it is one instance that is looked at.
    """
    flat, there = logits.reshape(len(logits), -1, logits.shape[-1]), real.reshape(len(real), -1, 1)
    beyond = -jnp.inf if highest else jnp.inf
    ranked = jnp.where(there, flat, beyond)
    at = ranked.argmax(1) if highest else ranked.argmin(1)
    value = jnp.take_along_axis(flat, at[:, None], 1)[:, 0]
    return jnp.where(there.any(1), value, 0)


def edges(size: Int[Array, "b"], n: int) -> Int[Array, "b n_plus_1"]:
    """Where each of n cells of a line of `size` pixels begins, and where the last ends: floor(i size / n)."""
    return size[:, None] * jnp.arange(n + 1, dtype=jnp.int32) // n


def cells_of(images: Images, n: int) -> Images:
    """The n x n cells of each image as images of their own, [b n n, ceil(h / n), ceil(w / n), c], row by row.

    A cell that is smaller than the others stands in the top left of its canvas, as any smaller image does; the cells of
    a filler are all padding.
    """
    b, height, width, channels = images.x.shape
    size = image_sizes(images.mask)
    rows, row_real = _places(size[:, 0], n, -(-height // n))
    columns, column_real = _places(size[:, 1], n, -(-width // n))
    tall = jnp.take_along_axis(images.x, rows.reshape(b, -1, 1, 1), 1, mode="clip")
    both = jnp.take_along_axis(tall, columns.reshape(b, 1, -1, 1), 2, mode="clip")
    cells = both.reshape(b, n, rows.shape[2], n, columns.shape[2], channels).swapaxes(2, 3)
    mask = row_real[:, :, None, :, None] & column_real[:, None, :, None, :]
    shape = (b * n * n, rows.shape[2], columns.shape[2])
    mask = mask.reshape(shape)
    return Images(masked(cells.reshape(*shape, channels), mask), mask)


def _places(size: Int[Array, "b"], n: int, longest: int) -> tuple[Int[Array, "b n k"], Bool[Array, "b n k"]]:
    """Pixels of each cell along one side, and which of them are the cell's."""
    edge = edges(size, n)
    place = edge[:, :-1, None] + jnp.arange(longest, dtype=jnp.int32)
    return place, place < edge[:, 1:, None]


def paint(cells: Float[Array, "b n n c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
    """Each cell's value on all of its pixels; 0 on padding."""
    n, size = cells.shape[1], image_sizes(mask)

    def cell_of(length: int, sizes: Array) -> Array:
        inner = edges(sizes, n)[:, None, 1:-1]
        return (jnp.arange(length, dtype=jnp.int32)[:, None] >= inner).sum(-1, dtype=jnp.int32)

    rows, columns = cell_of(mask.shape[1], size[:, 0]), cell_of(mask.shape[2], size[:, 1])
    tall = jnp.take_along_axis(cells, rows[:, :, None, None], 1)
    return masked(jnp.take_along_axis(tall, columns[:, None, :, None], 2), mask)
