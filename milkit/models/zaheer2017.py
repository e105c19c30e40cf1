"""Deep Sets on bags: encode each instance, add them up, classify the sum (Zaheer, Kottur, Ravanbakhsh, Poczos,
Salakhutdinov & Smola, NeurIPS 2017, arXiv:1703.06114).

Any function of a set is rho(sum of phi(x)) for some phi and rho (their theorem 2, for countable elements). Widths and
dropout are those of the survival baseline in the code of MCAT (Chen et al., ICCV 2021), whose arrays it is checked
against: one layer for phi, one for rho, ReLU and dropout after each, and a linear classifier.

A sum grows with the bag: how many instances there are is told apart, and a slide of tens of thousands gives numbers of
that size to the first layer of rho. `EmbeddingPooling("mean")` is the same network without it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, Init, Mean, linear, over_instances
from milkit.types import Bags, Output


@dataclass(frozen=True)
class DeepSets:
    """A network on the sum of encoded instances."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    encoder: tuple[int, ...] = (512,)  # MCAT's
    """Widths of phi, each with ReLU; () adds up the features themselves."""
    head: tuple[int, ...] = (256,)  # MCAT's
    """Widths of rho's hidden layers, each with ReLU."""
    dropout: float = 0.25  # MCAT's
    """Rate after each of these layers."""
    init: Init = "torch"  # MCAT's code is PyTorch with defaults

    def __post_init__(self) -> None:
        check_fields(self, "model", encoder="[1, inf)", head="[1, inf)", dropout="[0, 1)")
        if self.dropout and not self.encoder + self.head:
            raise ConfigError(f"dropout={self.dropout} acts after hidden layers, but encoder=() and head=() have none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "DeepSetsModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return DeepSetsModule(self, in_features, out_features, rngs=rngs)


class DeepSetsModule(nnx.Module):
    """See `DeepSets`."""

    def __init__(self, config: DeepSets, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        options: dict[str, Any] = {"rngs": rngs, "dropout": config.dropout, "init": config.init}
        self.encoder = MLP(in_features, config.encoder, **options)
        self.head = MLP(self.encoder.out_features, config.head, **options)
        self.classifier = linear(self.head.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the hidden layer before them, and of each instance the logits of a bag that holds it alone."""

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            h = self.encoder(x, deterministic=deterministic, rngs=rngs)
            return (h,), self.classifier(self.head(h))

        (mean,), alone = over_instances(bags, encode, (Mean(),), rngs)
        total = mean * bags.mask.sum(1, keepdims=True).astype(mean.dtype)
        embedding = self.head(total, deterministic=deterministic, rngs=rngs)
        return Output(
            self.classifier(embedding),
            instance_logits=jnp.where(bags.mask[..., None], alone, 0),
            embedding=embedding,
        )
