"""Rows of instances put together into labelled bags; and the label that was left in among the features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from milkit.data.where import and_more
from milkit.errors import DataError

ROOM = 256 << 20
"""Bytes that a small file may grow to when it is unpacked."""
GROWTH = 4
"""Bytes that each byte of a file may grow to beside."""


def room_for(size: int) -> int:
    """The most bytes that the content of a file of `size` bytes may take; what claims more is damaged or hostile."""
    return ROOM + GROWTH * size


@dataclass(frozen=True, eq=False)
class LabelledBags:
    """Labelled bags whose instances lie one after the other.

    Attributes:
        names: of the bags.
        x: features float32, [N, d].
        offsets: bag b is rows `offsets[b]:offsets[b + 1]`, [B + 1].
        classes: names of the classes, in order.
        y: number of each bag's class, [B].
        train: True where a bag trains, [repeats, folds, B].
        instances: class of each instance where it is not that of the bag, [N]; None where nothing is known.
        notes: what a reader should know.
    """

    names: tuple[str, ...]
    x: Float[np.ndarray, "n d"]
    offsets: Int[np.ndarray, " ends"]
    classes: tuple[str, ...]
    y: Int[np.ndarray, " bags"]
    train: Bool[np.ndarray, "repeats folds bags"]
    instances: Int[np.ndarray, " n"] | None = None
    notes: tuple[str, ...] = ()


def of_rows(
    path: Path, x: np.ndarray, bag: Sequence[str], label: Sequence[str], notes: Sequence[str] = ()
) -> LabelledBags:
    """Bags from instances that each name their bag.

    Args:
        path: the file, for messages.
        x: features, [N, d].
        bag: name of each instance's bag, [N]; a bag's instances need not stand together.
        label: of each instance, [N], as text. Where it is the same for all instances of every bag it is the bags'
            label; where it differs and there are two labels, a bag has the larger one (0 and 1, -1 and 1, "neg" and
            "pos") if one of its instances has it, and labels of instances are kept apart.
        notes: what a reader should know.

    Raises:
        DataError: sizes that do not fit, values that are not finite, one class, or labels that differ within bags
            where there are more than two.
    """
    if x.ndim != 2 or 0 in x.shape or not (len(x) == len(bag) == len(label)):
        raise DataError(
            f"{path}: features {x.shape} of {len(bag)} bag names and {len(label)} labels do not fit together."
        )
    first: dict[str, int] = {}
    number = np.array([first.setdefault(name, len(first)) for name in bag], np.int64)
    order = np.argsort(number, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(first)))]).astype(np.int64)
    classes = tuple(sorted(set(label), key=_in_order))
    value = np.array([classes.index(text) for text in label], np.int64)[order]
    most = np.maximum.reduceat(value, offsets[:-1])
    differ = most != np.minimum.reduceat(value, offsets[:-1])
    if differ.any() and len(classes) != 2:
        named = [name for name, its in zip(first, differ, strict=True) if its]
        raise DataError(
            f"{path}: instances of one bag have different labels ({and_more(named[:3], len(named))}) of {classes}; "
            "give the file labels of bags."
        )
    found = LabelledBags(
        names=tuple(first),
        x=as_float32(x[order]),
        offsets=offsets,
        classes=classes,
        y=most,
        train=np.zeros((0, 0, len(first)), bool),
        instances=value if differ.any() else None,
        notes=tuple(notes),
    )
    return checked(path, found)


def checked(path: Path, bags: LabelledBags) -> LabelledBags:
    """The bags, if they can be worked with.

    Raises:
        DataError: values that are not finite, or fewer than two classes.
    """
    if not np.isfinite(bags.x).all():
        row, column = np.argwhere(~np.isfinite(bags.x))[0].tolist()
        raise DataError(
            f"{path}: NaN, infinity or more than float32 holds at instance {row + 1}, feature {column + 1}; mend it."
        )
    if len(set(bags.y.tolist())) < 2:
        raise DataError(f"{path}: all {len(bags.y)} bags have the label {bags.classes}; there is nothing to learn.")
    return bags


def label_columns(bags: LabelledBags) -> list[int]:
    """Features that are the label: constant within every bag, and one value a class, another for each."""
    first = bags.x[bags.offsets[:-1]]
    constant = (bags.x == np.repeat(first, np.diff(bags.offsets), axis=0)).all(axis=0)
    found = []
    for column in np.flatnonzero(constant).tolist():
        values = [set(first[bags.y == number, column].tolist()) for number in sorted(set(bags.y.tolist()))]
        if all(len(value) == 1 for value in values) and len(set.union(*values)) == len(values):
            found.append(column)
    return found


def without(path: Path, bags: LabelledBags, drop: Sequence[int]) -> LabelledBags:
    """The bags without some features, counted from 1, and without the label among them.

    Raises:
        DataError: a feature is the label and is not to be dropped; a number that is no feature.
    """
    width = bags.x.shape[1]
    wrong = [number for number in drop if not 1 <= number <= width]
    if wrong or len(set(drop)) >= width:
        raise DataError(f"{path}: drop={tuple(drop)}, but there are {width} features, counted from 1.")
    leaks = [column + 1 for column in label_columns(bags) if column + 1 not in drop]
    if leaks:
        raise DataError(
            f"{path}: feature {and_more([str(number) for number in leaks], len(leaks))} of {width} is the label: it is "
            f"constant within every bag and has one value a class. Leave it out: drop={(*drop, *leaks)}."
        )
    if not drop:
        return bags
    kept = [column for column in range(width) if column + 1 not in drop]
    note = f"{len(set(drop))} of {width} features left out: {sorted(set(drop))} (counted from 1)"
    return replace(bags, x=np.ascontiguousarray(bags.x[:, kept]), notes=(*bags.notes, note))


def _in_order(text: str) -> tuple[int, float, str]:
    """Numbers by size, before words by letters."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def as_float32(x: np.ndarray) -> np.ndarray:
    """Numbers as float32; those beyond it become infinite, which `checked` refuses."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def plain(value: float | int | bool | str) -> str:
    """A label as text: 1.0 and "1." are "1"."""
    try:
        number = float(value)
    except ValueError:
        return str(value).strip()
    return str(int(number)) if np.isfinite(number) and number == int(number) else str(number)
