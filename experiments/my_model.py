"""A model of one's own in one file: an experiment to run, and its contract battery (docs/own_model.md).

    milkit run experiments/my_model.py          # ten folds of MUSK1, with intervals, and a report
    pytest experiments/my_model.py              # every contract that milkit's own models keep

The model: instances vote, and each vote weighs as much as its instance lies away from the bag's average instance.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from milkit import Adam, Classic, Experiment, GivenFolds, Train
from milkit.nn import MLP, linear, masked_mean, masked_softmax
from milkit.testing import model_battery
from milkit.types import Bags, Output


@dataclass(frozen=True)
class OddOnesOut:
    """What you write, print and save: options, with their defaults."""

    claims: ClassVar[frozenset[str]] = frozenset({"collective"})  # no promise about single instances

    encoder: tuple[int, ...] = (32,)
    dropout: float = 0.1

    def build(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> "OddOnesOutModule":
        """Make the network for bags of `in_features` and `out_features` logits."""
        return OddOnesOutModule(self, in_features, out_features, rngs=rngs)


class OddOnesOutModule(nnx.Module):
    """The network: padded bags [b, n, d] and their mask in, one `Output` out; labels never reach it."""

    def __init__(self, config: OddOnesOut, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.encoder = MLP(in_features, config.encoder, dropout=config.dropout, rngs=rngs)
        self.vote = linear(self.encoder.out_features, out_features, rngs=rngs)
        self.sharpness = nnx.Param(jnp.ones(()))

    def __call__(self, bags: Bags, *, deterministic: bool = True, rngs: nnx.Rngs | None = None) -> Output:
        """Only rows where `bags.mask` is True are instances; masked functions keep the padding out."""
        h = self.encoder(bags.x, deterministic=deterministic, rngs=rngs)
        away = jnp.square(h - masked_mean(h, bags.mask)[:, None]).mean(-1, keepdims=True)
        weight = masked_softmax(self.sharpness * away, bags.mask)
        votes = self.vote(h)
        return Output((weight * votes).sum(1), attention=weight, instance_logits=votes)


mine = Experiment(
    Classic("musk1"), GivenFolds(validation=0.1), OddOnesOut(), Train(Adam(1e-3), epochs=40, standardise=True)
)


def test_my_model():
    """The one line for a project of one's own."""
    model_battery(OddOnesOut())
