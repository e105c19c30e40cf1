"""Synthetic bags that show which assumption a model really makes (Raff & Holt, NeurIPS 2023, arXiv:2310.17867).

Each test gives training bags and test bags of the same task, with a shortcut in the training bags that points the
wrong way at test. A model that keeps to its assumption cannot use the shortcut; one that can will fall below an AUROC
of .5. `single_concept` binds models that claim the `standard` assumption (one positive instance makes a bag positive);
`multi_concept` and `false_frequency` bind those that claim `threshold` (a bag needs both concepts).

Sizes and distributions are those of torchmil 1.0.2, which follows the paper's algorithms 1 to 3, with one difference:
in `false_frequency` torchmil always draws the first concept for a negative bag; here each concept is drawn as often.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

BACKGROUND, CONCEPT_A, CONCEPT_B, POISON = 0, 1, 2, -1
"""Kinds of instance."""

_MOST_BACKGROUND = 9  # bags of the two-concept tests hold 1 to 9 background instances


@dataclass(frozen=True)
class LabelledBags:
    """Bags of one role.

    Attributes:
        x: features of each bag, [n, d] float32.
        kinds: what each instance is (`BACKGROUND`, `CONCEPT_A`, `CONCEPT_B`, `POISON`), [n]; not for models.
        labels: 1 = positive, [bags] int32.
    """

    x: list[np.ndarray]
    kinds: list[np.ndarray]
    labels: np.ndarray


@dataclass(frozen=True)
class AlgorithmicTest:
    """One draw of a test: what to train on and what to measure AUROC on."""

    train: LabelledBags
    test: LabelledBags


def _normal(rng: Generator, mean: float, sd: float, n: int, d: int) -> np.ndarray:
    return rng.normal(mean, sd, size=(n, d)).astype(np.float32)


def _poison(rng: Generator, d: int) -> np.ndarray:
    """One instance far from all others: N(-10, .01 I)."""
    return _normal(rng, -10.0, 0.1, 1, d)


def _concept(rng: Generator, kind: int, n: int, d: int) -> np.ndarray:
    """Instances of a concept of the two-concept tests: N(2, .01 I) or N(3, .01 I)."""
    return _normal(rng, 2.0 if kind == CONCEPT_A else 3.0, 0.1, n, d)


def _bag(rng: Generator, parts: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Join parts of one kind each to a bag, in random order so that place says nothing."""
    x = np.concatenate([part for _, part in parts])
    kinds = np.concatenate([np.full(len(part), kind) for kind, part in parts])
    order = rng.permutation(len(x))
    return x[order], kinds[order]


def _single(rng: Generator, positive: bool, train: bool, d: int, background: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive: 1 to 3 instances, each from N(0, 9 I) or N(1, I). Poison: in negative bags, at test in positive."""
    parts = [(BACKGROUND, _normal(rng, 0.0, 1.0, background, d))]
    if positive:
        for _ in range(rng.integers(1, 4)):
            wide = bool(rng.integers(2))
            kind = CONCEPT_A if wide else CONCEPT_B
            parts.append((kind, _normal(rng, *((0.0, 3.0) if wide else (1.0, 1.0)), 1, d)))
    if positive != train:
        parts.append((POISON, _poison(rng, d)))
    return _bag(rng, parts)


def _multi(rng: Generator, positive: bool, train: bool, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive: 1 to 3 of both concepts; negative: one instance of one of them. Poison as in `_single`."""
    parts = [(BACKGROUND, _normal(rng, 0.0, 1.0, int(rng.integers(1, _MOST_BACKGROUND + 1)), d))]
    if positive:
        n = int(rng.integers(1, 4))
        parts += [(kind, _concept(rng, kind, n, d)) for kind in (CONCEPT_A, CONCEPT_B)]
    else:
        kind = int(rng.choice([CONCEPT_A, CONCEPT_B]))
        parts.append((kind, _concept(rng, kind, 1, d)))
    if positive != train:
        parts.append((POISON, _poison(rng, d)))
    return _bag(rng, parts)


def _frequency(rng: Generator, positive: bool, train: bool, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive: one of each concept; negative: one concept only, once in training, 35 to 44 times at test."""
    parts = [(BACKGROUND, _normal(rng, 0.0, 1.0, int(rng.integers(1, _MOST_BACKGROUND + 1)), d))]
    if positive:
        parts += [(kind, _concept(rng, kind, 1, d)) for kind in (CONCEPT_A, CONCEPT_B)]
    else:
        kind = int(rng.choice([CONCEPT_A, CONCEPT_B]))
        parts.append((kind, _concept(rng, kind, 1 if train else int(rng.integers(35, 45)), d)))
    return _bag(rng, parts)


def _draw(
    seed: int, bags: int, draw: Callable[[Generator, bool, bool], tuple[np.ndarray, np.ndarray]]
) -> AlgorithmicTest:
    """Half positive, half negative bags for each role, alternating; the roles draw from independent streams."""
    roles = []
    for train, stream in zip((True, False), np.random.default_rng(seed).spawn(2), strict=True):
        labels = np.arange(bags, dtype=np.int32) % 2
        drawn = [draw(stream, bool(label), train) for label in labels]
        roles.append(LabelledBags([x for x, _ in drawn], [k for _, k in drawn], labels))
    return AlgorithmicTest(*roles)


def single_concept(seed: int, bags: int = 200, features: int = 16, background: int = 10) -> AlgorithmicTest:
    """Algorithm 1: may a model call a bag positive because something is missing from it?

    Positive bags hold 1 to 3 positive instances. A poison instance marks negative bags in training and positive bags
    at test: under the standard assumption no instance can speak for the negative class.

    Args:
        seed: of numpy's generator; equal seeds give equal bags.
        bags: bags of each role, half of them positive.
        features: d.
        background: instances N(0, I) of each bag.
    """
    return _draw(seed, bags, lambda rng, positive, train: _single(rng, positive, train, features, background))


def multi_concept(seed: int, bags: int = 200, features: int = 16) -> AlgorithmicTest:
    """Algorithm 2: does a model that must see both concepts keep to them when a poison instance is easier?

    Positive bags hold both concepts, negative bags one instance of one; poison as in `single_concept`. Arguments are
    those of `single_concept`.
    """
    return _draw(seed, bags, lambda rng, positive, train: _multi(rng, positive, train, features))


def false_frequency(seed: int, bags: int = 200, features: int = 16) -> AlgorithmicTest:
    """Algorithm 3: does a model detect both concepts, or count?

    Positive bags hold one of each concept; negative bags one concept, once in training but 35 to 44 times at test.
    Arguments are those of `single_concept`.
    """
    return _draw(seed, bags, lambda rng, positive, train: _frequency(rng, positive, train, features))


ALGORITHMIC_TESTS: dict[str, tuple[str, Callable[[int], AlgorithmicTest]]] = {
    "single_concept": ("standard", single_concept),
    "multi_concept": ("threshold", multi_concept),
    "false_frequency": ("threshold", false_frequency),
}
"""Each test by name: the assumption whose claim it binds, and the function of the seed."""
