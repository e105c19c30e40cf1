"""MHIM-MIL: masked hard instance mining (Tang et al., ICCV 2023, arXiv:2307.15254; IJCV 2025, arXiv:2509.11526).

Attention trained on slides' labels dwells on the instances that are easiest to tell the class by. Here a teacher, the
mean of the student's past with momentum, scores the instances; those that stand out most are masked, and the student
has to do with what is left. Two parts of the loss: the bag's, and how far the student's features are from those that
the teacher has of the whole bag. A base model is trained so, attention (ABMIL), DSMIL or self-attention (like
TransMIL), and it alone is used: at inference there is neither mask nor teacher. The authors evaluate the student, and
so does this.

The second version's code is what was read and what the defaults are (`hard`, `kept`, `merged` of those that its
authors search over). It adds: scores that ask how sure the teacher's classifier is of an instance times its attention
(`score="class"`), and merging: of what is left, a share stays as it is, and the rest is merged into a few tokens by
attention of global queries, which follow their own results with momentum. The first version, of the ICCV paper, is
`score="attention", merged=0, consistency=.1` with `hard`, `low` and `random` of the task (CAMELYON16 with attention:
hard=.01, hard_of=.5, random=.5).

Teacher and global queries are variables that are no parameters. They move when a batch is trained on, before it is
looked at: so the teacher that a step sees is that of the authors, who move it after each update. It starts as a copy
of the student. With accumulated gradients it moves at every step, with a filler alone not at all.

`compat="authors"` concerns self-attention only: see `milkit.nn.nystrom`; and bags of up to 36 tokens, merged ones among
them, are laid out anew in rows of 7 for the convolutions.

Deviations:
    - The authors start teacher (and student's first layer) from a base model trained before, and let the share of hard
      instances and the momentum follow a cosine over training; here both are constant, and there is no model before.
    - One instance always stays; the authors' code fails where none does, and for a bag of one.
    - A bag's share is worked out without rounding errors: .1 of 30 is 3, not 4. What stays keeps its order.
    - Global queries move to the mean over a batch's bags; the authors train on one at a time.
    - Of one logit a score is the probability of the likelier of two classes.
    - With several heads the authors' votes leave open which of equally voted instances goes; here the best ranks do.
    - Kernels start Glorot uniform and biases at 0, where the authors draw normals of the same variance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.models.tang2023_parts import (
    AttentionBase,
    DSMILBase,
    Masking,
    Merge,
    Score,
    Seen,
    SelfAttentionBase,
    drawn,
    shares,
)
from milkit.nn import dropout_or_none, linear
from milkit.nn.bias_free_attention import Activation, activated
from milkit.nn.query_attention import check_heads
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class MHIM:
    """A base model that trains on what a momentum teacher leaves of each bag."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    min_instances: ClassVar[int] = 1

    base: Literal["attention", "dsmil", "selfattention"] = "attention"
    """The model that is trained."""
    width: int = 512  # the authors'
    """Of the projected instances."""
    activation: Literal["relu", "gelu"] = "relu"  # the authors'
    """After the projection."""
    dropout: float = 0.25  # the authors'
    """Rate after the projection, the teacher's too."""
    attention: int = 128  # the authors'
    """Width of the attention's hidden layer, or of DSMIL's queries."""
    attention_activation: Activation = "gelu"  # the authors'
    """In the attention's hidden layer."""
    heads: int = 8  # the authors'
    """Of self-attention; they share out `width`."""
    landmarks: int = 0  # the authors': width / 2
    """Of self-attention; 0 is half the width."""
    kernel: int = 33  # the authors'
    """Tokens that the convolution of self-attention's values sees, odd; 0 leaves it out."""
    attention_dropout: float = 0.1  # the authors'
    """Rate after each self-attention."""
    hard: float = 0.03  # the middle of what the authors search: .01, .03, .05
    """Share of a bag that is masked of the instances that stand out most."""
    hard_of: float = 1.0  # the authors' default
    """Which share of the candidates that is: with .5 twice as many are candidates, and half of them are drawn."""
    low: float = 0.0  # the second version's; the first has up to .8
    """Share of a bag that is masked of the instances that stand out least."""
    random: float = 0.0  # the second version's; the first has up to .7
    """Share of a bag that is masked at random."""
    score: Score = "class"  # the second version's
    """Whether an instance stands out by how sure a class is from it, or by attention alone."""
    merged: int = 5  # the middle of what the authors search: 1, 5, 10
    """Tokens that instances are merged into; 0 leaves merging out."""
    kept: float = 0.9  # of what the authors search: .8, .9
    """Share of the instances left by masking that is not merged, rounded down."""
    merge_heads: int = 8  # the authors'
    """Heads of the attention that merges."""
    merge_head_width: int = 64  # the authors'
    """Width of each."""
    merge_dropout: float = 0.1  # the authors'
    """Rate of its weights and of its result."""
    merge_momentum: float = 0.9999  # the authors' commands
    """Share of the global queries that stays at a step."""
    merge_at_test: bool = False  # the authors' default
    """Whether tokens merged of all instances are added at inference, and for the teacher."""
    momentum: float = 0.9997  # the authors' default
    """Share of the teacher that stays at a step."""
    temperature: float = 0.1  # the authors' default
    """Of the teacher's features."""
    consistency: float = 0.5  # the authors' commands
    """Weight of the distance between the student's and the teacher's features; 0 leaves it out."""
    compat: Literal["correct", "authors"] = "correct"
    """Of self-attention: as in the papers, or as in the authors' code."""

    def __post_init__(self) -> None:
        some, any_size, rate, share = "[1, inf)", "[0, inf)", "[0, 1)", "[0, 1]"
        check_fields(
            self, "model", width=some, dropout=rate, attention=some, heads=some, landmarks=any_size, kernel=any_size,
            attention_dropout=rate, hard=rate, hard_of="(0, 1]", low=rate, random=rate, merged=any_size, kept=rate,
            merge_heads=some, merge_head_width=some, merge_dropout=rate, merge_momentum=share, momentum=share,
            temperature="(0, inf)", consistency=any_size,
        )  # fmt: skip
        if self.base == "selfattention":
            check_heads(self.width, self.heads)
            if self.kernel and self.kernel % 2 == 0:
                raise ConfigError(f"kernel={self.kernel} has no middle; choose an odd number, or 0 for none.")
        if self.merge_at_test and not self.merged:
            raise ConfigError("merge_at_test=True adds merged tokens, but merged=0 has none.")

    @property
    def position_aware(self) -> bool:
        """Self-attention has convolutions along the instances, landmarks and a square of them."""
        return self.base == "selfattention"

    @property
    def no_gradient(self) -> frozenset[str]:
        """Merging is not part of inference, unless asked for."""
        if not self.merged or self.merge_at_test:
            return frozenset()
        leaves = ("norm/scale", "norm/bias", "query/kernel", "key_value/kernel", "out/kernel", "out/bias")
        return frozenset(f"student/merge/{leaf}" for leaf in leaves)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "MHIMModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return MHIMModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss and, in training, `consistency` times the distance to the teacher."""
        bag = bag_loss(output.logits)
        if "teacher" not in output.extras or not self.consistency:
            return bag, {"bag": bag}
        far = distance(output.extras["student"], output.extras["teacher"], self.temperature)
        return bag + self.consistency * far, {"bag": bag, "consistency": far}


def distance(student: Float[Array, "b k e"], teacher: Float[Array, "b k e"], temperature: float) -> Float[Array, "b"]:
    """Cross-entropy of softmaxes over the features, the teacher's sharpened; the mean over a bag's vectors."""
    aim = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature)
    return -(aim * jax.nn.log_softmax(student)).sum(-1).mean(-1)


class Momentum(nnx.Variable):
    """An array that follows others with momentum; it is not trained."""

    def follow(self, new: Array, stays: float, there: Bool[Array, ""]) -> None:
        """Keep the share `stays`, take the rest from `new`; nothing moves where nothing is `there`."""
        old = self[...]
        step = jnp.where(there, 1 - stays, 0.0) * (jax.lax.stop_gradient(new).astype(jnp.float32) - old)
        self[...] = (old + step).astype(old.dtype)


class Net(nnx.Module):
    """What student and teacher are: projection, base model, merging."""

    def __init__(self, config: MHIM, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        c, w = config, config.width
        self.activation: Activation = c.activation
        self.encoder = linear(in_features, w, rngs=rngs, init="glorot")
        self.dropout = dropout_or_none(c.dropout)
        self.base: Any
        if c.base == "attention":
            self.base = AttentionBase(
                w, out_features, hidden=c.attention, activation=c.attention_activation, score=c.score, rngs=rngs
            )
        elif c.base == "dsmil":
            self.base = DSMILBase(w, out_features, hidden=c.attention, score=c.score, rngs=rngs)
        else:
            self.base = SelfAttentionBase(
                w, out_features, heads=c.heads, landmarks=c.landmarks or max(w // 2, 1), kernel=c.kernel, score=c.score,
                compat=c.compat, dropout=c.attention_dropout, rngs=rngs,
            )  # fmt: skip
        self.merge = Merge(w, c.merge_heads, c.merge_head_width, c.merge_dropout, rngs=rngs) if c.merged else None

    def project(
        self, x: Float[Array, "b n d"], *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b n e"]:
        """Instances as the base model reads them."""
        h = activated(self.encoder(x), self.activation)
        return h if self.dropout is None else self.dropout(h, deterministic=deterministic, rngs=rngs)

    def see(
        self,
        h: Float[Array, "b n e"],
        stay: Bool[Array, "b n"],
        merge: Bool[Array, "b n"] | None = None,
        queries: Float[Array, "m e"] | None = None,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Seen, Float[Array, "b m e"] | None]:
        """What the base model says of the instances that stay and, with `merge`, of tokens of those that are merged.

        Returns:
            What is said, of instances without the tokens; the tokens.
        """
        n, tokens = h.shape[1], None
        if merge is not None and queries is not None:
            assert self.merge is not None
            tokens = self.merge(queries, h, merge, deterministic=deterministic, rngs=rngs).astype(h.dtype)
            h = jnp.concatenate([h, tokens], 1)
            there = jnp.broadcast_to(merge.any(1, keepdims=True), tokens.shape[:2])
            stay = jnp.concatenate([stay, there], 1)
        seen: Seen = self.base(h, stay, deterministic=deterministic, rngs=rngs)
        each = None if seen.instance_logits is None else seen.instance_logits[:, :n]
        seen = seen._replace(attention=seen.attention[:, :n], hard=seen.hard[:, :n], instance_logits=each)
        return seen, tokens


class MHIMModule(nnx.Module):
    """See `MHIM`."""

    def __init__(self, config: MHIM, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config = config
        self.student = Net(config, in_features, out_features, rngs=rngs)
        self.teacher = nnx.List([Momentum(leaf) for leaf in jax.tree.leaves(nnx.state(self.student, nnx.Param))])
        bound = (6 / (3 * 16 * 16 + config.width)) ** 0.5  # the authors', who have it from prompts of vision models
        start = (config.merged, config.width)
        self.queries = (
            Momentum(jax.random.uniform(rngs.params(), start, minval=-bound, maxval=bound)) if config.merged else None
        )

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """The student's: logits, attention (DSMIL: a column a logit; self-attention: a column a head of the second
        layer), embedding, and instance logits unless the base is self-attention.

        In training attention is over the instances that were neither masked nor merged, and `extras` have "student" and
        "teacher", the features whose distance is part of the loss. Of DSMIL there are also both streams' logits.
        """
        mask, test = bags.mask, self._queries() if self.config.merge_at_test else None
        if deterministic:
            return as_output(self.student.see(self.student.project(bags.x), mask, mask, test)[0], mask)
        if rngs is None:
            raise ConfigError("MHIM masks and merges at random in training; pass rngs=nnx.Rngs(key), or deterministic.")
        self.move_teacher(mask.any())
        teacher = self.net_of_teacher()
        h = teacher.project(bags.x, deterministic=False, rngs=rngs)
        seen, _ = teacher.see(h, mask, mask, test, deterministic=test is not None, rngs=rngs)
        taught: Seen = jax.lax.stop_gradient(seen)
        left = mask & ~self.masking(taught.hard, mask, rngs)
        h = self.student.project(bags.x, deterministic=False, rngs=rngs)
        seen = self._learn(h, left, rngs)
        output = as_output(seen, left)
        output.extras.update(student=seen.features, teacher=taught.features)
        return output

    @property
    def masking(self) -> Masking:
        """Which instances go."""
        c = self.config
        return Masking(c.hard, c.hard_of, c.low, c.random)

    def _learn(self, h: Float[Array, "b n e"], left: Bool[Array, "b n"], rngs: nnx.Rngs) -> Seen:
        """The student on what is left of the bags, some of it merged, by which the global queries move."""
        queries = self._queries()
        if queries is None:
            return self.student.see(h, left, deterministic=False, rngs=rngs)[0]
        number = shares(left.shape[1], self.config.kept, "down")[left.sum(1)]
        stay = drawn(left, number, rngs)
        seen, tokens = self.student.see(h, stay, left & ~stay, queries, deterministic=False, rngs=rngs)
        assert tokens is not None
        assert self.queries is not None
        real = left.any(1)
        mean = jnp.where(real[:, None, None], tokens, 0).sum(0) / jnp.maximum(real.sum(), 1)
        self.queries.follow(mean, self.config.merge_momentum, real.any())
        return seen

    def _queries(self) -> Float[Array, "m e"] | None:
        return None if self.queries is None else self.queries[...]

    def move_teacher(self, there: Bool[Array, ""]) -> None:
        """Let the teacher follow the student as it now is; not where no bag is `there`."""
        for mine, new in zip(self.teacher, jax.tree.leaves(nnx.state(self.student, nnx.Param)), strict=True):
            mine.follow(new, self.config.momentum, there)

    def net_of_teacher(self) -> Net:
        """The student's module with the teacher's numbers."""
        parts: Any = nnx.split(self.student, nnx.Param, ...)
        graph, params, rest = parts
        leaves = [mine[...] for mine in self.teacher]
        net: Net = nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(params), leaves), rest, copy=True)
        return net


def as_output(seen: Seen, mask: Bool[Array, "b n"]) -> Output:
    """The positive part of the attention, scaled to sum to 1: merged tokens may have taken some of it."""
    positive = jnp.where(mask[..., None], jnp.maximum(seen.attention, 0), 0)
    total = positive.sum(1, keepdims=True)
    count = jnp.maximum(mask.sum(1), 1)[:, None, None].astype(positive.dtype)
    attention = jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), 1 / count)
    each = seen.instance_logits
    return Output(
        seen.logits,
        attention=jnp.where(mask[..., None], attention, 0),
        instance_logits=None if each is None else jnp.where(mask[..., None], each, 0),
        embedding=seen.features.reshape(len(seen.features), -1),
        extras=dict(seen.streams),
    )
