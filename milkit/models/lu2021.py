"""CLAM: clustering-constrained attention multiple-instance learning (Lu, Williamson, Chen, Chen, Barbieri & Mahmood,
Nature Biomedical Engineering 2021, arXiv:2004.09666).

Instances are encoded, h = ReLU(W x), and pooled by (gated) attention: with one attention for all classes (CLAM-SB) or
one a class (CLAM-MB), whose pooled embedding z_i gives that class's logit alone. Beside the bag's loss, each class has
a binary classifier of single instances. For the bag's class it learns to tell the k most attended instances (label 1)
from the k least attended (label 0); with `subtyping`, where classes exclude each other, the most attended instances
are negatives for the other classes' classifiers. The loss is bag_weight * bag + (1 - bag_weight) * instances.

What is meant where the paper is silent:
    - Bags of fewer than k instances (the authors' code raises an error): all of them are most and least attended. As in
      the authors' code, an instance of a bag of fewer than 2k can be both, and counts once as each.
    - One logit (the Binary task): the classes are negative and positive, so there are two instance classifiers.
      CLAM-MB then has two attentions and two class scores, and its logit is their difference, which is the authors'
      softmax of two. CLAM-SB's one logit is the difference of the authors' two.
    - Targets that are no class index (several labels, values, survival): no instance is in or out of a class, so the
      loss is the bag's alone, and the instance classifiers stay as they began.

Deviations:
    - Instances are ranked by their attention before the softmax. The authors rank after it, where weights that have
      underflowed are tied; otherwise the order is the same.
    - The attention score has no bias: a softmax takes it away. Authors' weights load without it.
    - The smooth SVM is smooth everywhere. The library that the authors use turns to the hard loss where an instance's
      two scores are log(1000) apart; `compat="authors"` does so too.

In other libraries: torchmil 1.0.2's CLAM_SB has no encoder, always trains the classifiers of the classes out of which a
bag is, and does not divide by the number of classes. Its smooth SVM is another loss: its targets have one axis too
many, so the smooth maximum runs over instances instead of classes. It is not offered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.fields import check_fields
from milkit.losses.svm import smooth_top1_svm
from milkit.nn import MLP, AttentionPool, Init, Rule, SoftmaxSum, TopRows, linear, masked_softmax, over_instances
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class CLAMSB:
    """CLAM with a single attention branch."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True
    branch_a_class: ClassVar[bool] = False

    encoder: tuple[int, ...] = (512,)  # the paper's
    """Widths of the instance projection, each with ReLU; () pools the features themselves."""
    attention: int = 256  # the authors' "small"; 384 in "big"
    """Width of the attention's hidden layers."""
    gated: bool = True  # the paper's
    """Whether tanh(V h) is gated by sigmoid(U h)."""
    dropout: float = 0.25  # the authors' training script
    """Rate after each layer of the encoder, and on tanh(V h) and sigmoid(U h)."""
    k: int = 8  # the paper's B
    """How many of the most, and of the least, attended instances get a label; all of a smaller bag."""
    instance_loss: Literal["svm", "cross_entropy"] = "svm"  # the paper's; cross-entropy is the script's if not told
    """Loss of an instance's two scores: the smooth top-1 SVM (temperature 1, margin 1), or cross-entropy."""
    bag_weight: float = 0.7  # the paper's c1
    """Weight of the bag's loss; 1 - bag_weight is that of the instances, and 1 does without their classifiers."""
    subtyping: bool = False  # the paper: only where the classes exclude each other, as tumour subtypes do
    """Whether the most attended instances are negatives for the classes that the bag is not of."""
    compat: Literal["correct", "authors"] = "correct"
    """"authors": the SVM loss is hard where an instance's scores are far apart."""
    init: Init = "torch"  # PyTorch's default; the authors' first release had Glorot normal

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", encoder=some, attention=some, dropout="[0, 1)", k=some, bag_weight="(0, 1]"
        )  # fmt: skip

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "CLAMModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return CLAMModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss and that of its instances, weighted; the parts are "bag" and "instances", unweighted."""
        bag = bag_loss(output.logits)
        if batch.target.ndim != 1 or not output.extras:
            return bag, {"bag": bag}
        instances = instance_loss(self, output.extras, batch.target)
        return self.bag_weight * bag + (1 - self.bag_weight) * instances, {"bag": bag, "instances": instances}


@dataclass(frozen=True)
class CLAMMB(CLAMSB):
    """CLAM with an attention branch, and a classifier of its embedding, for each class."""

    branch_a_class: ClassVar[bool] = True


def instance_loss(config: CLAMSB, extras: dict[str, Any], target: Int[Array, "b"]) -> Float[Array, "b"]:
    """Loss of the instances that were most and least attended, for bags of class `target`.

    Args:
        config: which loss, and whether the other classes count.
        extras: "top_logits" and "bottom_logits" [b, classes, k, 2] and "chosen" [b, k] of the module's output.
        target: class of each bag.

    References:
        Lu et al. (2021), Methods, "Instance-level clustering" and "Smooth SVM loss".
    """
    chosen: Bool[Array, "b 1 k"] = extras["chosen"][:, None]
    number = jnp.maximum(chosen.sum(-1), 1)

    def total(logits: Float[Array, "b s k 2"], label: int) -> Float[Array, "b s"]:
        labels = jnp.full(logits.shape[:-1], label)
        if config.instance_loss == "svm":
            loss = smooth_top1_svm(logits, labels, hard_when_far=config.compat == "authors")
        else:
            loss = -jax.nn.log_softmax(logits)[..., label]
        return jnp.where(chosen, loss, 0).sum(-1)

    classes = extras["top_logits"].shape[1]
    own = jnp.arange(classes) == target[:, None]
    inside = (total(extras["top_logits"], 1) + total(extras["bottom_logits"], 0)) / (2 * number)
    if not config.subtyping:
        return jnp.where(own, inside, 0).sum(1)
    outside = total(extras["top_logits"], 0) / number
    return jnp.where(own, inside, outside).mean(1)


class CLAMModule(nnx.Module):
    """See `CLAMSB` and `CLAMMB`."""

    def __init__(self, config: CLAMSB, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.k, self.branched, self.out_features = config.k, config.branch_a_class, out_features
        classes = max(out_features, 2)  # one logit has two classes
        self.encoder = MLP(in_features, config.encoder, rngs=rngs, dropout=config.dropout, init=config.init)
        width = self.encoder.out_features
        self.pool = AttentionPool(
            width,
            config.attention,
            heads=classes if self.branched else 1,
            gated=config.gated,
            rngs=rngs,
            init=config.init,
            dropout=config.dropout,
        )
        heads = [1] * classes if self.branched else [out_features]
        self.classifiers = nnx.List([linear(width, n, rngs=rngs, init=config.init) for n in heads])
        self.instance_classifiers = nnx.List(
            [linear(width, 2, rngs=rngs, init=config.init) for _ in range(classes if config.bag_weight < 1 else 0)]
        )

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits, attention (one head, or one a class) and embedding (those of the classes end to end).

        An instance's logits are those of a bag that holds it alone. `extras` are what `objective` needs: scores of the
        most and least attended instances by each class's instance classifier, "top_logits" and "bottom_logits"
        [b, classes, k, 2], best first, and which of the k there are, "chosen" [b, k].
        """

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            h = self.encoder(x, deterministic=deterministic, rngs=rngs)
            scores = self.pool.scores(h, deterministic=deterministic, rngs=rngs)
            return ((scores, h),) * len(rules), (scores, self._logits([h] * len(self.classifiers)))

        rules: tuple[Rule, ...] = (SoftmaxSum(),)
        if len(self.instance_classifiers):
            rules += (TopRows(self.k), TopRows(self.k, lowest=True))
        (pooled, *rows), (scores, alone) = over_instances(bags, encode, rules, rngs)
        extras = {}
        if rows:
            extras = {f"{end}_logits": self._instance_scores(r) for end, r in zip(("top", "bottom"), rows, strict=True)}
            extras["chosen"] = jnp.arange(self.k) < bags.mask.sum(1)[:, None]
        return Output(
            self._logits([pooled[:, i] for i in range(pooled.shape[1])]),
            attention=masked_softmax(scores, bags.mask),
            instance_logits=jnp.where(bags.mask[..., None], alone, 0),
            embedding=pooled.reshape(pooled.shape[0], -1),
            extras=extras,
        )

    def _logits(self, branches: list[Array]) -> Float[Array, "*shape c"]:
        """The bag's logits from its embedding in each branch."""
        logits = jnp.concatenate([head(z) for head, z in zip(self.classifiers, branches, strict=True)], -1)
        return logits[..., 1:] - logits[..., :1] if self.branched and self.out_features == 1 else logits

    def _instance_scores(self, rows: Float[Array, "b s k e"]) -> Float[Array, "b c k 2"]:
        """Each class's instance classifier on the rows of its branch."""
        last = rows.shape[1] - 1
        return jnp.stack([head(rows[:, min(i, last)]) for i, head in enumerate(self.instance_classifiers)], 1)
