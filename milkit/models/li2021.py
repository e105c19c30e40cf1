"""DSMIL: dual-stream multiple-instance learning (Li, Li & Eliceiri, CVPR 2021, arXiv:2011.08939).

One stream scores every instance linearly; a class's highest score is its critical instance. The other attends: an
instance's weight for a class is a softmax over instances of q(h) . q(h_critical) / sqrt(width), the weighted sum of
values is the class's embedding, and one linear layer over the embeddings of all classes gives the bag's logits. The bag
is trained on half the loss of the critical instances' scores and half that of the attending stream.

Several criticals stand side by side, one a logit; the embedding is that of all of them, end to end. With the
discrete-time survival task a critical instance belongs to a time bin, which the paper does not speak of.

Deviations:
    - The bag's logits are the mean of both streams', as in the paper (section 3.2, the last equation). The authors'
      training scripts answer with the attending stream alone; `compat="authors"` does so too. The loss is the same.
    - The paper has queries and values as linear maps, q = W h and v = W h. The authors' code, from which its numbers
      come, has two layers (ReLU, then tanh) for queries and the features themselves for values, and so has this;
      `query_layers=1` and `values` are there for other choices (values in the authors' code end in a ReLU).
    - The loss of each stream is the task's. The authors take binary cross-entropy of every class.
    - Of equal scores the first instance is critical (the authors' sort leaves it open).

In other libraries: torchmil 1.0.2 chooses the critical instance without the mask and adds the two losses (its arrays
agree). MIL-Lab has linear values and a LayerNorm on the embeddings, and one loss, of the streams' mean. Owkin's has
one layer for all classes alike instead of mixing them, and no division by sqrt(width). These are not offered.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import (
    MLP,
    Init,
    LongBags,
    SoftmaxSum,
    TopRows,
    dropout_or_none,
    linear,
    masked_max,
    masked_softmax,
    over_instances,
)
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class DSMIL:
    """A maximum over instances beside attention to the instance that has it."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """Not `standard`: what attention pools can speak against the class."""
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    encoder: tuple[int, ...] = ()  # the authors' features come from an encoder of their own
    """Widths of layers before both streams, each with ReLU; () takes the features themselves."""
    query: int = 128  # the authors'
    """Width of the queries."""
    query_layers: Literal[1, 2] = 2  # the authors'; the paper's equation has 1
    """1: a linear map. 2: linear, ReLU, linear, tanh."""
    values: int = 0  # the authors'
    """Width of the values, ReLU(W h); 0 takes the features (or the encoder's) themselves."""
    dropout: float = 0.0  # the authors'
    """Rate after each layer of the encoder, and before the values' layer."""
    compat: Literal["correct", "authors"] = "correct"
    """"authors": the attending stream alone answers."""
    init: Init = "torch"  # the authors' code is PyTorch with defaults

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(self, "model", encoder=some, query=some, values="[0, inf)", dropout="[0, 1)")
        if self.dropout and not (self.encoder or self.values):
            raise ConfigError(
                f"dropout={self.dropout} acts after the encoder's layers and before the values', but encoder=() and "
                "values=0 have none."
            )

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "DSMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return DSMILModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Half the loss of each stream; the parts are "bag" (the attending one) and "critical", unweighted."""
        parts = {name: bag_loss(output.extras[f"{name}_logits"]) for name in ("bag", "critical")}
        return 0.5 * parts["bag"] + 0.5 * parts["critical"], parts


class DSMILModule(nnx.Module):
    """See `DSMIL`."""

    def __init__(self, config: DSMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.averages = config.compat == "correct"
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        width = self.encoder.out_features
        self.scorer = linear(width, out_features, rngs=rngs, init=config.init)
        widths = (config.query,) * config.query_layers
        self.queries = nnx.List(
            [linear(a, b, rngs=rngs, init=config.init) for a, b in zip((width, *widths), widths, strict=False)]
        )
        self.values = linear(width, config.values, rngs=rngs, init=config.init) if config.values else None
        self.dropout = dropout_or_none(config.dropout if config.values else 0.0)
        self.classifier = linear(out_features * (config.values or width), out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention (one head a logit), instance scores, and the embeddings of all logits end to end.

        `extras` are the two streams, [b, c] each: "bag_logits" of what was attended to, "critical_logits" of the
        highest scores.
        """
        key = None if rngs is None or deterministic else rngs.dropout()

        def draws() -> nnx.Rngs | None:
            """The same ones in both passes over the instances, so that they see the same encoding."""
            return None if key is None else nnx.Rngs(dropout=key)

        def encoded(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> Float[Array, "b m e"]:
            return self.encoder(x, deterministic=deterministic, rngs=rngs)

        encode: Callable[[Array, nnx.Rngs | None], Array] = encoded
        if not isinstance(bags, LongBags):  # what fits is encoded once
            bags = replace(bags, x=encoded(bags.x, rngs))
            encode = _as_it_is

        def score(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            h = encode(x, rngs)
            scores = self.scorer(h)
            return ((scores, h),), scores

        (critical,), scores = over_instances(bags, score, (TopRows(1),), draws())
        wanted = self._query(critical[:, :, 0])

        def attend(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            h = encode(x, rngs)
            alike = jnp.einsum("bmq,bcq->bmc", self._query(h), wanted) / math.sqrt(wanted.shape[-1])
            return ((alike, self._values(h, deterministic, rngs)),), alike

        (embedding,), alike = over_instances(bags, attend, (SoftmaxSum(steep=True),), draws())
        embedding = embedding.reshape(embedding.shape[0], -1)
        streams = {
            "bag_logits": self.classifier(embedding),
            "critical_logits": masked_max(scores, bags.mask),
        }
        both = 0.5 * (streams["bag_logits"] + streams["critical_logits"])
        return Output(
            both if self.averages else streams["bag_logits"],
            attention=masked_softmax(alike, bags.mask, steep=True),
            instance_logits=jnp.where(bags.mask[..., None], scores, 0),
            embedding=embedding,
            extras=streams,
        )

    def _query(self, h: Float[Array, "b m e"]) -> Float[Array, "b m q"]:
        if len(self.queries) == 1:
            return self.queries[0](h)
        return jnp.tanh(self.queries[1](jax.nn.relu(self.queries[0](h))))

    def _values(self, h: Float[Array, "b m e"], deterministic: bool, rngs: nnx.Rngs | None) -> Float[Array, "b m v"]:
        if self.values is None:
            return h
        if self.dropout is not None:
            h = self.dropout(h, deterministic=deterministic, rngs=rngs)
        return jax.nn.relu(self.values(h))


def _as_it_is(h: Float[Array, "b m e"], rngs: nnx.Rngs | None) -> Float[Array, "b m e"]:
    return h
