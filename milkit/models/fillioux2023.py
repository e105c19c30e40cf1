"""S4MIL: a structured state-space model reads the bag as a sequence (Fillioux et al., MICCAI 2023, arXiv:2306.15789).

Instances are projected, h = act(linear(x)), normalised, and read in their order by one diagonal state-space layer
(`milkit.nn.state_space`); the maximum of each feature over the sequence is classified by one linear layer. There is no
residual connection, and one direction only: an instance knows those before it.

Read in code: width 512, 32 state dimensions, ReLU or GELU after the projection, dropout there and nowhere else. For
survival that code returns hazards sigmoid(logits) and their product of complements, which are the loss's matter here.

Deviations:
    - The layer's parameters are trained as all others are; its authors take them out of the weight decay.
    - Powers of the transition are products of two tables (see `milkit.nn.state_space`): equal to rounding.
    - `instance_logits` are the classifier's answer to a place of the sequence alone; the bag's features are maxima over
      these places. They are ours.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import dropout_or_none, linear, masked_max
from milkit.nn.gelu import gelu
from milkit.nn.layer_norm import layer_norm
from milkit.nn.order import as_given
from milkit.nn.state_space import AT_ONCE, DiagonalStateSpace
from milkit.types import Bags, Output


@dataclass(frozen=True)
class S4MIL:
    """A diagonal state-space layer over the instances in their order, then the maximum of each feature."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True  # an instance is read after those before it
    min_instances: ClassVar[int] = 1

    width: int = 512  # the code read
    """Of the projected instances."""
    states: int = 32  # the code read
    """Real dimensions of each channel's state, an even number."""
    activation: Literal["relu", "gelu"] = "relu"
    """After the projection; GELU in its exact form."""
    dropout: float = 0.25  # the code's own example
    """Rate after the projection."""
    at_once: int = AT_ONCE
    """Numbers that a Fourier transform takes at a time: bounds its memory, changes no result."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(self, "model", width=some, states="[2, inf)", dropout="[0, 1)", at_once=some)
        if self.states % 2:
            raise ConfigError(f"states={self.states} are pairs of real and imaginary parts; choose an even number.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "S4MILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return S4MILModule(self, in_features, out_features, rngs=rngs)


class S4MILModule(nnx.Module):
    """See `S4MIL`."""

    def __init__(self, config: S4MIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.encoder = linear(in_features, config.width, rngs=rngs)
        self.dropout = dropout_or_none(config.dropout)
        self.norm = layer_norm(config.width, rngs)
        self.sequence = DiagonalStateSpace(config.width, config.states, rngs=rngs, at_once=config.at_once)
        self.classifier = linear(config.width, out_features, rngs=rngs)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the maxima, and what the classifier says of each place of the sequence."""
        return self.read(self.stages(bags, deterministic=deterministic, rngs=rngs), bags.mask)

    def read(self, stages: dict[str, Float[Array, "b n e"]], mask: Bool[Array, "b n"]) -> Output:
        """What `stages` say of the bags."""
        pooled = masked_max(stages["states"], mask)
        alone = jnp.where(mask[..., None], self.classifier(stages["states"]), 0)
        return Output(self.classifier(pooled), instance_logits=alone, embedding=pooled)

    def stages(
        self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> dict[str, Float[Array, "b n e"]]:
        """The projected instances ("encoded") and what the sequence is at each ("states", 0 on padding)."""
        act = jax.nn.relu if self.activation == "relu" else gelu
        encoded = h = act(self.encoder(bags.x))
        if self.dropout is not None:
            h = self.dropout(h, deterministic=deterministic, rngs=rngs)
        order = as_given(bags.mask)
        return {"encoded": encoded, "states": order.undo(self.sequence(order.read(self.norm(h))))}
