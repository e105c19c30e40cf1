"""SmoothABMIL: attention whose scores are alike in neighbouring tiles, by a term of the loss (Wu, Castro-Macias,
Morales-Alvarez, Molina & Katsaggelos, MICCAI 2023, arXiv:2307.09457, there SA-DMIL).

Attention pooling by the scores of a small network. The loss is bag_weight * bag + (1 - bag_weight) * roughness, where
the roughness is the Dirichlet energy of the bag's scores over the graph of tiles (`milkit.nn.smooth_scores`), of the
first or of the second order. At inference neighbours are not looked at.

The network, the graph and the energy are torchmil 1.0.2's (which has the first order only): a normalised Laplacian, and
the mean over instances. The paper's CT slices have a chain of slices for a graph and L = D - A.

Deviations:
    - Padding has no part in the roughness, nor in the number that it is divided by; torchmil masks neither.
    - A tile without neighbours has no roughness; in torchmil its own squared score (`compat="authors"`).
    - torchmil leaves the two losses' weights to the trainer (a sum, which has the direction of bag_weight=.5).
    - In the authors' first code the Laplacian has one more than each degree on its diagonal, so that scores also
      shrink. Not offered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, Init, linear, masked_softmax
from milkit.nn.running import weighted_sum
from milkit.nn.smooth import Edges, edges_of
from milkit.nn.smooth_scores import ScoreNet, roughness
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class SmoothABMIL:
    """Attention pooling with a loss on how rough the scores are over neighbouring tiles."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True

    bag_weight: float = 0.5  # the paper tries several; the weights that its authors published are of .5 and .9
    """Weight of the bag's loss, in (0, 1]; the rest is the roughness's."""
    order: Literal[1, 2] = 1  # torchmil's
    """Of the roughness: 1 compares neighbours, 2 the differences between them."""
    attention: int = 128  # torchmil's
    """Half the width of the network's layers."""
    encoder: tuple[int, ...] = ()  # torchmil's
    """Widths of the instance projection, each with ReLU; () takes the features themselves."""
    dropout: float = 0.0
    """Rate after each layer of the encoder."""
    neighbours: int = 8
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    init: Init = "torch"
    compat: Literal["correct", "authors"] = "correct"
    """Whether a tile without neighbours has no roughness, or its own squared score, as in torchmil."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", bag_weight="(0, 1]", attention=some, encoder=some, dropout="[0, 1)", neighbours=some,
            radius_um="(0, inf)",
        )  # fmt: skip
        if self.dropout and not self.encoder:
            raise ConfigError(f"dropout={self.dropout} acts after the encoder's layers, but encoder=() has none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "SmoothABMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return SmoothABMILModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss and the roughness, weighted; the parts are "bag" and "roughness", unweighted."""
        bag, rough = bag_loss(output.logits), output.extras["roughness"]
        return self.bag_weight * bag + (1 - self.bag_weight) * rough, {"bag": bag, "roughness": rough}


class SmoothABMILModule(nnx.Module):
    """See `SmoothABMIL`."""

    def __init__(self, config: SmoothABMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.count, self.radius_um, self.order = config.neighbours, config.radius_um, config.order
        self.keep_isolated = config.compat == "correct"
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        self.scorer = ScoreNet(self.encoder.out_features, config.attention, 1, rngs=rngs, init=config.init)
        self.classifier = linear(self.encoder.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention, the bag's embedding, and in `extras` the roughness of each bag, [b]."""
        edges = edges_of(bags, self.count, self.radius_um, model="SmoothABMIL", keep_isolated=self.keep_isolated)
        return self.over(bags.x, bags.mask, edges, deterministic=deterministic, rngs=rngs)

    def over(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        edges: Edges,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Output:
        """The same over a graph that is given, whatever its weights; also the "scores" in `extras`."""
        h = self.encoder(x, deterministic=deterministic, rngs=rngs)
        (scores,) = self.scorer(h)
        attention = masked_softmax(scores, mask)
        embedding = weighted_sum(attention, h)[:, 0]
        rough = roughness(scores, mask, edges, self.order)
        extras = {"roughness": rough, "scores": scores}
        return Output(self.classifier(embedding), attention, embedding=embedding, extras=extras)
