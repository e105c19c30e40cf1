"""SpatialSparse: a few tiles, chosen together with those around them, and gated attention over them alone.

Ours; no paper has it under this name. Reviews of the field read "SS-MIL" as spatial sparse MIL (the method of that
name, Tavolara et al. 2022, is self-supervised), so this is what the words say: a selector that is sparse over the bag
and smooth over the grid (`milkit.nn.spatial_sparse`, which can stand before any pooling), here before the attention of
Ilse et al. (2018). The selection is by 1.5-entmax (Peters et al. 2019) or of the k highest; the loss adds the Dirichlet
energy of the scores over the graph of neighbouring tiles (as in Wu et al. 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, AttentionPool, Init, linear
from milkit.nn.smooth import edges_of
from milkit.nn.smooth_scores import roughness
from milkit.nn.spatial_sparse import SpatialSparseSelector
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class SpatialSparse:
    """A sparse, smooth selection of tiles before gated attention."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})

    select: Literal["entmax", "topk"] = "entmax"
    """Whether as many tiles are kept as the scores say, or k."""
    k: int = 0
    """With select="topk", how many; all of a smaller bag."""
    smoothness: float = 0.1  # ours: a tenth of the bag's loss, at scores that differ by about 1
    """Weight of the scores' roughness in the loss; 0 looks at no places."""
    selector: int = 128
    """Width of the hidden layer under the selector's score."""
    encoder: tuple[int, ...] = (512,)  # as ABMIL's
    """Widths of the instance projection, each with ReLU; () takes the features themselves."""
    attention: int = 128  # as ABMIL's
    """Width of the attention's hidden layers."""
    gated: bool = True
    """Whether the attention is gated."""
    dropout: float = 0.0
    """Rate after each layer of the encoder."""
    neighbours: int = 8
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    init: Init = "torch"

    def __post_init__(self) -> None:
        some, any_size = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", k=any_size, smoothness=any_size, selector=some, encoder=some, attention=some,
            dropout="[0, 1)", neighbours=some, radius_um="(0, inf)",
        )  # fmt: skip
        if (self.select == "topk") != (self.k > 0):
            raise ConfigError(
                f"select={self.select!r} with k={self.k}: k is how many tiles select='topk' keeps, at least 1; "
                "select='entmax' keeps as many as it likes, with k=0."
            )
        if self.dropout and not self.encoder:
            raise ConfigError(f"dropout={self.dropout} acts after the encoder's layers, but encoder=() has none.")

    @property
    def position_aware(self) -> bool:
        """Whether places matter."""
        return self.smoothness > 0

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "SpatialSparseModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return SpatialSparseModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss and the weighted roughness; the parts are "bag" and "roughness", unweighted."""
        bag = bag_loss(output.logits)
        if "roughness" not in output.extras:
            return bag, {"bag": bag}
        rough = output.extras["roughness"]
        return bag + self.smoothness * rough, {"bag": bag, "roughness": rough}


class SpatialSparseModule(nnx.Module):
    """See `SpatialSparse`."""

    def __init__(self, config: SpatialSparse, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.count, self.radius_um, self.by_places = config.neighbours, config.radius_um, config.position_aware
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        width = self.encoder.out_features
        self.selector = SpatialSparseSelector(
            width, config.selector, rngs=rngs, select=config.select, k=config.k, init=config.init
        )
        self.pool = AttentionPool(width, config.attention, gated=config.gated, rngs=rngs, init=config.init)
        self.classifier = linear(width, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention (0 on tiles that are not kept) and embedding.

        `extras` has each instance's "share" in the selection, [b, n, 1], and the "roughness" of each bag, [b].
        """
        h = self.encoder(bags.x, deterministic=deterministic, rngs=rngs)
        selected = self.selector(h, bags.mask)
        pooled, attention = self.pool(selected.h, selected.kept)
        embedding, extras = pooled[:, 0], {"share": selected.share}
        if self.by_places:
            edges = edges_of(bags, self.count, self.radius_um, model="SpatialSparse(smoothness > 0)")
            extras["roughness"] = roughness(selected.scores, bags.mask, edges)
        return Output(self.classifier(embedding), attention, embedding=embedding, extras=extras)
