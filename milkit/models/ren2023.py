"""IIB-MIL: integrated instance-level and bag-level MIL (Ren et al., MICCAI 2023, doi 10.1007/978-3-031-43987-2_54).

An encoder lets instances hear of each other. Learned questions read the bag off them (a transformer's decoder), and one
linear layer classifies it. Beside that each instance is classified by itself, with labels that are worked out while
training: prototypes, a vector a class, follow the instances that are surest of a class, and an instance is labelled by
the prototypes it resembles, among the classes that its bag allows.

    loss = loss of the bag's logits + instance_weight * mean cross-entropy of its instances against these labels

**Prototypes are state**, not parameters: a variable that the module's call moves when it is not deterministic, as batch
normalisation moves its statistics, so that they are kept, selected and restored with a run; at inference they rest.
They start at 0. In a step k instances of the batch, a tenth of all and at least one, are taken for each class, those
that the instance classifier gives it the highest probability, and the prototype goes towards each in turn, the surest
first: p <- m p + (1 - m) h.

Which classes a bag allows is the label's, so it is the objective's: with `background=True` class 0 (of one logit: the
negative) may be in every bag and any other class only in bags of that class, so that bags of class 0 hold nothing else.
Without it all instances of a bag have its class. Where a task has no classes (survival, several labels at once,
regression) the bag's loss alone is left.

Read in the authors' code (models/iibmil.py): 4 stages of five layers with tanh and layer norm, a transformer's layer of
2 heads and a hidden width of 2048, and ReLU of a linear layer of the features added; 5 questions, 2 layers of 4 heads;
dropout .1; the instance classifier behind a layer norm; m = .99.

Deviations:
    - An instance's label is the softmax of its products with the prototypes. The authors keep a soft label for every
      instance of the training set, which moves by .05 to .2 an epoch towards the likeliest class; in a batch of milkit
      instances have no number to keep one under. While prototypes are at 0 the label is spread evenly, as theirs is at
      the start.
    - The surest of a class are looked for among all bags, as the paper's text says; the authors' code looks in bags of
      that class only, which the call cannot know.
    - Padding takes no part (theirs does). Keys have no bias. No dropout of attention weights.
    - The weight of the instances' loss is not in the code that was published; 1 is torchmil's.

`compat="torchmil"` is torchmil 1.0.2, another network: one layer with its norm in front and one with a class token
(`heads`; `stages` and `layers` are their numbers). Its instances' labels are 0 or 1 by the likelier prototype, whatever
the bag's label, prototype 0 follows instances that are surest of class **1** and the other way round, m = .9, and k is
rounded down, so that fewer than 10 instances move nothing. One logit only, and no attention is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.models.ren2023_parts import LibraryLayer, Questions, Stage
from milkit.nn import linear
from milkit.nn.layer_norm import layer_norm
from milkit.nn.query_attention import check_heads
from milkit.types import Bags, Batch, Output


@dataclass(frozen=True)
class IIBMIL:
    """A transformer's encoder and decoder, whose instances are classified too, by labels from prototypes."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    min_instances: ClassVar[int] = 1

    width: int = 256  # the authors' configuration
    """Of encoded instances."""
    stages: int = 4  # the authors' configuration
    """Of the encoder."""
    hidden: int = 2048  # PyTorch's default, which the authors left
    """Hidden width of the encoder's transformer layers."""
    questions: int = 5  # the authors' code
    """Learned vectors that read the bag."""
    layers: int = 2  # the authors' code
    """Of the decoder."""
    heads: int = 4  # the authors' code
    """Of the decoder's attention."""
    dropout: float = 0.1  # the authors' code
    """Rate after each sublayer of the transformers."""
    instance_weight: float = 1.0  # torchmil's; not in the published code
    """Weight of the instances' loss."""
    background: bool = True  # "positive bags hold negative instances"
    """Whether class 0 is in all bags; else all instances of a bag are taken to be of its class."""
    momentum: float = 0.99  # the authors' code
    """Share of itself that a prototype keeps with each instance that it follows."""
    compat: Literal["correct", "torchmil"] = "correct"
    """`torchmil`: as that library has it; see the module's docstring."""

    def __post_init__(self) -> None:
        some = "[1, inf)"
        check_fields(
            self, "model", width=some, stages=some, hidden=some, questions=some, layers=some, heads=some,
            dropout="[0, 1)", instance_weight="[0, inf)", momentum="[0, 1)",
        )  # fmt: skip
        check_heads(self.width, self.heads)
        check_heads(self.width, 2)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "IIBMILModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        if self.compat == "torchmil" and out_features != 1:
            raise ConfigError(f"IIBMIL(compat='torchmil') has one logit, but the task needs {out_features}.")
        return IIBMILModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """The bag's loss and that of its instances; the bag's alone where the task has no classes."""
        bag = bag_loss(output.logits)
        if batch.target.ndim != 1:
            return bag, {"bag": bag}
        scores, logits = output.extras["prototype_scores"], output.instance_logits
        assert logits is not None
        mask = batch.bags.mask
        assert mask.ndim == 2
        if self.compat == "torchmil":
            label = jax.nn.one_hot(scores.argmax(-1), 2)
        else:
            label = soft_labels(scores, batch.target, self.background)
        each = -(jax.lax.stop_gradient(label) * log_probabilities(logits)).sum(-1)
        total, count = jnp.where(mask, each, 0).sum(1), mask.sum(1).astype(each.dtype)
        if self.compat == "torchmil":  # its mean is over all instances of the batch
            count = jnp.broadcast_to(count.sum() / len(count), count.shape)
        instances = total / jnp.maximum(count, 1)
        return bag + self.instance_weight * instances, {"bag": bag, "instances": instances}


def log_probabilities(logits: Float[Array, "b n c"]) -> Float[Array, "b n k"]:
    """Of each class; one logit has two, the negative first."""
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    return jax.nn.log_softmax(logits)


def soft_labels(scores: Float[Array, "b n k"], target: Int[Array, "b"], background: bool) -> Float[Array, "b n k"]:
    """Softmax of the scores over the classes that each bag allows."""
    classes = jnp.arange(scores.shape[-1])
    allowed = (classes == target[:, None]) | (background & (classes == 0))
    return jax.nn.softmax(scores, where=allowed[:, None])


def moved(
    prototypes: Float[Array, "k e"],
    h: Float[Array, "m e"],
    sure: Float[Array, "m k"],
    real: Bool[Array, "m"],
    momentum: float,
    *,
    at_least: int = 1,
) -> Float[Array, "k e"]:
    """The prototypes after they followed the instances that are surest of each class, the surest first.

    Args:
        prototypes: before.
        h: instances of all bags, encoded.
        sure: how sure each is of each class.
        real: which are no padding.
        momentum: see `IIBMIL`.
        at_least: instances that are followed where a tenth of all is less.
    """
    count = real.sum()
    follow = jnp.minimum(jnp.maximum(count // 10, at_least), count)
    most = min(len(h), max(len(h) // 10, at_least))
    if most == 0:
        return prototypes
    rows = jax.lax.top_k(jnp.where(real[:, None], sure, -jnp.inf).T, most)[1]
    rank = jnp.arange(most)
    # p <- m p + (1 - m) h, so often, written out
    kept = jnp.where(rank < follow, momentum ** jnp.maximum(follow - 1 - rank, 0).astype(prototypes.dtype), 0)
    gone = jnp.einsum("r,kre->ke", (1 - momentum) * kept, h.astype(prototypes.dtype)[rows])
    return momentum ** follow.astype(prototypes.dtype) * prototypes + gone


class Prototypes(nnx.Variable):
    """A vector a class: an array leaf of the module's state that training moves without a gradient."""


class IIBMILModule(nnx.Module):
    """See `IIBMIL`."""

    def __init__(self, config: IIBMIL, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.config, width = config, config.width
        widths = [in_features] + [width] * (config.stages - 1)
        theirs = config.compat == "torchmil"
        stages: list[Any]
        layers: list[Any]
        if theirs:
            stages = [LibraryLayer(d, width, config.heads, mlp=True, rngs=rngs) for d in widths]
            layers = [LibraryLayer(width, width, config.heads, mlp=False, rngs=rngs) for _ in range(config.layers)]
            start = jnp.zeros((1, width))
        else:
            stages = [Stage(d, in_features, width, config.hidden, config.dropout, rngs=rngs) for d in widths]
            layers = [Questions(width, config.heads, config.dropout, rngs=rngs) for _ in range(config.layers)]
            start = jax.random.normal(rngs.params(), (config.questions, width))
        self.encoder, self.decoder = nnx.List(stages), nnx.List(layers)
        self.asking = nnx.Param(start)
        self.norm = layer_norm(width, rngs)  # torchmil: of the instances; the authors': before their classifier
        self.bag_norm = layer_norm(width, rngs) if theirs else None
        self.instance_classifier = linear(width, out_features, rngs=rngs)
        self.classifier = linear(width * len(start), out_features, rngs=rngs)
        self.prototypes = Prototypes(jnp.zeros((max(out_features, 2), width)))

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits of bag and instances, the questions' attention in the last layer (their mean), and the embedding.

        `extras`: `prototype_scores` [b, n, classes], products of instances and prototypes as they were before the call;
        `encoded` [b, n, width], the instances. When not deterministic the call moves the prototypes.
        """
        mask = bags.mask
        h = self._encoded(jnp.where(mask[..., None], bags.x, 0), mask, deterministic, rngs)
        seen = h if self.config.compat == "torchmil" else self.norm(h)
        instances = jnp.where(mask[..., None], self.instance_classifier(seen), 0)
        before = self.prototypes[...]
        fixed = jax.lax.stop_gradient(h)
        scores = jnp.einsum("bne,ke->bnk", fixed.astype(before.dtype), before)
        if not deterministic:
            self.prototypes[...] = self.followed(fixed, jax.lax.stop_gradient(instances), mask)
        embedding, attention = self._read(h, mask, deterministic, rngs)
        extras = {"prototype_scores": scores, "encoded": jnp.where(mask[..., None], h, 0)}
        return Output(self.classifier(embedding), attention, instances, embedding, extras)

    def followed(
        self, h: Float[Array, "b n e"], logits: Float[Array, "b n c"], mask: Bool[Array, "b n"]
    ) -> Float[Array, "k e"]:
        """Where the prototypes go with encoded instances and their logits."""
        theirs = self.config.compat == "torchmil"
        sure = log_probabilities(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        sure = sure[..., ::-1] if theirs else sure
        flat, of_each = h.reshape(-1, h.shape[-1]), sure.reshape(-1, sure.shape[-1])
        momentum, at_least = (0.9, 0) if theirs else (self.config.momentum, 1)
        return moved(self.prototypes[...], flat, of_each, mask.ravel(), momentum, at_least=at_least)

    def _encoded(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "b n e"]:
        h = x
        for stage in self.encoder:
            h = stage(h, mask) if isinstance(stage, LibraryLayer) else stage(h, x, mask, deterministic, rngs)
        return self.norm(h) if self.config.compat == "torchmil" else h

    def _read(
        self, h: Float[Array, "b n e"], mask: Bool[Array, "b n"], deterministic: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "b w"], Float[Array, "b n h"] | None]:
        """What the questions find of the bag."""
        asking = jnp.broadcast_to(self.asking[...].astype(h.dtype), (len(h), *self.asking.shape))
        if self.bag_norm is not None:
            tokens, there = jnp.concatenate([asking, h], 1), jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
            for i, layer in enumerate(self.decoder):  # only the first token is read in the end
                tokens = layer(tokens, there, first_only=i == len(self.decoder) - 1)
            return self.bag_norm(tokens)[:, 0], None
        attention = None
        for layer in self.decoder:
            asking, attention = layer(asking, h, mask, deterministic, rngs)
        return asking.reshape(len(h), -1), attention
