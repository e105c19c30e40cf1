"""Additive MIL (Javed et al., NeurIPS 2022, arXiv:2206.01794): a bag's logits are the sum of its instances' shares.

An instance is scaled by its attention and goes through a classifier of its own; the bag's logits are the sum of what
comes out. So nothing has to be guessed about which instance made a bag positive: `Output.instance_logits` are these
contributions, in logits, and they sum to `Output.logits` exactly (in floating point too: the logits are computed as
that sum). An attention weight says only how much of an instance is looked at; a contribution has a sign and a class.

What the sum does, in the paper and in the authors' code alike: a classifier with biases says something of an instance
that has no attention, and says it once an instance. So a bag's logits move by its size times that constant. It is
the method, not an error of the code, and it is kept; think of it where bags' sizes differ between hospitals.

Read in the authors' code (supplementary material of the paper): attention has layers with batch normalisation over all
instances of the batch and LeakyReLU(0.2), with neither tanh nor gate; the classifier has layers with ReLU.

Deviations:
    - The attention's last layer has no bias (a softmax takes it away), nor have layers that batch normalisation follows
      (which takes it away too). Authors' weights load with their biases taken off the running means.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import MLP, Init, linear, masked_softmax
from milkit.nn.images import BatchNorm
from milkit.types import Bags, Output

_SLOPE = 0.2
"""Of LeakyReLU in the authors' code."""


@dataclass(frozen=True)
class AdditiveMIL:
    """Each instance, scaled by its attention, contributes logits; the bag's are their sum."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Not `standard`: a contribution may be negative, and all share one softmax."""
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    attention: tuple[int, ...] = (256, 256)  # the authors' code as xMIL runs it
    """Widths of the attention's hidden layers."""
    classifier: tuple[int, ...] = (256, 256)  # likewise
    """Widths of the classifier's hidden layers; () makes a contribution linear in the scaled instance."""
    batch_norm: bool = True  # the authors' default
    """Whether batch normalisation follows each of the attention's hidden layers."""
    init: Init = "torch"  # the authors' code is PyTorch with defaults

    def __post_init__(self) -> None:
        check_fields(self, "model", attention="[1, inf)", classifier="[1, inf)")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "AdditiveMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return AdditiveMILModule(self, in_features, out_features, rngs=rngs)


class AdditiveMILModule(nnx.Module):
    """See `AdditiveMIL`."""

    def __init__(self, config: AdditiveMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        normal, sizes = config.batch_norm, (in_features, *config.attention)
        self.attention = nnx.List(
            [linear(a, b, rngs=rngs, init=config.init, use_bias=not normal) for a, b in pairwise(sizes)]
        )
        self.norms = nnx.List([BatchNorm(width) for width in config.attention if normal])
        self.score = linear(sizes[-1], 1, rngs=rngs, init=config.init, use_bias=False)
        self.hidden = MLP(in_features, config.classifier, rngs=rngs, init=config.init)
        self.classifier = linear(self.hidden.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention (one head) and the instances' contributions to the logits."""
        attention = masked_softmax(self.scores(bags.x, bags.mask, deterministic=deterministic), bags.mask)
        each = self.classifier(self.hidden(attention.astype(bags.x.dtype) * bags.x))
        # the sum is over a whole bag, of which every term may matter: not in half precision
        each = each.astype(jnp.promote_types(each.dtype, jnp.float32))
        each = jnp.where(bags.mask[..., None], each, 0)
        return Output(each.sum(1), attention=attention, instance_logits=each)

    def scores(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], *, deterministic: bool
    ) -> Float[Array, "b n 1"]:
        """What the softmax is taken of."""
        for i, layer in enumerate(self.attention):
            x = layer(x)
            if self.norms:  # a bag as a picture of one column
                x = self.norms[i](x[:, :, None], mask[:, :, None], deterministic=deterministic)[:, :, 0]
            x = jax.nn.leaky_relu(x, _SLOPE)
        return self.score(x)
