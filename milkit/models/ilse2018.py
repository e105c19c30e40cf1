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

Additions of ours:
    - `covariates`. "late" adds the logits of a head of its own on the covariates: what tissue and table say is a sum,
      as in a nomogram, and neither changes how the other is read. "concatenate" puts hidden layers on the embedding
      and the covariates together, so that one may change what the other means, as in the networks of Mobadersany et
      al. (2018, PNAS 115:E2970), which take genomic variables in beside what they see in the image. (Without hidden
      layers the two are one function: a linear layer on a concatenation is a sum.) Covariates are not given to every
      instance: being the same in all instances of a bag they cannot say which of them matters.
    - `sets`. Each feature set has an encoder and an attention of its own, and the sets' embeddings are concatenated.
      Averaging logits would be the same function up to its scale, as the classifier is linear, but there would be no
      embedding of the bag.
    - `head`: hidden layers between the bag's embedding and the classifier, as many slide-level networks have them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
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
    """Rate after each layer of the encoder (and of the head)."""
    init: Init = "torch"  # the authors' code is PyTorch with defaults
    covariates: Literal["none", "concatenate", "late"] = "none"
    """What is done with the cohort's covariates: "late" adds the logits of a head of their own; "concatenate" puts
    hidden layers on them and the bag's embedding together."""
    fusion_layers: tuple[int, ...] = (32,)  # ours: covariates are few, and so are patients
    """Widths of these hidden layers, each with ReLU: of the covariates' own head, or of the joint one."""
    sets: tuple[int, ...] = ()
    """Widths of the feature sets that lie side by side in an instance, each then with an encoder and an attention of
    its own; () reads them as one."""
    head: tuple[int, ...] = ()  # the paper's; MCAT's survival baseline, AMIL, has (256,) behind an encoder of (512,)
    """Widths of hidden layers on the bag's embedding, each with ReLU and the encoder's dropout."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self,
            "model",
            encoder=some,
            attention=some,
            heads=some,
            fusion_layers=some,
            sets=some,
            head=some,
            dropout="[0, 1)",
        )
        if self.dropout and not self.encoder + self.head:
            raise ConfigError(f"dropout={self.dropout} acts after the encoder's layers, but encoder=() has none.")
        if len(self.sets) == 1:
            raise ConfigError(f"sets={self.sets} is one feature set, which needs no sets; leave it ().")

    @property
    def takes_covariates(self) -> bool:
        """Whether it reads the cohort's covariates, and cannot do without."""
        return self.covariates != "none"

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs, covariates: int = 0) -> "ABMILModule":
        """Make the module for bags of `in_features`, beside them `covariates` numbers, and `out_features` logits."""
        if self.takes_covariates != bool(covariates):
            raise ConfigError(f"ABMIL(covariates={self.covariates!r}) is built for {covariates} covariates.")
        if self.sets and sum(self.sets) != in_features:
            raise ConfigError(
                f"ABMIL(sets={self.sets}) adds up to {sum(self.sets)} features, but an instance has {in_features}."
            )
        return ABMILModule(self, in_features, out_features, covariates, rngs=rngs)


class ABMILModule(nnx.Module):
    """See `ABMIL`."""

    def __init__(self, config: ABMIL, in_features: int, out_features: int, covariates: int = 0, *, rngs: nnx.Rngs):
        self.heads, self.fusion = config.heads, config.covariates
        widths = config.sets or (in_features,)
        self.ends = tuple(int(end) for end in np.cumsum(widths))
        encoders = [MLP(d, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init) for d in widths]
        pools = [
            AttentionPool(
                e.out_features, config.attention, heads=config.heads, gated=config.gated, rngs=rngs, init=config.init
            )
            for e in encoders
        ]
        # a single set keeps its names, by which weights are known
        self.encoder: Any = nnx.List(encoders) if config.sets else encoders[0]
        self.pool: Any = nnx.List(pools) if config.sets else pools[0]
        width = config.heads * sum(e.out_features for e in encoders)
        self.head = MLP(width, config.head, rngs=rngs, dropout=config.dropout if config.head else 0.0, init=config.init)
        width = self.head.out_features
        if self.fusion == "concatenate":
            self.joint = MLP(width + covariates, config.fusion_layers, rngs=rngs, init=config.init)
            width = self.joint.out_features
        self.classifier = linear(width, out_features, rngs=rngs, init=config.init)
        if self.fusion == "late":
            self.clinical = MLP(covariates, config.fusion_layers, rngs=rngs, init=config.init)
            # the classifier's bias is that of the sum
            self.clinical_classifier = linear(
                self.clinical.out_features, out_features, rngs=rngs, init=config.init, use_bias=False
            )

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """All fields of `Output`; an instance's logits are those of a bag that holds it alone."""
        several = isinstance(self.encoder, nnx.List)
        branches = list(zip(self.encoder, self.pool, strict=True)) if several else [(self.encoder, self.pool)]
        starts = (0, *self.ends[:-1])

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            parts = [x[..., a:z] for a, z in zip(starts, self.ends, strict=True)] if several else [x]
            hidden = [e(p, deterministic=deterministic, rngs=rngs) for (e, _), p in zip(branches, parts, strict=True)]
            scores = [pool.scores(h) for (_, pool), h in zip(branches, hidden, strict=True)]
            joined = self.head(jnp.concatenate([jnp.tile(h, self.heads) for h in hidden], -1))
            alone = self._embedding(joined, bags.covariates)
            pairs = tuple(zip(scores, hidden, strict=True))
            return pairs, (jnp.concatenate(scores, -1), self.classifier(alone))

        pooled, (scores, alone) = over_instances(bags, encode, (SoftmaxSum(),) * len(branches), rngs)
        flat = jnp.concatenate([p.reshape(p.shape[0], -1) for p in pooled], -1)
        embedding = self._embedding(self.head(flat, deterministic=deterministic, rngs=rngs), bags.covariates)
        logits = self.classifier(embedding)
        if self.fusion == "late":
            assert bags.covariates is not None
            beside = self.clinical_classifier(self.clinical(bags.covariates))
            logits, alone = logits + beside, alone + beside[:, None]
        return Output(
            logits,
            attention=masked_softmax(scores, bags.mask),
            instance_logits=jnp.where(bags.mask[..., None], alone, 0),
            embedding=embedding,
        )

    def _embedding(self, z: Float[Array, "b *m e"], covariates: Float[Array, "b v"] | None) -> Float[Array, "b *m f"]:
        """What the classifier reads: z, or a hidden layer on z and the covariates."""
        if self.fusion != "concatenate":
            return z
        assert covariates is not None
        beside = covariates if z.ndim == 2 else covariates[:, None]
        beside = jnp.broadcast_to(beside, (*z.shape[:-1], covariates.shape[-1]))
        return self.joint(jnp.concatenate([z, beside.astype(z.dtype)], -1))
