"""Random numbers of the protocols: each draw has a stream of its own, keyed by what it is for.

Adding a repeat, a fold or a model therefore never changes another draw. Only `Generator.random` is used:
numpy keeps that stream of doubles stable, but not the algorithms of `shuffle` or `choice`.
"""

from enum import IntEnum

import numpy as np
from jaxtyping import Int64


class Purpose(IntEnum):
    """What a draw is for; the numbers are part of the folds' identity and never change."""

    FOLDS = 0
    TEST = 1
    VALIDATION = 2
    INNER = 3
    LABELS = 4


def stream(seed: int, repeat: int, fold: int, purpose: Purpose) -> np.random.Generator:
    """The stream of one draw."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, repeat, fold, int(purpose)])))


def few_label_stream(seed: int, key: tuple[int, int, int], draw: int, role: int, stratum: int) -> np.random.Generator:
    """The stream that orders the patients of one class in one part of the split `key`, for one draw."""
    numbers = [seed, key[0], key[1], int(Purpose.LABELS), key[2], draw, role, stratum]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def shuffled(n: int, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """A random order of 0 .. n-1."""
    return np.argsort(rng.random(n), kind="stable").astype(np.int64)
