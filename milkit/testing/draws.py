"""Synthetic bags with known labels: one draw of a test holds what to train on, to validate on and to test on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.random import Generator

from milkit.errors import ConfigError

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Sizes:
    """Bags of each role, half of them positive."""

    train: int = 200
    validation: int = 100
    test: int = 400  # the sampling interval of an AUROC of .5 is then +- .057

    def __post_init__(self) -> None:
        for role in ROLES:
            if getattr(self, role) < 4:
                raise ConfigError(f"sizes.{role} is {getattr(self, role)}; give at least 4 bags, two of each class.")


SIZES = Sizes()
"""The default."""


@dataclass(frozen=True, eq=False)
class LabelledBags:
    """Bags of one role.

    Attributes:
        x: features of each bag, [n, d] float32.
        kinds: what each instance is, [n] (numbers are the generator's); not for models.
        labels: 1 = positive, [bags].
    """

    x: list[np.ndarray]
    kinds: list[np.ndarray]
    labels: Int[np.ndarray, "bags"]


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of a test.

    Attributes:
        train: to learn from.
        validation: to choose epoch and learning rate on; drawn as the training bags are, so that nothing that is
            chosen has seen how the test bags differ.
        test: to measure AUROC on.
    """

    train: LabelledBags
    validation: LabelledBags
    test: LabelledBags


DrawBag = Callable[[Generator, bool, bool], tuple[np.ndarray, np.ndarray]]
"""(generator, positive, as in training) to the features [n, d] and kinds [n] of one bag."""


def draw(seed: int, sizes: Sizes, bag: DrawBag) -> Draw:
    """Draw the three roles from independent streams; labels alternate.

    Args:
        seed: of numpy's generator; equal seeds give equal bags.
        sizes: bags of each role.
        bag: draws one bag.
    """
    streams = dict(zip(("train", "test", "validation"), np.random.default_rng(seed).spawn(3), strict=True))
    roles = {}
    for role in ROLES:
        labels = np.arange(getattr(sizes, role), dtype=np.int32) % 2
        drawn = [bag(streams[role], bool(label), role != "test") for label in labels]
        roles[role] = LabelledBags([x for x, _ in drawn], [k for _, k in drawn], labels)
    return Draw(**roles)
