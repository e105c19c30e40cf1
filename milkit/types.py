"""The values that flow from room to room. Shapes are written here once.

Letters: b bags, n instances (of the longest bag, the rest is padding), d features, v covariates, c outputs (classes), k
attention heads, e width of the bag embedding, h w image height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from milkit.bag import Bag
from milkit.errors import DataError

__all__ = ["Bag", "Bags", "Batch", "Images", "Output"]


def _pytree(cls: type) -> type:
    """Register a frozen dataclass as a pytree whose leaves are its fields.

    Unflattening bypasses `__init__`: JAX fills trees with objects that are not arrays (specs, axes, None), and a
    shape check there would refuse them.
    """
    names = tuple(f.name for f in fields(cls))

    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in names], None

    def flatten(value: Any) -> tuple[list[Any], None]:
        return [getattr(value, n) for n in names], None

    def unflatten(_: None, leaves: Any) -> Any:
        value: Any = object.__new__(cls)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(value, name, leaf)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@_pytree
@dataclass(frozen=True)
class Bags:
    """A padded batch of bags: all that a model is given.

    Attributes:
        x: features; padding rows hold zeros.
        mask: True on real instances. A bag without any True is a filler and gives finite nonsense.
        coords_um: top-left corners in micrometres (x, y), or None.
        neighbours: indices of each instance's neighbours in the same bag; -1 is no neighbour; or None.
        covariates: what the table says of each bag, scaled for the run, 0 where it is not known; or None.
    """

    x: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    coords_um: Float[Array, "b n 2"] | None = None
    neighbours: Int[Array, "b n j"] | None = None
    covariates: Float[Array, "b v"] | None = None

    @staticmethod
    def of(x: Any, coords_um: Any = None, covariates: Any = None) -> "Bags":
        """Pad one bag [n, d], or a list of bags of different lengths, into a batch; for notebooks and tests.

        Args:
            x: one array [n, d], or a sequence of such arrays with one common d.
            coords_um: likewise [n, 2], or None.
            covariates: one row a bag, [b, v], finite; of a single bag also [v]; or None.

        Raises:
            DataError: an empty bag, a bag that is not two-dimensional, bags of different widths, or covariates that
                are not a row of finite numbers for each bag.
        """
        bags = [np.asarray(b) for b in (x if isinstance(x, Sequence) else [x])]
        for i, b in enumerate(bags):
            if b.ndim != 2 or 0 in b.shape:
                raise DataError(f"Bag {i} has shape {b.shape}; expected [instances, features], neither of them 0.")
            if b.shape[1] != bags[0].shape[1]:
                raise DataError(
                    f"Bag {i} has {b.shape[1]} features a row but bag 0 has {bags[0].shape[1]}; "
                    "all bags of a batch need one feature width."
                )
        if not bags:
            raise DataError("Bags.of([]) got no bag; give one array [n, d] or a list with at least one.")
        dtype = np.result_type(*[b.dtype for b in bags])
        dtype = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float32)
        mask = np.zeros((len(bags), max(len(b) for b in bags)), bool)
        padded = np.zeros((*mask.shape, bags[0].shape[1]), dtype)
        for i, b in enumerate(bags):
            padded[i, : len(b)], mask[i, : len(b)] = b, True
        xy = None
        if coords_um is not None:
            given = [np.asarray(c) for c in (coords_um if isinstance(coords_um, Sequence) else [coords_um])]
            xy = np.zeros((*mask.shape, 2), np.float32)
            for i, (b, c) in enumerate(zip(bags, given, strict=True)):
                if c.shape != (len(b), 2):
                    raise DataError(f"coords_um of bag {i} has shape {c.shape}; expected {(len(b), 2)}.")
                xy[i, : len(c)] = c
        v = None if covariates is None else jnp.asarray(_rows_of(covariates, len(bags)))
        return Bags(jnp.asarray(padded), jnp.asarray(mask), None if xy is None else jnp.asarray(xy), covariates=v)


def _rows_of(covariates: Any, bags: int) -> np.ndarray:
    rows = np.asarray(covariates, np.float32)
    rows = rows[None] if rows.ndim == 1 and bags == 1 else rows
    if rows.ndim != 2 or len(rows) != bags or not np.isfinite(rows).all():
        raise DataError(
            f"covariates have shape {rows.shape}{'' if np.isfinite(rows).all() else ' and are not finite'}; expected a "
            f"row of finite numbers for each of the {bags} bags, with 0 (the scaled mean) where one is not known."
        )
    return rows


@_pytree
@dataclass(frozen=True)
class Images:
    """A batch of images whose pixels are the instances (pixel-level models).

    Attributes:
        x: pixels, channels last.
        mask: True on real pixels; padding around smaller images is False.
    """

    x: Float[Array, "b h w c"]
    mask: Bool[Array, "b h w"]


@_pytree
@dataclass(frozen=True)
class Batch:
    """What one training step of one run is given.

    Attributes:
        bags: the instances; the only part a model sees.
        target: see `milkit.task` for its shape in each task.
        weight: weight of each bag in the loss; 0 for fillers.
        index: row of each bag in the study's table.
        truth: of images whose masks are handed out for training, what each pixel is: 0 or 1 a label, 0 where it is not
            known; else None. Only the losses of supervised bounds read it.
        known: with `truth`, True on pixels of which it is known.
    """

    bags: Bags | Images
    target: Int[Array, "b"] | Float[Array, "b t"]
    weight: Float[Array, "b"]
    index: Int[Array, "b"]
    truth: Float[Array, "b h w c"] | None = None
    known: Bool[Array, "b h w"] | None = None


@_pytree
@dataclass(frozen=True)
class Output:
    """What every model returns, whatever its options.

    Attributes:
        logits: one row a bag; how to read them is the task's (`milkit.task`).
        attention: weights over the instances, a head's sum 1 over real instances and 0 on padding; None for models
            without attention.
        instance_logits: the model's own score of each instance, or None.
        embedding: the bag's vector before the last layer, or None.
        extras: what a model's own `objective` needs (side outputs, pseudo-labels ...).
    """

    logits: Float[Array, "b c"]
    attention: Float[Array, "b n k"] | None = None
    instance_logits: Float[Array, "b n c"] | None = None
    embedding: Float[Array, "b e"] | None = None
    extras: dict[str, Any] = field(default_factory=dict)
