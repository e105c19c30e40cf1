"""The bags of Raff & Holt's algorithmic tests: background, concepts, and a shortcut that turns round at test.

Each test gives training bags and test bags of one task. The training bags hold a shortcut that points the wrong way at
test: a model that keeps to its assumption cannot use it, and one that can falls below an AUROC of .5.
`milkit.testing.algorithmic` says which assumption each test binds.

Sizes and distributions are those of torchmil 1.0.2, which follows the paper's algorithms 1 to 3, with one difference:
in `false_frequency` torchmil always draws the first concept for a negative bag; here each is drawn as often.

References:
    Raff & Holt (2023), Reproducibility in multiple instance learning: a case for algorithmic unit tests. NeurIPS,
    arXiv:2310.17867.
"""

import numpy as np
from numpy.random import Generator

from milkit.testing.draws import SIZES, Draw, Sizes, draw

BACKGROUND, CONCEPT_A, CONCEPT_B, POISON = 0, 1, 2, -1
"""Kinds of instance."""

FEATURES = 16
_MOST_BACKGROUND = 9  # bags of the two-concept tests hold 1 to 9 background instances


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


def single_concept(seed: int, sizes: Sizes = SIZES, features: int = FEATURES, background: int = 10) -> Draw:
    """Algorithm 1: may a model call a bag positive because something is missing from it?

    Positive bags hold 1 to 3 positive instances. A poison instance marks negative bags in training and positive bags
    at test: under the standard assumption no instance can speak for the negative class.

    Args:
        seed: equal seeds give equal bags.
        sizes: bags of each role.
        features: d.
        background: instances N(0, I) of each bag.
    """
    return draw(seed, sizes, lambda rng, positive, train: _single(rng, positive, train, features, background))


def multi_concept(seed: int, sizes: Sizes = SIZES, features: int = FEATURES) -> Draw:
    """Algorithm 2: does a model that must see both concepts keep to them when a poison instance is easier?

    Positive bags hold both concepts, negative bags one instance of one; poison as in `single_concept`. Arguments are
    those of `single_concept`.
    """
    return draw(seed, sizes, lambda rng, positive, train: _multi(rng, positive, train, features))


def false_frequency(seed: int, sizes: Sizes = SIZES, features: int = FEATURES) -> Draw:
    """Algorithm 3: does a model detect both concepts, or count?

    Positive bags hold one of each concept; negative bags one concept, once in training but 35 to 44 times at test.
    Arguments are those of `single_concept`.
    """
    return draw(seed, sizes, lambda rng, positive, train: _frequency(rng, positive, train, features))
