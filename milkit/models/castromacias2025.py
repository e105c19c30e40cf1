"""ProbSmoothABMIL: attention scores that are drawn, with a prior by which neighbouring tiles have like ones
(Castro-Macias, Morales-Alvarez, Wu, Molina & Katsaggelos 2025, arXiv:2507.14932).

A small network gives mean and variance of each instance's score. Scores are drawn, and each draw's attention pools the
instances to a bag of its own, with its own loss; the loss of a bag is the mean over the draws, and the divergence of
the drawn scores from their prior, over the number of instances:

    (mean' L mean + trace(L S) - log det S / 2) / n,

with S the diagonal matrix of variances and L = I - A the normalised Laplacian of the graph of tiles. A tile without
neighbours has a standard normal prior.

What is said is the mean over the draws: as pooling and classifier are linear, that of the mean attention. In training
draws come from `rngs`; at inference they are always the same ones, from key 0 by the instance's place in its bag.

The network and the numbers are torchmil 1.0.2's.

Deviations:
    - Padding has no part in the divergence, nor in the number that it is divided by; torchmil masks neither.
    - torchmil's `predict` hands the mask on as if it were the graph. Not repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import MLP, Init, linear, masked_softmax
from milkit.nn.running import weighted_sum
from milkit.nn.smooth import Edges, edges_of
from milkit.nn.smooth_scores import ScoreNet, roughness
from milkit.types import Bags, Batch, Output

STEEPEST = 20.0
"""Drawn scores are cut to +- this, as in torchmil."""
AT_ONCE = 50
"""Draws that are worked together: bounds memory, and says which bits are drawn."""


@dataclass(frozen=True)
class ProbSmoothABMIL:
    """Attention pooling by drawn scores, smooth over neighbouring tiles."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = True

    draws: int = 1000  # torchmil's
    """Draws of a bag's scores in training."""
    draws_at_inference: int = 5000  # torchmil's
    """Draws at inference, always the same ones; 0 takes the mean scores instead."""
    divergence_weight: float = 1.0  # the evidence lower bound's
    """Weight of the divergence from the prior."""
    attention: int = 128  # torchmil's
    """Half the width of the network's layers."""
    encoder: tuple[int, ...] = ()  # torchmil's
    """Widths of the instance projection, each with ReLU; () takes the features themselves."""
    dropout: float = 0.0
    """Rate after each layer of the encoder."""
    neighbours: int = 8
    """How many of the nearest tiles are neighbours."""
    radius_um: float | None = None
    """Tiles further away, in micrometres, are no neighbours; None: however far."""
    init: Init = "torch"

    def __post_init__(self) -> None:
        some, any_size = "[1, inf)", "[0, inf)"
        check_fields(
            self, "model", draws=some, draws_at_inference=any_size, divergence_weight=any_size, attention=some,
            encoder=some, dropout="[0, 1)", neighbours=some, radius_um="(0, inf)",
        )  # fmt: skip
        if self.dropout and not self.encoder:
            raise ConfigError(f"dropout={self.dropout} acts after the encoder's layers, but encoder=() has none.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "ProbSmoothABMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return ProbSmoothABMILModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The draws' mean loss and the divergence, weighted; the parts are "bag" and "divergence", unweighted.

        At inference nothing is kept of single draws, and the bag's loss is that of their mean.
        """
        drawn = output.extras.get("drawn_logits")
        bag = bag_loss(output.logits) if drawn is None else jax.vmap(bag_loss, 1)(drawn).mean(0)
        divergence = output.extras["divergence"]
        return bag + self.divergence_weight * divergence, {"bag": bag, "divergence": divergence}


class ProbSmoothABMILModule(nnx.Module):
    """See `ProbSmoothABMIL`."""

    def __init__(self, config: ProbSmoothABMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.count, self.radius_um = config.neighbours, config.radius_um
        self.draws, self.draws_at_inference = config.draws, config.draws_at_inference
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        self.scorer = ScoreNet(self.encoder.out_features, config.attention, 2, rngs=rngs, init=config.init)
        self.classifier = linear(self.encoder.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention and embedding, means over the draws; in `extras` the divergence of each bag, [b].

        In training `extras` also has the logits of each draw, [b, draws, c].
        """
        edges = edges_of(bags, self.count, self.radius_um, model="ProbSmoothABMIL", keep_isolated=False)
        h = self.encoder(bags.x, deterministic=deterministic, rngs=rngs)
        # what padding holds may overflow
        mean, log_variance = (jnp.where(bags.mask[..., None], score, 0) for score in self.scorer(h))
        extras = {"divergence": divergence(mean, log_variance, bags.mask, edges)}
        draws = self.draws_at_inference if deterministic else self.draws
        if not draws:
            return self._read(h, masked_softmax(mean, bags.mask), extras)
        if not deterministic and rngs is None:
            raise ConfigError("ProbSmoothABMIL draws scores in training; pass rngs=nnx.Rngs(dropout=key).")
        # which bag it is plays no part at inference, so that a bag's draws do not depend on its batch
        keys = jnp.broadcast_to(jax.random.key(0), len(h))
        if not deterministic and rngs is not None:
            keys = jax.random.split(rngs.dropout(), len(h))
        classified = None if deterministic else h @ self.classifier.kernel[...]
        attention, drawn = in_draws(mean, log_variance, bags.mask, keys, draws, classified)
        if drawn is not None:
            extras["drawn_logits"] = drawn + (0 if self.classifier.bias is None else self.classifier.bias[...])
        return self._read(h, attention, extras)

    def _read(self, h: Float[Array, "b n e"], attention: Float[Array, "b n 1"], extras: dict[str, Any]) -> Output:
        embedding = weighted_sum(attention, h)[:, 0]
        return Output(self.classifier(embedding), attention, embedding=embedding, extras=extras)


def divergence(
    mean: Float[Array, "b n 1"], log_variance: Float[Array, "b n 1"], mask: Bool[Array, "b n"], edges: Edges
) -> Float[Array, "b"]:
    """Kullback-Leibler divergence of the scores from their prior, up to a constant, over the number of instances."""
    diagonal = jax.lax.stop_gradient(1 - edges.own)
    each = diagonal * jnp.exp(log_variance[..., 0]) - 0.5 * log_variance[..., 0]
    count = jnp.maximum(mask.sum(1), 1).astype(each.dtype)
    return roughness(mean, mask, edges) + jnp.where(mask, each, 0).sum(1) / count


def attention_of(
    mean: Float[Array, "b n 1"],
    log_variance: Float[Array, "b n 1"],
    mask: Bool[Array, "b n"],
    noise: Float[Array, "b n s"],
) -> Float[Array, "b n s"]:
    """The attention of each draw, from standard normal noise."""
    scores = mean + jnp.exp(0.5 * log_variance) * noise
    return masked_softmax(jnp.clip(scores, -STEEPEST, STEEPEST), mask)


def in_draws(
    mean: Float[Array, "b n 1"],
    log_variance: Float[Array, "b n 1"],
    mask: Bool[Array, "b n"],
    keys: Any,
    draws: int,
    classified: Float[Array, "b n c"] | None,
) -> tuple[Float[Array, "b n 1"], Float[Array, "b s c"] | None]:
    """Mean attention over the draws, some draws at a time, and the logits of each draw without their bias.

    An instance's noise goes by the key of its bag and its place in it, whatever padding follows.

    Args:
        mean, log_variance: of the scores.
        mask: True on real instances.
        keys: one for each bag.
        draws: how many.
        classified: logits of each instance without bias; None: those of the draws are not asked for.
    """
    b, n, _ = mean.shape
    together = min(draws, AT_ONCE)
    blocks = -(-draws // together)

    def of_instance(key: Any, block: Array, place: Array) -> Float[Array, "s"]:
        own = jax.random.fold_in(jax.random.fold_in(key, place), block)
        return jax.random.normal(own, (together,), mean.dtype)

    of_bag = jax.vmap(of_instance, (None, None, 0))
    noise_of = jax.vmap(of_bag, (0, None, None))

    def add(total: Array, block: Array) -> tuple[Array, Array | None]:
        wanted = block * together + jnp.arange(together) < draws
        weight = attention_of(mean, log_variance, mask, noise_of(keys, block, jnp.arange(n)))
        total = total + jnp.where(wanted, weight, 0).sum(2, keepdims=True)
        return total, None if classified is None else jnp.einsum(
            "bns,bnc->bsc", weight, classified.astype(weight.dtype)
        )

    # inside a scan nothing can be merged with the forward pass, so the barriers against that are not needed
    again = jax.checkpoint(add, prevent_cse=False)
    total, drawn = jax.lax.scan(again, jnp.zeros_like(mean), jnp.arange(blocks))
    if drawn is not None:
        drawn = drawn.swapaxes(0, 1).reshape(b, blocks * together, -1)[:, :draws]
    return total / draws, drawn
