"""The battery catches models that are wrong, each in one way, and lets a sound one of a researcher's own through."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from milkit.nn import dropout_or_none, linear, masked_softmax
from milkit.testing.model_battery import CHECKS, check_all
from milkit.types import Bags, Output


@dataclass(frozen=True)
class Toy:
    """A researcher's own attention model, not known to milkit; `fault` breaks it in one way."""

    fault: str = ""
    width: Any = 4
    dropout: float = 0.0

    def build(self, in_features, out_features, *, rngs):
        return (ToyWithLabels if self.fault == "sees labels" else ToyModule)(self, in_features, out_features, rngs)


class ToyModule(nnx.Module):
    def __init__(self, config, in_features, out_features, rngs):
        self.fault = config.fault
        self.encoder = linear(in_features, config.width, rngs=rngs)
        self.score = linear(config.width, 1, rngs=rngs, use_bias=False)
        self.classifier = linear(config.width, out_features, rngs=rngs)
        self.unused = linear(2, 2, rngs=rngs) if config.fault == "unused parameter" else None
        self.dropout = dropout_or_none(config.dropout)

    def weights(self, h, mask):
        scores = self.score(jnp.tanh(h))
        if self.fault == "ignores the mask":
            return jax.nn.softmax(scores, 1)
        if self.fault == "attention does not sum to 1":
            return jnp.where(mask[..., None], jax.nn.sigmoid(scores), 0)
        if self.fault == "NaN on fillers":
            e = jnp.where(mask[..., None], jnp.exp(scores), 0)
            return e / e.sum(1, keepdims=True)
        return masked_softmax(scores, mask)

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        h, fault = self.encoder(bags.x), self.fault
        if fault == "order matters":
            h = h * (1 + 0.1 * jnp.arange(h.shape[1], dtype=h.dtype)[:, None])
        if fault == "bags of a batch meet":
            h = h - jnp.where(bags.mask[..., None], h, 0).sum((0, 1)) / jnp.maximum(bags.mask.sum(), 1)
        if fault == "padded length matters":
            h = h / h.shape[1] ** 0.5
        attention = self.weights(h, bags.mask)
        z = (attention * h).sum(1)
        if fault == "cannot be traced" and float(z.sum()) > 1e9:
            z = 0 * z
        if fault == "cancellation":
            z = z.astype(h.dtype) + 100.0 - 100.0  # attention may be float32 where features are not
        if fault == "detached encoder":
            z = jax.lax.stop_gradient(0 * z)
        if fault == "square root at 0":
            z = jnp.sign(z) * jnp.sqrt(jnp.abs(z))
        if fault == "draws when deterministic" or (fault == "draws from elsewhere" and not deterministic):
            z = z * np.random.default_rng().uniform(0.5, 1.5)
        if fault == "one key for ever" and not deterministic:
            z = z * jax.random.uniform(jax.random.key(0), z.shape)
        if self.dropout is not None:
            z = self.dropout(z, deterministic=deterministic, rngs=rngs)
        logits = self.classifier(z)
        if fault == "one logit":
            logits = logits[:, :1]
        return Output(logits, attention=attention, embedding=z)


class ToyWithLabels(ToyModule):
    def __call__(self, bags: Bags, label: Any = None, *, deterministic: bool = True, rngs: Any = None) -> Output:
        return super().__call__(bags, deterministic=deterministic, rngs=rngs)


FAULTS = {
    "ignores the mask": {"padding", "one_by_one", "attention"},
    "attention does not sum to 1": {"attention"},
    "NaN on fillers": {"small_and_empty"},
    "order matters": {"permutation"},
    "bags of a batch meet": {"one_by_one"},
    "padded length matters": {"padding", "one_by_one"},
    "cancellation": {"bfloat16"},
    "detached encoder": {"gradients"},
    "square root at 0": {"small_and_empty"},
    "unused parameter": {"gradients"},
    "draws when deterministic": {"randomness"},
    "draws from elsewhere": {"randomness"},
    "one key for ever": {"randomness"},
    "sees labels": {"signature"},
}
MESSAGES = {
    "padding": "Padding changes nothing: .* of bag 0",
    "one_by_one": "A batch equals its bags one by one",
    "permutation": "The order of instances does not matter",
    "attention": "sums to 1 over real instances and is 0 on padding",
    "small_and_empty": "bags that are all padding are finite",
    "bfloat16": "bfloat16 stays within tolerance",
    "gradients": "Every parameter gets a gradient: ",
    "randomness": "Randomness comes from the given key only",
    "signature": "never sees a label",
}


@pytest.fixture(autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_a_sound_model_of_ones_own_passes():
    check_all(Toy(dropout=0.5), in_features=6, out_features=1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_wrong_model_is_caught_by_the_check_that_names_its_fault(fault):
    for name in FAULTS[fault]:
        with pytest.raises(AssertionError, match=MESSAGES[name]):
            CHECKS[name](Toy(fault), 6, 1)


def test_all_faults_are_reported_together_whatever_they_raise():
    with pytest.raises(AssertionError) as caught:
        check_all(Toy("cannot be traced"), in_features=6)
    assert "[jit] ConcretizationTypeError" in str(caught.value)
    assert "[signature]" not in str(caught.value)


def test_a_parameter_that_cannot_matter_may_be_declared():
    @dataclass(frozen=True)
    class Declared(Toy):
        no_gradient: ClassVar = ("unused/kernel", "unused/bias")

    CHECKS["gradients"](Declared("unused parameter"), 6, 1)


def test_a_position_aware_model_may_depend_on_order():
    @dataclass(frozen=True)
    class Aware(Toy):
        position_aware: ClassVar = True

    CHECKS["permutation"](Aware("order matters"), 6, 1)


def test_a_model_that_cannot_learn_is_caught():
    with pytest.raises(AssertionError, match="fits 8 easy bags"):
        CHECKS["fits"](Toy("detached encoder"), 6, 1)


def test_logits_of_another_shape_are_caught():
    with pytest.raises(AssertionError, match=r"logits is \(3, 1\), expected \(3, 2\)"):
        CHECKS["shapes"](Toy("one logit"), 6, 2)


def test_configs_that_change_or_do_not_survive_json_are_caught():
    @dataclass
    class Mutable:
        width: int = 4

    for config in (Mutable(), Toy(width=np.int64(4)), Toy(width=[4])):
        with pytest.raises(AssertionError, match="frozen dataclass of plain values"):
            CHECKS["config"](config, 6, 1)


@dataclass(frozen=True)
class PerRegion:
    """A model with a parameter that bags of fewer than 70 instances do not reach."""

    reached: bool = True

    def build(self, in_features, out_features, *, rngs):
        return PerRegionModule(self.reached, in_features, out_features, rngs=rngs)


class PerRegionModule(nnx.Module):
    def __init__(self, reached, in_features, out_features, *, rngs):
        self.reached, self.shift = reached, nnx.Param(jnp.zeros(out_features))
        self.layer = nnx.Linear(in_features, out_features, rngs=rngs)

    def __call__(self, bags, *, deterministic=True, rngs=None):
        count = bags.mask.sum(1, keepdims=True)
        logits = jnp.where(bags.mask[..., None], self.layer(bags.x), 0).sum(1) / jnp.maximum(count, 1)
        return Output(logits + jnp.where((count > 70) & self.reached, self.shift[...], 0.0))


def test_a_parameter_that_only_long_bags_reach_has_a_gradient():
    CHECKS["gradients"](PerRegion(), 4, 1)
    with pytest.raises(AssertionError, match="shift has none"):
        CHECKS["gradients"](PerRegion(reached=False), 4, 1)
