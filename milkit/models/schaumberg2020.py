"""A sum of 21 patches spread over the image (Schaumberg, Juarez-Nicanor, Choudhury et al., Modern Pathology 33:2169,
2020, doi:10.1038/s41379-020-0540-1).

An image of any size is read at 21 patches in an even grid, each becomes a vector of 100 numbers, and their sum stands
for the image. That it is a sum over a fixed number of patches makes images of any size comparable.

Which 21. A slide's tissue is no rectangle, so a grid would fall on glass. Instances are put in the order of a Z-curve
through their places (tiles that are near on the curve are near on the slide), or left in the order given where there
are no places (frames of a video), and those in the middle of 21 equal runs of that order are read: each instance at
most once, and as many from a region as it has tissue. There is nothing random in it. A bag of up to 21 instances is
read whole; its sum then has fewer terms.

Deviations:
    - The paper trains a ResNet-50 on single patches with their image's label and a random forest on the sums, beside
      hand-made features and what is known of the case. Here one layer with ReLU makes the 100 numbers from the features
      of each instance, and one linear layer reads the sum; both are trained together on the bag's label.
    - The paper's patches are a grid over a rectangular photograph, which they cover.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.fields import check_fields
from milkit.nn import MLP, Init, linear
from milkit.types import Bags, Output

CELLS = 1024
"""Places of a side that the Z-curve tells apart; a square of codes fits into 20 bits."""


@dataclass(frozen=True)
class SumOfPatches:
    """A linear classifier on the sum of a few encoded instances, spread evenly over the bag."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True
    min_instances: ClassVar[int] = 1

    patches: int = 21  # the paper's
    """How many instances are read."""
    width: int = 100  # the paper's
    """Numbers that each becomes."""
    init: Init = "torch"  # ours

    def __post_init__(self) -> None:
        check_fields(self, "model", patches="[1, inf)", width="[1, inf)")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "SumOfPatchesModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return SumOfPatchesModule(self, in_features, out_features, rngs=rngs)


class SumOfPatchesModule(nnx.Module):
    """See `SumOfPatches`."""

    def __init__(self, config: SumOfPatches, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.patches = config.patches
        self.encoder = MLP(in_features, (config.width,), rngs=rngs, init=config.init)
        self.classifier = linear(config.width, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits; the embedding is the sum; `extras["rows"]` says which instances were read, -1 for none."""
        rows = spread(bags.mask, bags.coords_um, self.patches)
        read = jnp.take_along_axis(bags.x, jnp.maximum(rows, 0)[..., None], 1)
        h = jnp.where((rows >= 0)[..., None], self.encoder(read), 0)
        embedding = h.sum(1, dtype=jnp.promote_types(h.dtype, jnp.float32))
        return Output(self.classifier(embedding), embedding=embedding, extras={"rows": rows})


def spread(mask: Bool[Array, "b n"], coords_um: Float[Array, "b n 2"] | None, count: int) -> Int[Array, "b k"]:
    """Rows of `count` instances spread evenly over each bag, -1 where it has fewer.

    Args:
        mask: True on real instances.
        coords_um: their places, or None to go by the order of the rows.
        count: how many.
    """
    if coords_um is None:
        order = jnp.argsort(~mask, axis=1, stable=True)
    else:
        xy = jnp.where(mask[..., None], coords_um, 0)
        # two tiles in one cell go by their places, so that the order of rows says nothing
        order = jnp.lexsort((xy[..., 0], xy[..., 1], z_code(xy, mask), ~mask), axis=1)
    n, i = mask.sum(1, keepdims=True), jnp.arange(count)
    middle = (2 * i + 1) * n // (2 * count)
    place = jnp.where(n <= count, i, middle)
    rows = jnp.take_along_axis(order, jnp.minimum(place, mask.shape[1] - 1), 1)
    return jnp.where(place < n, rows, -1)


def z_code(xy: Float[Array, "b n 2"], mask: Bool[Array, "b n"]) -> Int[Array, "b n"]:
    """Where an instance lies on a Z-curve through its bag's square: the bits of x and y in turn, y's first."""
    real = mask[..., None]
    low = jnp.where(real, xy, jnp.inf).min(1, keepdims=True)
    high = jnp.where(real, xy, -jnp.inf).max(1, keepdims=True)
    side = jnp.maximum((high - low).max(2, keepdims=True), jnp.finfo(xy.dtype).tiny)
    cell = jnp.where(real, jnp.floor((xy - low) / side * (CELLS - 1)), 0).astype(jnp.int32)
    code = jnp.zeros(mask.shape, jnp.int32)
    for bit in range(CELLS.bit_length() - 1):
        x, y = (cell[..., axis] >> bit & 1 for axis in (0, 1))
        code = code | x << 2 * bit | y << 2 * bit + 1
    return code
