"""Loss-based attention for deep MIL (Shi, Xing, Xie, Zhang, Cui & Yang, AAAI 2020).

Attention is tied to the classifier: an instance's weight is its share of sum over classes of exp(logit), so that it
attends to what the classifier is sure of, and the bag's logits are those of the weighted mean. A second loss trains the
instances on the bag's label, each weighted by its attention.

Read in the authors' code: one linear classifier for instances and bag; the second loss counts 2, and is divided by the
number of instances although the weights sum to 1 already. What encodes the instances is the user's affair in the paper;
the projection here is that of the ACMIL authors' copy (Zhang et al. 2024), whose arrays it is checked against.

Deviations:
    - The second loss is the weighted sum, sum a_i loss_i, as weights that sum to 1 mean it; the authors' further
      division by the number of instances, which makes it vanish for slides, is `compat="authors"`.
    - With one logit an instance's share is exp(logit): it attends to what speaks for the positive class. (The authors'
      two logits are `MultiClass`.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.fields import check_fields
from milkit.nn import linear, masked_softmax
from milkit.nn.projection import Projection
from milkit.nn.running import weighted_sum
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class LossAttention:
    """Attention that is the classifier's own confidence in each instance."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    width: int = 512  # ours, for patch embeddings; the authors' 500 are of MNIST
    """Of the projected instances."""
    instance_weight: float = 2.0  # the authors' code
    """What the instances' loss counts beside the bag's."""
    compat: Literal["correct", "authors"] = "correct"
    """`authors`: the instances' loss is divided by their number once more."""

    def __post_init__(self) -> None:
        check_fields(self, "model", width="[1, inf)", instance_weight="[0, inf)")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "LossAttentionModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return LossAttentionModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss, and its instances' with the bag's label, by attention."""
        assert output.attention is not None
        assert output.instance_logits is not None
        bag = bag_loss(output.logits)
        each = jax.vmap(bag_loss, 1, 1)(output.instance_logits)
        instances = (output.attention[..., 0] * each).sum(1)
        if self.compat == "authors":
            instances = instances / jnp.maximum(output.extras["instances"], 1).astype(instances.dtype)
        return bag + self.instance_weight * instances, {"bag": bag, "instances": instances}


class LossAttentionModule(nnx.Module):
    """See `LossAttention`."""

    def __init__(self, config: LossAttention, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.projection = Projection(in_features, config.width, rngs=rngs)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """All fields of `Output`; `extras["instances"]` is the number of each bag's."""
        h = self.projection(bags.x)
        each = jnp.where(bags.mask[..., None], self.classifier(h), 0)
        wide = each.astype(jnp.promote_types(each.dtype, jnp.float32))
        attention = masked_softmax(jax.nn.logsumexp(wide, axis=-1, keepdims=True), bags.mask)
        embedding = weighted_sum(attention, h)[:, 0]
        return Output(
            self.classifier(embedding),
            attention=attention,
            instance_logits=each,
            embedding=embedding,
            extras={"instances": bags.mask.sum(1)},
        )
