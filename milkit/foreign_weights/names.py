"""What is known of one naming: where its arrays go, and what their shapes say of the model."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rearrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Names:
    """Where the arrays of a file go.

    Attributes:
        linear: linear layers: the file's name without `.weight` and `.bias`, milkit's without `/kernel` and `/bias`.
            PyTorch keeps their weights as [out, in].
        arrays: any other array: the file's whole name, milkit's whole path and how the one is rearranged into the
            other (convolutions, stacks).
        unused: whole names that milkit has no need of, such as the bias of a score, which a softmax takes away.
    """

    linear: Mapping[str, str]
    arrays: Mapping[str, tuple[str, Rearrange]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a file of weights turned out to be.

    Attributes:
        config: the model, with the sizes that the file's arrays have.
        in_features, out_features: features of an instance, and logits.
        names: where its arrays go.
    """

    config: Any
    in_features: int
    out_features: int
    names: Names


class Shapes:
    """Shapes of a file's arrays, by name."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self._shapes = shapes

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def size(self, name: str, axis: int = 0) -> int:
        """Of one axis of an array; 1 where there is none such: what is missing is said when arrays are placed."""
        shape = self._shapes.get(name, ())
        return shape[axis] if axis < len(shape) else 1

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that stand for `#` in the names that match, such as `layers.#.weight`, in order."""
        wanted = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)") + "$")
        return sorted({int(m[1]) for m in map(wanted.match, self._shapes) if m})

    def count(self, pattern: str) -> int:
        """One more than the highest of these numbers, so that one left out is missed; 0 without any."""
        return 1 + max(self.numbers(pattern), default=-1)


def norm(theirs: str, ours: str) -> dict[str, tuple[str, Rearrange]]:
    """The two arrays of a layer normalisation."""
    return {f"{theirs}.weight": (f"{ours}/scale", np.asarray), f"{theirs}.bias": (f"{ours}/bias", np.asarray)}


def first(array: np.ndarray) -> np.ndarray:
    """An array without its leading axis of one."""
    if array.shape[0] != 1:
        raise ValueError(f"expected a first axis of 1, found {array.shape}")
    return array[0]
