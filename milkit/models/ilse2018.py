"""ABMIL: attention-based deep multiple-instance learning (Ilse, Tomczak & Welling, ICML 2018,
arXiv:1802.04712).

Instances are encoded, h = encoder(x); weighted, a = softmax(w' (tanh(V h) * sigmoid(U h))); summed, z = sum a
h; and one linear layer gives the bag's logits.

Presets of the paper:
    classic sets (MUSK ... Elephant): `ABMIL(encoder=(256, 128, 64), attention=64)`, `gated` for the gated
    rows of Table 1. From memory of the paper's appendix, to be checked: dropout after each of the three
    layers. MNIST bags: a LeNet to 500 features, `attention=128` (a pixel encoder; not in this file).

Deviations:
    - w has no bias: a softmax takes it away. Authors' weights load without it (see the parity test).
    - The paper's equations have no biases in V and U; its code has, and so has this.
    - `heads` > 1 concatenates the heads' embeddings. The authors' code has the option but fails for it.
    - The authors train on clamped probabilities; milkit's losses work on logits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, AttentionPool, Init, SoftmaxSum, linear, masked_softmax, over_instances
from milkit.types import Bags, Output


@dataclass(frozen=True)
class ABMIL:
    """(Gated-)attention pooling over projected instances."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Not `standard`: attention can move to an instance that speaks against the class (Raff & Holt 2023)."""
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    encoder: tuple[int, ...] = (512,)  # as CLAM and MIL-Lab project patch embeddings
    """Widths of the instance projection, each with ReLU; () pools the features themselves."""
    attention: int = 128  # the paper's for images; 64 on the classic sets
    """Width of V and U."""
    gated: bool = True  # what slide-level work uses; the paper's own results do not tell the two apart
    """Whether tanh(V h) is gated by sigmoid(U h)."""
    heads: int = 1
    """Attention heads; their embeddings are concatenated."""
    dropout: float = 0.0  # the authors' image code has none; CLAM uses .25
    """Rate after each layer of the encoder."""
    init: Init = "torch"  # the authors' code is PyTorch with defaults

    def __post_init__(self) -> None:
        check_fields(self, "model", encoder="[1, inf)", attention="[1, inf)", heads="[1, inf)", dropout="[0, 1)")
        if self.dropout and not self.encoder:
            raise ConfigError(f"dropout={self.dropout} acts after the encoder's layers, but encoder=() has none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "ABMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return ABMILModule(self, in_features, out_features, rngs=rngs)


class ABMILModule(nnx.Module):
    """See `ABMIL`."""

    def __init__(self, config: ABMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        width = self.encoder.out_features
        self.pool = AttentionPool(
            width, config.attention, heads=config.heads, gated=config.gated, rngs=rngs, init=config.init
        )
        self.classifier = linear(width * config.heads, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """All fields of `Output`; an instance's logits are those of a bag that holds it alone."""

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            h = self.encoder(x, deterministic=deterministic, rngs=rngs)
            scores = self.pool.scores(h)
            return ((scores, h),), (scores, self.classifier(jnp.tile(h, self.heads)))

        (pooled,), (scores, alone) = over_instances(bags, encode, (SoftmaxSum(),), rngs)
        embedding = pooled.reshape(pooled.shape[0], -1)
        return Output(
            self.classifier(embedding),
            attention=masked_softmax(scores, bags.mask),
            instance_logits=jnp.where(bags.mask[..., None], alone, 0),
            embedding=embedding,
        )
