"""From side outputs to probability maps, from maps to image logits, and from these to the loss on image labels.

What the weakly supervised models share. A map travels as a pair (p, 1 - p), both computed from logits: close to 1
float32 has no numbers, and a map that is sure and wrong everywhere would stop learning if only p were kept.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from milkit.nn.generalised_mean import (
    generalised_mean,
    log_generalised_mean,
    log_probability,
    logit_of_log,
)
from milkit.nn.images import masked, resize
from milkit.types import Batch, Output

SigmoidAt = Literal["after", "before"]
"""Whether the sigmoid is taken after a side's logits are enlarged, or before."""


class Map(NamedTuple):
    """Probabilities of an image's pixels, and their complement.

    Attributes:
        p: probabilities [b, h, w, c]; 0 on padding.
        q: 1 - p; 0 on padding.
    """

    p: Array
    q: Array


def map_of_logits(
    logits: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    to: Bool[Array, "b i j"],
    sigmoid: SigmoidAt = "after",
) -> Map:
    """A side's logits at its own resolution, bilinearly enlarged (corners aligned) to the images' pixels `to`."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if sigmoid == "before":
        return Map(*(resize(jax.nn.sigmoid(z), mask, to) for z in (logits, -logits)))
    large = resize(logits, mask, to)
    return Map(*(masked(jax.nn.sigmoid(z), to) for z in (large, -large)))


def fused(sides: Sequence[Map], weights: Float[Array, "k"]) -> Map:
    """The sum of side maps with weights that sum to 1."""
    total: Map = jax.tree.map(lambda *k: sum(w * m for w, m in zip(weights, k, strict=True)), *sides)
    return total


def output_of(maps: Mapping[str, Map], mask: Bool[Array, "b h w"], r: float, root_only: bool = False) -> Output:
    """Image logits are those of GM_r of the map "fused".

    `extras`: "maps", the probabilities by name; "map_logits", each map's own image logits [b, c] by the same name.

    Args:
        maps: by name, "fused" among them.
        mask: True on real pixels.
        r: exponent of the generalised mean.
        root_only: take (mean p)^(1/r), without the power inside, as a re-implementation of CDWS-MIL does.
    """

    def pooled(m: Map) -> Float[Array, "b c"]:
        if root_only:
            return logit_of_log(log_generalised_mean(log_probability(m.p, m.q), mask, 1.0) / r, mask)
        return generalised_mean(m.p, mask, r, m.q)

    logits = {name: pooled(m) for name, m in maps.items()}
    return Output(logits["fused"], extras={"maps": {name: m.p for name, m in maps.items()}, "map_logits": logits})


def image_label_loss(
    output: Output, batch: Batch, bag_loss: Callable[[Array], Array], weights: Sequence[float] = ()
) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
    """The task's loss (binary cross-entropy) of each map's image probability, summed over maps; and each by name.

    Args:
        output: with "map_logits".
        batch: what it is of.
        bag_loss: of logits, one value an image.
        weights: of the maps in their order, at least one a map; () for 1.
    """
    parts = {name: bag_loss(logits) for name, logits in output.extras["map_logits"].items()}
    if weights:
        parts = {name: weight * values for (name, values), weight in zip(parts.items(), weights, strict=False)}
    return jnp.stack(list(parts.values())).sum(0), parts
