"""Bags of visual words: a dictionary of typical instances, what a bag has of each word, a linear classifier.

Two dictionaries:
    - "kmeans", the classical one (Sivic & Zisserman, ICCV 2003; Csurka et al., 2004). Words are the centres of k-means;
      each instance counts for its nearest word alone. No gradient reaches the words: they are state of the module that
      only training bags move (`milkit.nn.kmeans`), while the classifier is trained by gradient as always.
    - "trained": words are parameters, each instance belongs to all words in part, and words and classifier are trained
      together on the bags' labels. Neural bag-of-features for the histogram (Passalis & Tefas, Pattern Recognition
      64:277, 2017), NetVLAD for the residuals (Arandjelovic et al., CVPR 2016, arXiv:1511.07247). This is another
      method than k-means, not an approximation of it: its words need not lie where instances are.

Two codes of a bag:
    - "histogram": which share of its instances each word has.
    - "vlad": for each word the sum of the instances' differences from it (Jegou et al., CVPR 2010), each word's to
      length 1, then all together (Arandjelovic & Zisserman, CVPR 2013).

Deviations:
    - A histogram is multiplied by the number of words, so that its entries are 1 on average and the classifier's first
      steps do not depend on the size of the dictionary.
    - Centres of k-means follow the bags as they come, while the classifier is already learning. The classical way runs
      k-means to its end first and trains a support vector machine then.
    - Trained words start at random, where both papers start from k-means. Distances are Euclidean, each word with a
      width of its own.

Not here: tf-idf weights, spatial pyramids, Fisher vectors.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.fields import check_fields
from milkit.nn import MLP, Init, linear, masked_mean
from milkit.nn.kmeans import RunningKMeans, squared_distances
from milkit.nn.running import weighted_sum
from milkit.types import Bags, Output

ROUNDING = 1e-5
"""Of a sum of float32 numbers, relative to what was added up, with some room."""


@dataclass(frozen=True)
class BagOfWords:
    """A classifier on how a bag's instances are spread over the words of a dictionary."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    words: int = 64  # NetVLAD's; for histograms hundreds are usual, for VLAD they are costly
    """Of the dictionary."""
    dictionary: Literal["kmeans", "trained"] = "kmeans"  # the classical one
    """Centres of k-means on training bags, or parameters."""
    code: Literal["histogram", "vlad"] = "histogram"
    """What is said of a bag: shares of the words, or sums of differences from them."""
    head: tuple[int, ...] = ()  # a linear classifier, as in the classical pipeline
    """Widths of hidden layers before the classifier, each with ReLU."""
    init: Init = "torch"  # ours

    def __post_init__(self) -> None:
        check_fields(self, "model", words="[2, inf)", head="[1, inf)")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "BagOfWordsModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return BagOfWordsModule(self, in_features, out_features, rngs=rngs)


class NearestWord(nnx.Module):
    """Each instance has the word of the nearest centre, whole."""

    def __init__(self, words: int, features: int, *, rngs: nnx.Rngs):
        self.kmeans = RunningKMeans(words, features, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b n w"]:
        """1 for the word that an instance has."""
        word = self.kmeans(x, mask, deterministic=deterministic, rngs=rngs)
        return (word[..., None] == jnp.arange(len(self.words))).astype(x.dtype)

    @property
    def words(self) -> Float[Array, "w d"]:
        """Of the dictionary; a gradient goes no further."""
        return jax.lax.stop_gradient(self.kmeans.centres[...])


class SoftWords(nnx.Module):
    """Each instance has a share of every word: a softmax of minus its distances in units of the words' widths."""

    def __init__(self, words: int, features: int, *, rngs: nnx.Rngs):
        self.centres = nnx.Param(jax.random.normal(rngs.params(), (words, features)))
        self.log_width = nnx.Param(jnp.zeros(words))

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b n w"]:
        """Shares, which sum to 1."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        squared = squared_distances(x.astype(wide), self.centres[...].astype(wide))
        apart = squared > 0
        distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
        return jax.nn.softmax(-distance * jnp.exp(-self.log_width[...]), -1)

    @property
    def words(self) -> Float[Array, "w d"]:
        """Of the dictionary."""
        return self.centres[...]


class NetVLADWords(nnx.Module):
    """Each instance has a share of every word, by a linear layer of its own beside the words."""

    def __init__(self, words: int, features: int, *, rngs: nnx.Rngs):
        self.centres = nnx.Param(jax.random.normal(rngs.params(), (words, features)))
        self.assign = linear(features, words, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b n w"]:
        """Shares, which sum to 1."""
        return jax.nn.softmax(self.assign(x), -1)

    @property
    def words(self) -> Float[Array, "w d"]:
        """Of the dictionary."""
        return self.centres[...]


class BagOfWordsModule(nnx.Module):
    """See `BagOfWords`."""

    def __init__(self, config: BagOfWords, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.code = config.code
        trained = SoftWords if config.code == "histogram" else NetVLADWords
        kind: Any = NearestWord if config.dictionary == "kmeans" else trained
        self.dictionary = kind(config.words, in_features, rngs=rngs)
        width = config.words * (in_features if config.code == "vlad" else 1)
        self.head = MLP(width, config.head, rngs=rngs, init=config.init)
        self.classifier = linear(self.head.out_features, out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, and the bag's code as embedding; with histograms an instance's logits are those of it alone."""
        share = self.dictionary(bags.x, bags.mask, deterministic, rngs)
        if self.code == "vlad":
            embedding = vlad(bags.x, bags.mask, share, self.dictionary.words)
            return Output(self.classifier(self.head(embedding)), embedding=embedding)
        words = share.shape[2]
        embedding = words * masked_mean(share, bags.mask)
        alone = self.classifier(self.head(words * share))
        return Output(
            self.classifier(self.head(embedding)),
            instance_logits=jnp.where(bags.mask[..., None], alone, 0),
            embedding=embedding,
        )


def vlad(
    x: Float[Array, "b n d"], mask: Bool[Array, "b n"], share: Float[Array, "b n w"], words: Float[Array, "w d"]
) -> Float[Array, "b e"]:
    """Sums of differences from each word by share, each word's to length 1, then all to length 1; 0 stays 0."""
    share = jnp.where(mask[..., None], share, 0)
    total = share.sum(1, dtype=jnp.promote_types(share.dtype, jnp.float32))
    sums = weighted_sum(share, jnp.where(mask[..., None], x, 0)) - total[..., None] * words
    # a word that is its only instance leaves nothing but what rounding left: not to be blown up to length 1
    rounding = ROUNDING * total * jax.lax.stop_gradient(jnp.linalg.norm(words, axis=-1))
    return to_length_one(to_length_one(sums, rounding[..., None]).reshape(len(x), -1))


def to_length_one(
    v: Float[Array, "*shape d"], least: float | Float[Array, "*shape 1"] = 0.0
) -> Float[Array, "*shape d"]:
    """Vectors of the last axis divided by their length, or by `least` where they are shorter; zeros stay zeros."""
    square = jnp.maximum(jnp.square(v).sum(-1, keepdims=True), jnp.square(least))
    some = square > 0
    return jnp.where(some, v * jax.lax.rsqrt(jnp.where(some, square, 1)), 0)
