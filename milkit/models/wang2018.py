"""mi-Net, MI-Net, MI-Net with deep supervision and with residual connections (Wang et al., 2018).

Wang, Yan, Tang, Bai & Liu: Revisiting multiple instance neural networks. Pattern Recognition 74:15-24, 2018
(arXiv:1610.02501). The paper tells mi-Net (instances are scored) from MI-Net (bags are) by a capital letter;
here they are `InstanceNet` and `BagNet`.

Read in the authors' code (Keras 2; their repository MINNs): three layers with ReLU, 256-128-64 (128-128-128
with residual connections); dropout .5 on the last layer before it is pooled, and for DS and RC on each
layer's way to its pooling but not on its way to the next layer; max pooling by default, `mean`, or `lse` =
log-mean-exp with r = 1; one sigmoid unit; Glorot uniform kernels, zero biases; SGD with Nesterov momentum .9,
the learning rate divided by 1 + 1e-4 * step, one bag a step, 50 epochs; learning rate and weight decay MUSK1
5e-4, .005; MUSK2 5e-4, .03; Fox 1e-4, .01; Tiger 5e-4, .005; Elephant 1e-4, .005. Keras adds decay * sum(w^2)
to the loss for kernels only: in an optimiser that adds weight_decay * w to the gradient, as PyTorch's do,
that is twice the number.

Deviations:
    - Logits are returned, not probabilities. Where the paper pools or averages probabilities, so does this,
      and gives the result back as a logit. (For tasks that are not binary `average="logits"` may be wanted.)
    - Weight decay is the optimiser's, and there acts on biases unless told otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from milkit.errors import ConfigError
from milkit.fields import check_fields
from milkit.nn import (
    Init,
    LogMeanExp,
    Max,
    Mean,
    Rule,
    dropout_or_none,
    gm_of_probabilities,
    linear,
    lse_of_probabilities,
    masked_max,
    over_instances,
)
from milkit.types import Bags, Batch, Output

WangPooling = Literal["max", "mean", "lse"]


_RULES: dict[WangPooling, Rule] = {"max": Max(), "mean": Mean(), "lse": LogMeanExp(1.0)}
"""The authors' three rules for features; their lse has r = 1."""


def _pool_scores(logits: Float[Array, "b n c"], mask: Bool[Array, "b n"], how: WangPooling) -> Float[Array, "b c"]:
    """Pool the probabilities sigmoid(logits), give the logit of the result; max needs no detour."""
    if how == "max":
        return masked_max(logits, mask)
    return gm_of_probabilities(logits, mask, 1.0) if how == "mean" else lse_of_probabilities(logits, mask, 1.0)


def _check(config: "InstanceNet | BagNet | BagNetDS | BagNetRC") -> None:
    check_fields(config, "model", widths="[1, inf)", dropout="[0, 1)")
    if not config.widths:
        raise ConfigError(f"{type(config).__name__}(widths=()) has no layer; the paper has (256, 128, 64).")


class _Trunk(nnx.Module):
    """The layers that all four networks share; gives every layer's output, ready to be pooled."""

    def __init__(self, in_features: int, widths: tuple[int, ...], dropout: float, init: Init, *, rngs: nnx.Rngs):
        sizes = (in_features, *widths)
        self.layers = nnx.List([linear(a, b, rngs=rngs, init=init) for a, b in pairwise(sizes)])
        self.dropout = dropout_or_none(dropout)

    def __call__(
        self, x: Float[Array, "b n d"], deterministic: bool, rngs: nnx.Rngs | None, *, every: bool
    ) -> list[Float[Array, "b n _"]]:
        """Outputs of `every` layer or of the last; dropout acts on what is given out, not in between."""
        outputs = []
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
            outputs.append(x)
        outputs = outputs if every else outputs[-1:]
        if self.dropout is None:
            return outputs
        return [self.dropout(h, deterministic=deterministic, rngs=rngs) for h in outputs]


@dataclass(frozen=True)
class InstanceNet:
    """mi-Net: score every instance, pool the scores."""

    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    widths: tuple[int, ...] = (256, 128, 64)  # the paper's
    pooling: WangPooling = "max"  # the authors' default
    """Pools the instances' probabilities."""
    dropout: float = 0.5  # the authors' code
    """Rate on the last layer's output."""
    init: Init = "glorot"  # Keras's default, which the authors use

    def __post_init__(self) -> None:
        _check(self)

    @property
    def claims(self) -> frozenset[str]:
        """`standard` with max pooling: no instance can undo a positive one."""
        return frozenset({"standard"} if self.pooling == "max" else {"collective"})

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "InstanceNetModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return InstanceNetModule(self, in_features, out_features, rngs=rngs)


class InstanceNetModule(nnx.Module):
    """See `InstanceNet`."""

    def __init__(self, config: InstanceNet, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.pooling = config.pooling
        self.trunk = _Trunk(in_features, config.widths, config.dropout, config.init, rngs=rngs)
        self.scorer = linear(config.widths[-1], out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits and instance logits; there is no attention and no bag embedding."""

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            return (), self.scorer(self.trunk(x, deterministic, rngs, every=False)[0])

        # scores are few numbers an instance: those of a long bag are kept and pooled at once
        _, scores = over_instances(bags, encode, (), rngs)
        logits = _pool_scores(scores, bags.mask, self.pooling)
        return Output(logits, instance_logits=jnp.where(bags.mask[..., None], scores, 0))


@dataclass(frozen=True)
class BagNet:
    """MI-Net: pool the instances' features, classify the bag."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    """A pooled feature may count against the class, so an instance can undo a positive bag, whatever the
    pooling."""
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    widths: tuple[int, ...] = (256, 128, 64)  # the paper's
    pooling: WangPooling = "max"  # the authors' default
    dropout: float = 0.5  # the authors' code
    """Rate on the last layer's output."""
    init: Init = "glorot"  # Keras's default, which the authors use

    def __post_init__(self) -> None:
        _check(self)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "BagNetModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return BagNetModule(self, in_features, out_features, rngs=rngs)


class BagNetModule(nnx.Module):
    """See `BagNet`."""

    def __init__(self, config: BagNet, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.pooling = config.pooling
        self.trunk = _Trunk(in_features, config.widths, config.dropout, config.init, rngs=rngs)
        self.classifier = linear(config.widths[-1], out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits and the pooled embedding; an instance's logits are those of a bag that holds it alone."""

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            hs = self.trunk(x, deterministic, rngs, every=False)
            return hs, self.classifier(hs[0])

        (embedding,), alone = over_instances(bags, encode, (_RULES[self.pooling],), rngs)
        instance_logits = jnp.where(bags.mask[..., None], alone, 0)
        return Output(self.classifier(embedding), instance_logits=instance_logits, embedding=embedding)


@dataclass(frozen=True)
class BagNetDS:
    """MI-Net with deep supervision: every layer is pooled and has its own classifier.

    Trained on the sum of the classifiers' losses (weights 1, 1, 1 in the authors' code, 0 for their average);
    the average predicts.
    So `train_loss` in a run's history is a sum over the levels, while `validation_loss` is the loss of the average
    alone, about a third of it with three levels: compare each with itself only.
    """

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    widths: tuple[int, ...] = (256, 128, 64)  # the paper's
    pooling: WangPooling = "max"  # the authors' default
    average: Literal["probabilities", "logits"] = "probabilities"  # the paper's
    """What is averaged over the levels. Probabilities means sigmoid of each logit, which fits yes-or-no
    targets."""
    dropout: float = 0.5  # the authors' code
    """Rate on each layer's way to its pooling."""
    init: Init = "glorot"  # Keras's default, which the authors use

    def __post_init__(self) -> None:
        _check(self)

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "BagNetDSModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return BagNetDSModule(self, in_features, out_features, rngs=rngs)

    def objective(
        self, output: Output, batch: Batch, bag_loss: Callable[[Float[Array, "b c"]], Float[Array, "b"]]
    ) -> tuple[Float[Array, "b"], dict[str, Float[Array, "b"]]]:
        """Sum over the levels of the bag's loss, and each level's part by name."""
        levels = output.extras["level_logits"]
        parts = {f"level{i + 1}": bag_loss(levels[:, i]) for i in range(levels.shape[1])}
        return sum(parts.values(), start=jnp.zeros_like(parts["level1"])), parts


class BagNetDSModule(nnx.Module):
    """See `BagNetDS`."""

    def __init__(self, config: BagNetDS, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.pooling, self.average = config.pooling, config.average
        self.trunk = _Trunk(in_features, config.widths, config.dropout, config.init, rngs=rngs)
        self.classifiers = nnx.List([linear(w, out_features, rngs=rngs, init=config.init) for w in config.widths])

    def _mean(self, logits: Float[Array, "*shape levels c"]) -> Float[Array, "*shape c"]:
        if self.average == "logits":
            return logits.mean(-2)
        # the logit of mean p is log(sum p) - log(sum (1 - p)); in log space no confident level is cut off
        log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return jax.nn.logsumexp(log_p, -2) - jax.nn.logsumexp(log_not_p, -2)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits; the levels' own [b, levels, c] are `extras["level_logits"]`; the last level gives the
        embedding.

        An instance's logits are those of a bag that holds it alone.
        """

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            hs = self.trunk(x, deterministic, rngs, every=True)
            return hs, self._mean(jnp.stack([head(h) for head, h in zip(self.classifiers, hs, strict=True)], 2))

        pooled, alone = over_instances(bags, encode, [_RULES[self.pooling]] * len(self.classifiers), rngs)
        levels = jnp.stack([head(z) for head, z in zip(self.classifiers, pooled, strict=True)], 1)
        return Output(
            self._mean(levels),
            instance_logits=jnp.where(bags.mask[..., None], alone, 0),
            embedding=pooled[-1],
            extras={"level_logits": levels},
        )


@dataclass(frozen=True)
class BagNetRC:
    """MI-Net with residual connections: every layer is pooled, the pooled vectors are added up."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})
    position_aware: ClassVar[bool] = False
    chunked: ClassVar[bool] = True

    widths: tuple[int, ...] = (128, 128, 128)  # the paper's; equal, as they are added
    pooling: WangPooling = "max"  # the authors' default
    dropout: float = 0.5  # the authors' code
    """Rate on each layer's way to its pooling."""
    init: Init = "glorot"  # Keras's default, which the authors use

    def __post_init__(self) -> None:
        _check(self)
        if len(set(self.widths)) != 1:
            raise ConfigError(f"BagNetRC adds its layers up, so widths must be equal; they are {self.widths}.")

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "BagNetRCModule":
        """Make the module for bags of `in_features` and `out_features` logits."""
        return BagNetRCModule(self, in_features, out_features, rngs=rngs)


class BagNetRCModule(nnx.Module):
    """See `BagNetRC`."""

    def __init__(self, config: BagNetRC, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.pooling = config.pooling
        self.trunk = _Trunk(in_features, config.widths, config.dropout, config.init, rngs=rngs)
        self.classifier = linear(config.widths[-1], out_features, rngs=rngs, init=config.init)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Logits and the summed embedding; an instance's logits are those of a bag that holds it alone."""

        def encode(x: Float[Array, "b m d"], rngs: nnx.Rngs | None) -> tuple[Any, Any]:
            hs = self.trunk(x, deterministic, rngs, every=True)
            return hs, self.classifier(sum(hs[1:], hs[0]))

        levels = len(self.trunk.layers)
        pooled, alone = over_instances(bags, encode, [_RULES[self.pooling]] * levels, rngs)
        embedding = sum(pooled[1:], pooled[0])
        return Output(
            self.classifier(embedding),
            instance_logits=jnp.where(bags.mask[..., None], alone, 0),
            embedding=embedding,
        )
