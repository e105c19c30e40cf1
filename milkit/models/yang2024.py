"""MambaMIL: selective state-space layers over the bag as a sequence (Yang, Wang & Chen, MICCAI 2024, arXiv:2403.06800).

Instances are projected, h = act(linear(x)); layers h + Mamba(norm(h)) follow, a last layer norm, and attention pooling
without a gate; one linear layer classifies. `variant` is what a layer reads besides the instances in their order:
nothing ("mamba"), the same backwards with weights of its own ("bimamba"), or in strides, instances 0, r, 2r ... then 1,
r + 1 ... ("srmamba", the paper's own). Backwards and strides go by each bag's own length.

`compat="authors"` is their code to rounding. It differs in two things:
    - a bag that `rate` does not divide is filled up with zeros, which come to stand between instances in the strided
      order and, through the biases, change the state as if they were instances. By default there are none;
    - it starts the bias of the step size at 0, as it does all biases, where Mamba starts it so that steps lie between
      .001 and .1. By default it is Mamba's.

Deviations:
    - No bias in the attention's score: a softmax takes it away.
    - Kernels of linear layers start Glorot uniform, where the authors draw normals of the same variance; the step's is
      Mamba's.
    - `instance_logits` are the classifier's answer to each place of the sequence; the bag's logits are their mean,
      weighted by attention. They are ours.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import AttentionPool, dropout_or_none, linear
from milkit.nn.gelu import gelu
from milkit.nn.layer_norm import layer_norm
from milkit.nn.order import Order, as_given, backwards, strided
from milkit.nn.selective_scan import AT_ONCE, Mamba
from milkit.types import Bags, Output


@dataclass(frozen=True)
class MambaMIL:
    """Selective state-space layers over the instances in one or two orders, then attention pooling."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True  # an instance is read after those before it
    min_instances: ClassVar[int] = 1

    variant: Literal["mamba", "bimamba", "srmamba"] = "srmamba"  # the paper's
    """Whether instances are read in their order only, also backwards, or also in strides."""
    rate: int = 10  # the authors' code
    """Length of a stride, with variant="srmamba"."""
    layers: int = 2  # the authors' code
    """Layers, each with a residual connection."""
    width: int = 512  # the authors' code
    """Of the projected instances."""
    states: int = 16  # the authors' code, and Mamba's
    """Numbers of each channel's state."""
    kernel: int = 4  # the authors' code, and Mamba's
    """Instances that the convolution before a scan sees."""
    expand: int = 2  # the authors' code, and Mamba's
    """Channels of a scan, as a multiple of `width`."""
    attention: int = 128  # the authors' code
    """Width of the attention's hidden layer."""
    activation: Literal["relu", "gelu"] = "gelu"  # with which the authors' code was run for the arrays
    """After the projection; GELU in its exact form."""
    dropout: float = 0.25  # as S4MIL and CLAM
    """Rate after the projection."""
    compat: Literal["correct", "authors"] = "correct"
    """Whether zeros fill strides up and steps start long, as in the authors' code."""
    at_once: int = AT_ONCE
    """Numbers of the states of a chunk: bounds memory, changes no result."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", rate=some, layers=some, width=some, states=some, kernel=some, expand=some,
            attention=some, dropout="[0, 1)", at_once=some,
        )  # fmt: skip

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "MambaMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return MambaMILModule(self, in_features, out_features, rngs=rngs)


class MambaMILModule(nnx.Module):
    """See `MambaMIL`."""

    def __init__(self, config: MambaMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.activation, self.variant = config.activation, config.variant
        self.rate, self.gaps = config.rate, config.compat == "authors"
        self.encoder = linear(in_features, config.width, rngs=rngs, init="glorot")
        self.dropout = dropout_or_none(config.dropout)
        self.norms = nnx.List([layer_norm(config.width, rngs) for _ in range(config.layers)])
        self.layers = nnx.List(
            [
                Mamba(
                    config.width,
                    config.states,
                    kernel=config.kernel,
                    expand=config.expand,
                    scans=1 if config.variant == "mamba" else 2,
                    rngs=rngs,
                    step_starts_at_zero=config.compat == "authors",
                    at_once=config.at_once,
                )
                for _ in range(config.layers)
            ]
        )
        self.norm = layer_norm(config.width, rngs)
        self.pool = AttentionPool(config.width, config.attention, gated=False, rngs=rngs, init="glorot")
        self.classifier = linear(config.width, out_features, rngs=rngs, init="glorot")

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention, the pooled embedding, and the classifier's answer to each place of the sequence."""
        return self.read(self.stages(bags, deterministic=deterministic, rngs=rngs), bags.mask)

    def read(self, stages: dict[str, Float[Array, "b n e"]], mask: Bool[Array, "b n"]) -> Output:
        """What `stages` say of the bags."""
        h = stages["normed"]
        pooled, attention = self.pool(h, mask)
        embedding = pooled[:, 0]
        alone = jnp.where(mask[..., None], self.classifier(h), 0)
        return Output(self.classifier(embedding), attention, instance_logits=alone, embedding=embedding)

    def stages(
        self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> dict[str, Float[Array, "b n e"]]:
        """The projected instances ("encoded"), what each layer adds ("layer1" ...), and the last norm ("normed")."""
        act = jax.nn.relu if self.activation == "relu" else gelu
        h = act(self.encoder(bags.x))
        found = {"encoded": h}
        if self.dropout is not None:
            h = self.dropout(h, deterministic=deterministic, rngs=rngs)
        own = as_given(bags.mask)
        orders, h = self._orders(bags), own.read(h)
        there = own.rows[..., None] >= 0
        for i, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True), 1):
            more = layer(jnp.where(there, norm(h), 0), orders)
            found[f"layer{i}"] = own.undo(more)
            h = jnp.where(there, h + more, 0)
        return {**found, "normed": own.undo(self.norm(h))}

    def _orders(self, bags: Bags) -> list[Order | None]:
        count, n = bags.mask.sum(1), bags.mask.shape[1]
        if self.variant == "mamba":
            return [None]
        if self.variant == "bimamba":
            return [None, backwards(count, n)]
        return [None, strided(count, n, self.rate, gaps=self.gaps)]
