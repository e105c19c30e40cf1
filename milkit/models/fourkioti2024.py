"""CAMIL: context-aware multiple-instance learning (Fourkioti, De Vries & Bakal, ICLR 2024, arXiv:2305.05314).

A layer of Nystrom self-attention, without a network, makes tokens T that have seen the whole bag. Beside it each
instance is weighed by how well it agrees with the tiles around it: a softmax over the bag of sum_j A_ij q_i k_j /
sqrt(d), q and k being linear in T, gives weights of values that are linear in T, L. Both are mixed by a gate of L
itself, M = sigmoid(L) L + (1 - sigmoid(L)) T, and M is pooled by gated attention whose scores come from T.

A is the graph of tiles, normalised by the roots of both degrees: two are joined that are both among the other's
`neighbours` nearest, no further than `radius_um` away. The sum over j is q_i (A k)_i, so that nothing is held of pairs.

Read as torchmil 1.0.2 reads the paper. `compat="authors"` has its Nystrom attention, with zeros in front of the bag and
a start that depends on the batch (`milkit.nn.nystrom`).

Deviations:
    - Padding takes part in nothing. In torchmil it does in the Nystrom attention and, with a score of 0, in the softmax
      of the agreement.
    - Heads and landmarks are those of the authors' code; torchmil has 4 and fails with its default landmarks.
    - That code (TensorFlow) differs from the paper: no norm before the attention, a residual convolution in it, values
      of the instances that come in, a gate with squares and twos, scores that come from M. Not offered.
    - A score of an edge (how alike two tiles are) weighs neighbours in the authors' data; here they weigh alike.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import AttentionPool, Init, dropout_or_none, linear, masked_softmax
from milkit.nn.layer_norm import layer_norm
from milkit.nn.nystrom import AT_ONCE, NystromAttention
from milkit.nn.products import tall_dot
from milkit.nn.query_attention import check_heads
from milkit.nn.running import weighted_sum
from milkit.nn.smooth import Edges, adjacent, edges_of
from milkit.types import Bags, Output


@dataclass(frozen=True)
class CAMIL:
    """Attention over the whole bag beside agreement with neighbouring tiles."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True

    width: int = 512  # the authors'
    """Width of a token; instances of another width are projected."""
    heads: int = 8  # the authors' code
    """Heads of the Nystrom attention, which share out `width`."""
    landmarks: int = 256  # the authors' code
    """Landmarks of the Nystrom approximation."""
    iterations: int = 6  # the authors' code
    """Iterations of its pseudo-inverse."""
    attention: int = 128  # the authors'
    """Width of the pooling attention's hidden layers."""
    gated: bool = True  # the authors' code
    """Whether that attention is gated."""
    dropout: float = 0.0  # torchmil's
    """Rate after the projection."""
    neighbours: int = 8  # the paper's
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    init: Init = "torch"
    compat: Literal["correct", "authors"] = "correct"
    """Whether Nystrom attention is as in its paper, or as in torchmil."""
    at_once: int = AT_ONCE
    """Tokens that Nystrom attention takes at a time: bounds its memory, changes no result."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", width=some, heads=some, landmarks=some, iterations=some, attention=some, dropout="[0, 1)",
            neighbours=some, radius_um="(0, inf)", at_once=some,
        )  # fmt: skip
        check_heads(self.width, self.heads)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "CAMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return CAMILModule(self, in_features, out_features, rngs=rngs)


class CAMILModule(nnx.Module):
    """See `CAMIL`."""

    def __init__(self, config: CAMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        width, init = config.width, config.init
        self.count, self.radius_um = config.neighbours, config.radius_um
        self.encoder = linear(in_features, width, rngs=rngs, init=init) if in_features != width else None
        self.dropout = dropout_or_none(config.dropout)
        self.norm = layer_norm(width, rngs)
        self.nystrom = NystromAttention(
            width,
            rngs=rngs,
            heads=config.heads,
            head_width=width // config.heads,
            landmarks=config.landmarks,
            iterations=config.iterations,
            kernel=0,
            project=False,
            compat=config.compat,
            init=init,
            at_once=config.at_once,
        )
        self.query_key = linear(width, 2 * width, rngs=rngs, init=init, use_bias=False)
        self.value = linear(width, width, rngs=rngs, init=init, use_bias=False)
        self.pool = AttentionPool(width, config.attention, gated=config.gated, rngs=rngs, init=init)
        self.classifier = linear(width, out_features, rngs=rngs, init=init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, the pooling's attention and the bag's embedding."""
        edges = edges_of(bags, self.count, self.radius_um, model="CAMIL", keep_isolated=False)
        tokens = self.tokens(bags.x, bags.mask, deterministic=deterministic, rngs=rngs)
        return self.read(tokens, self.agreeing(tokens, bags.mask, edges), bags.mask)

    def tokens(
        self,
        x: Float[Array, "b n d"],
        mask: Bool[Array, "b n"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "b n e"]:
        """T: the instances, each having seen all others; 0 on padding."""
        x = x if self.encoder is None else self.encoder(x)
        x = x if self.dropout is None else self.dropout(x, deterministic=deterministic, rngs=rngs)
        x = jnp.where(mask[..., None], x, 0)
        found, _ = self.nystrom(x, mask, norm=self.norm, deterministic=deterministic, rngs=rngs)
        return jnp.where(mask[..., None], x + found, 0)

    def agreeing(self, tokens: Float[Array, "b n e"], mask: Bool[Array, "b n"], edges: Edges) -> Float[Array, "b n e"]:
        """L: values, weighted by how well each token agrees with those around it."""
        query, key = (tall_dot(tokens, kernel) for kernel in jnp.split(self.query_key.kernel[...], 2, 1))
        wide, width = jnp.promote_types(query.dtype, jnp.float32), query.shape[-1]
        around = adjacent(key.astype(wide), jax.lax.stop_gradient(edges))
        # sums over the features of matrices: of [b, n, d] XLA on a CPU takes eight times as long
        agreement = (query.astype(wide) * around).reshape(-1, width).sum(-1) / math.sqrt(width)
        weight = masked_softmax(agreement.reshape(*mask.shape, 1), mask).reshape(-1, 1)
        return (weight * self.value(tokens).reshape(-1, width)).reshape(tokens.shape).astype(tokens.dtype)

    def read(self, tokens: Float[Array, "b n e"], agreeing: Float[Array, "b n e"], mask: Bool[Array, "b n"]) -> Output:
        """What is said of both."""
        gate = jax.nn.sigmoid(agreeing)
        mixed = gate * agreeing + (1 - gate) * tokens
        scores = self.pool.scores(tokens)
        attention = masked_softmax(scores, mask)
        embedding = weighted_sum(attention, mixed)[:, 0]
        return Output(self.classifier(embedding), attention, embedding=embedding, extras={"scores": scores})
