"""Training on each slide's top tiles (Campanella, Hanna, Geneslaw et al., Nature Medicine 25:1301, 2019; also Tsuneki,
Abe & Kanavati, Diagnostics 12:768, 2022, with batches that mix slides).

A classifier of single instances. Of each bag the `k` instances that score highest are taken as examples of the bag's
label: of a positive slide those that should be positive, of a negative one those nearest to a false alarm. The bag's
logit is the highest of its instances'.

With several logits each has its own `k` highest instances, as each is pooled by a maximum of its own, and all of them
are trained on the bag's label with the task's loss: what speaks most for a wrong class counts against it. (The papers
have two classes, and rank by the probability of the positive one.)

With one logit and k = 1 this has the gradient of a maximum over instances (`InstancePooling("max")`), for the loss of
the highest instance is the loss of the maximum. What is the papers' own is when tiles are chosen:

Deviations:
    - The papers alternate: all tiles are scored by a frozen network, then the chosen ones are trained on for an epoch.
      Here tiles are chosen at each step by the weights of that step, which are never older than the example; a bag
      costs a pass over all its instances at each step, which for features is cheap.
    - Tsuneki et al. put chosen tiles of all slides into a queue and take batches out of it, so that a batch mixes
      slides. Here an update sees the tiles of a step's bags: `train.batch_bags` mixes slides.
    - A network on features of a tile takes the place of a ResNet-34 (EfficientNet-B1) on its pixels. On small images
      `PatchCNN(TopTiles())` is trained end to end.
    - Campanella et al. weigh classes; here that is the task's. Their recurrent network over the top tiles of a slide,
      a second stage, is left out, as are Tsuneki et al.'s weights from another organ.
    - Dropout, if any, acts when tiles are ranked too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, Init, TopRows, linear, masked_max, over_instances
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class TopTiles:
    """A classifier of instances, trained on the highest of each bag with the bag's label."""

    claims: ClassVar[frozenset[str]] = frozenset({"standard"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1
    chunked: ClassVar[bool] = True

    k: int = 1  # Campanella et al.: a positive slide is sure of no more than one
    """How many instances of a bag are trained on; all of a smaller bag."""
    encoder: tuple[int, ...] = (512,)  # as `InstancePooling`
    """Widths of the layers before the classifier, each with ReLU; () classifies the features themselves."""
    dropout: float = 0.0  # the papers name none
    """Rate after each layer of the encoder."""
    init: Init = "torch"  # the authors' code is PyTorch

    def __post_init__(self) -> None:
        check_fields(self, "model", k="[1, inf)", encoder="[1, inf)", dropout="[0, 1)")
        if self.dropout and not self.encoder:
            raise ConfigError(f"dropout={self.dropout} acts after the encoder's layers, but encoder=() has none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "TopTilesModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return TopTilesModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Mean over the chosen instances of the task's loss, each with the bag's label; the part is "tiles".

        A loss that compares bags (Cox) compares the i-th highest of one with the i-th highest of the others, and a
        smaller bag's highest stands where it has no i-th.
        """
        logits, chosen = output.extras["top_logits"], output.extras["chosen"]
        losses = jax.vmap(jax.vmap(bag_loss, 1, 1), 2, 2)(logits)  # [b, s, k]
        total = jnp.where(chosen[:, None], losses, 0).sum((1, 2))
        tiles = total / (logits.shape[1] * jnp.maximum(chosen.sum(1), 1)).astype(total.dtype)
        return tiles, {"tiles": tiles}


class TopTilesModule(nnx.Module):
    """See `TopTiles`."""

    def __init__(self, config: TopTiles, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.k = config.k
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        self.classifier = linear(self.encoder.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits and instance logits; there is no attention and no bag embedding.

        `extras` are what `objective` needs: "top_logits" [b, c, k, c], all logits of the k instances that each logit
        is highest in, best first, and which of the k there are, "chosen" [b, k].
        """

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            logits = self.classifier(self.encoder(x, deterministic=deterministic, rngs=rngs))
            return ((logits, logits),), logits

        (top,), logits = over_instances(bags, encode, (TopRows(self.k),), rngs)
        chosen = jnp.arange(self.k) < bags.mask.sum(1)[:, None]
        # a loss that compares bags would read what stands in places that a bag does not have
        top = jnp.where(chosen[:, None, :, None], top, top[:, :, :1])
        return Output(
            masked_max(logits, bags.mask),
            instance_logits=jnp.where(bags.mask[..., None], logits, 0),
            extras={"top_logits": top, "chosen": chosen},
        )
