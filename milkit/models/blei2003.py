"""A bag as a mixture of topics over visual words, and a linear classifier on the mixture: latent Dirichlet allocation
(Blei, Ng & Jordan, JMLR 3:993, 2003).

Instances become words (nearest centre of k-means, whose centres only training bags move: `milkit.nn.kmeans`). A topic
is a distribution over words, a bag a mixture of topics, and its words are drawn from the mixture. The bag's mixture,
found by rounds of expectation-maximisation for given topics, is what the classifier reads.

The whole is fitted as a network is, step by step, and topics are learned without labels. The loss has two parts: the
classifier's on the mixture, which reaches the topics only if asked for (`supervised`), and minus the log likelihood of
the bag's words, which trains the topics.

Not the paper's inference, and what stands in for it:
    - The paper (and scikit-learn) fit a variational posterior over mixtures; here each bag has the one mixture of
      highest posterior density under a symmetric Dirichlet prior (`prior=1` is Hofmann's probabilistic latent semantic
      analysis, 1999). How the two compare: Asuncion et al. (2009, UAI).
    - Topics are parameters (a softmax over words) moved by the gradient of the likelihood, not by whole passes of EM;
      they have no prior of their own.
    - The likelihood is per instance, so that long bags do not outweigh short ones.
    - `supervised` lets the label's gradient into the topics through the rounds; Blei & McAuliffe (2007) have a joint
      likelihood instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from milkit.fields import check_fields
from milkit.nn import Init, linear
from milkit.nn.kmeans import RunningKMeans
from milkit.types import Bags, Batch, Output

LEAST = 1e-30
"""Chance that a word has at least: a softmax over words can give 0 where it must not divide."""


@dataclass(frozen=True)
class TopicMixture:
    """A linear classifier on a bag's mixture of topics over visual words."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    topics: int = 16  # ours: tissue types are few
    """How many."""
    words: int = 64  # ours
    """Of the dictionary."""
    rounds: int = 20  # ours
    """Of expectation-maximisation for each bag's mixture."""
    prior: float = 1.1  # ours: just enough that no topic of a small bag is ruled out
    """Parameter of the Dirichlet prior on mixtures, at least 1; 1 is none."""
    likelihood: float = 1.0  # ours
    """What the words' log likelihood counts beside the bag's loss."""
    supervised: bool = False  # the paper's topics know no labels
    """Whether labels have a say in the topics."""
    init: Init = "torch"  # ours; of the classifier

    def __post_init__(self) -> None:
        check_fields(
            self,
            "model",
            topics="[2, inf)",
            words="[2, inf)",
            rounds="[1, inf)",
            prior="[1, inf)",
            likelihood="(0, inf)",
        )

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "TopicMixtureModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return TopicMixtureModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss, and minus the mean log likelihood of its words."""
        bag, words = bag_loss(output.logits), -output.extras["log_likelihood"]
        return bag + self.likelihood * words, {"bag": bag, "words": words}


class TopicMixtureModule(nnx.Module):
    """See `TopicMixture`."""

    def __init__(self, config: TopicMixture, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = config
        self.kmeans = RunningKMeans(config.words, in_features, rngs=rngs)
        self.topics = nnx.Param(jax.random.normal(rngs.params(), (config.topics, config.words)))
        self.classifier = linear(config.topics, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits; as embedding the mixture times the number of topics; `extras["log_likelihood"]` [b] an instance."""
        word = self.kmeans(bags.x, bags.mask, deterministic=deterministic, rngs=rngs)
        of = (word[..., None] == jnp.arange(self.config.words)) & bags.mask[..., None]
        wide = jnp.promote_types(jnp.promote_types(bags.x.dtype, self.topics[...].dtype), jnp.float32)
        log_topics = jax.nn.log_softmax(self.topics[...].astype(wide), -1)
        counts = of.sum(1).astype(wide)
        fixed = log_topics if self.config.supervised else jax.lax.stop_gradient(log_topics)
        mixture = mixture_of(counts, jnp.exp(fixed), self.config.rounds, self.config.prior)
        embedding = mixture * self.config.topics  # 1 on average, whatever their number
        return Output(
            self.classifier(embedding),
            embedding=embedding,
            extras={"log_likelihood": mean_log_likelihood(counts, mixture, jnp.exp(log_topics))},
        )


def mixture_of(
    counts: Float[Array, "b w"], topics: Float[Array, "t w"], rounds: int, prior: float
) -> Float[Array, "b t"]:
    """Mixture of topics of highest posterior density, after some rounds of EM from the even one.

    Args:
        counts: how often a bag has each word; a bag without words keeps the even mixture.
        topics: distributions over words.
        rounds: how many.
        prior: parameter of the symmetric Dirichlet prior, at least 1.
    """
    even = jnp.full((counts.shape[0], topics.shape[0]), 1 / topics.shape[0], counts.dtype)
    some = counts.sum(1, keepdims=True) > 0

    def one(mixture: Array, _: None) -> tuple[Array, None]:
        share = counts / jnp.maximum(mixture @ topics, LEAST)
        updated = mixture * (share @ topics.T) + (prior - 1)
        updated = updated / jnp.where(some, updated.sum(1, keepdims=True), 1)
        return jnp.where(some, updated, even), None

    return jax.lax.scan(one, even, None, rounds)[0]


def mean_log_likelihood(
    counts: Float[Array, "b w"], mixture: Float[Array, "b t"], topics: Float[Array, "t w"]
) -> Float[Array, "b"]:
    """Log likelihood of a bag's words under its mixture, over their number; 0 of a bag without any."""
    there = counts > 0
    logs = jnp.log(jnp.where(there, jnp.maximum(mixture @ topics, LEAST), 1))
    return (counts * logs).sum(1) / jnp.maximum(counts.sum(1), 1)
