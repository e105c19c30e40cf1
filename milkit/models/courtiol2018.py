"""Chowder: the highest and the lowest instance scores of a bag, sorted, into a small network (Courtiol, Tramel,
Sanselme & Wainrib, 2018, arXiv:1802.02212).

Each instance gets a linear score. The `top` highest and the `bottom` lowest of a bag, sorted, are the input of a
network with sigmoids, so that negative evidence counts as well as positive.

Deviations:
    - The paper has one score and one output. For several logits each has a score of its own, and all go through the
      same network, as in the code of the authors' company (HistoSSLscaling).
    - A bag of fewer instances than `top` or `bottom` gives all of them, and 0 for those that it lacks. That code does
      so for padded bags, and raises an error where a batch's longest bag is that small; the paper is silent. An
      instance of a small bag can be among the highest and among the lowest.
    - The paper's penalty on the scores' weights is left to the optimiser's weight decay.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import Init, dropout_or_none, linear, over_instances
from milkit.types import Bags, Output


@dataclass(frozen=True)
class Chowder:
    """A network on a bag's extreme scores."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Not `standard`: the network may read a high score as it likes."""
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    top: int = 5  # the paper's best
    """How many of the highest scores are read."""
    bottom: int = 5  # the paper's best
    """How many of the lowest scores are read."""
    encoder: tuple[int, ...] = ()  # the paper's; the later code can have some
    """Widths of layers before the score, each with a sigmoid; () scores the features themselves."""
    head: tuple[int, ...] = (200, 100)  # the paper's
    """Widths of hidden layers on the extreme scores, each with a sigmoid."""
    dropout: float = 0.0  # the later code's, unless told
    """Rate after each hidden layer of the head."""
    init: Init = "torch"  # the later code is PyTorch with defaults

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", top="[0, inf)", bottom="[0, inf)", encoder=some, head=some, dropout="[0, 1)"
        )  # fmt: skip
        if not self.top + self.bottom:
            raise ConfigError("top=0 and bottom=0 leave no score to read; ask for at least one, such as top=5.")
        if self.dropout and not self.head:
            raise ConfigError(f"dropout={self.dropout} acts after the head's hidden layers, but head=() has none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "ChowderModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return ChowderModule(self, in_features, out_features, rngs=rngs)


class ChowderModule(nnx.Module):
    """See `Chowder`."""

    def __init__(self, config: Chowder, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.top, self.bottom = config.top, config.bottom

        def stack(*widths: int) -> list[nnx.Linear]:
            return [linear(a, b, rngs=rngs, init=config.init) for a, b in pairwise(widths)]

        self.scorer = nnx.List(stack(in_features, *config.encoder, out_features))
        self.head = nnx.List(stack(config.top + config.bottom, *config.head, 1))
        self.dropout = dropout_or_none(config.dropout)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, instance scores, and as embedding the extreme scores: of each logit the highest, then the lowest."""

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            *hidden, last = self.scorer
            for layer in hidden:
                x = jax.nn.sigmoid(layer(x))
            return (), last(x)

        # scores are few numbers an instance: those of a long bag are kept
        _, scores = over_instances(bags, encode, (), rngs)
        extremes = extreme_scores(scores, bags.mask, self.top, self.bottom)
        z: Array = extremes
        *hidden, last = self.head
        for layer in hidden:
            z = jax.nn.sigmoid(layer(z))
            if self.dropout is not None:
                z = self.dropout(z, deterministic=deterministic, rngs=rngs)
        return Output(
            last(z)[..., 0],
            instance_logits=jnp.where(bags.mask[..., None], scores, 0),
            embedding=extremes.reshape(extremes.shape[0], -1),
        )


def extreme_scores(
    scores: Float[Array, "b n c"], mask: Bool[Array, "b n"], top: int, bottom: int
) -> Float[Array, "b c k"]:
    """The `top` highest scores, best first, then the `bottom` lowest, lowest first; 0 for those a bag has not."""
    short = max(0, max(top, bottom) - scores.shape[1])
    scores = jnp.pad(scores, ((0, 0), (0, short), (0, 0))).swapaxes(1, 2)
    real = jnp.pad(mask, ((0, 0), (0, short)))[:, None]
    number = mask.sum(1)[:, None, None]

    def highest(values: Float[Array, "b c n"], k: int) -> Float[Array, "b c k"]:
        found = jax.lax.top_k(jnp.where(real, values, -jnp.inf), k)[0]
        return jnp.where(jnp.arange(k) < number, found, 0)

    return jnp.concatenate([highest(scores, top), -highest(-scores, bottom)], -1)
