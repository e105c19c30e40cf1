"""What a bag must be, wherever it comes from; each message names the bag."""

from dataclasses import replace
from typing import Any

import numpy as np

from milkit.errors import DataError

_LONGEST = 255
"""Bytes of a file's name on nearly all file systems."""


def check_id(name: object, before: str = "") -> None:
    """Raise unless an id is text, not blank, without blanks around it; `before` is the id of the bag before."""
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
        place = f"after bag {before!r}" if before else "the first bag"
        raise DataError(f"A bag ({place}) has the id {name!r}; expected text, not blank, without blanks around it.")


def file_name_of(name: str, ending: str = "") -> str:
    """The name of a file that is called after a bag, such as `slide_1.h5`; it lies in its folder and nowhere else.

    Ids come out of tables and other people's files, and may say `../x`, `/etc/x` or `C:x`.

    Args:
        name: the bag's id.
        ending: of the file.

    Raises:
        DataError: an id that names another folder, or that file systems do not take as a name.
    """
    check_id(name)
    strange = set(name) & set('/\\:*?"<>|')
    file = name + ending
    if strange or name in (".", "..") or name.startswith("-") or len(file.encode()) > _LONGEST:
        why = f"holds {' '.join(sorted(strange))}" if strange else "is no name that all file systems take"
        raise DataError(f"Bag {name[:80]!r} cannot give a file its name: it {why}. Rename the bag (its file, its row).")
    return file


def as_bag(bag: Any, place: int) -> Any:
    """A `milkit.Bag` whose features and positions are arrays of NumPy.

    Args:
        bag: what was given for one.
        place: how many came before it, for the message.

    Raises:
        DataError: it is no bag, or its instances differ in length.
    """
    if not all(hasattr(bag, name) for name in ("id", "x", "coords_um")):
        raise DataError(
            f"Bag number {place + 1} is a {type(bag).__name__}; expected a milkit.Bag, such as "
            'Bag("slide_1", features) with features of shape [instances, features].'
        )
    try:
        x, coords = np.asarray(bag.x), None if bag.coords_um is None else np.asarray(bag.coords_um)
        pixels = None if bag.coords_px is None else np.asarray(bag.coords_px)
    except ValueError as error:
        raise DataError(
            f"Bag {bag.id!r} is ragged: its instances or positions differ in length ({error}); expected arrays "
            "[instances, features] and [instances, 2]."
        ) from None
    return replace(bag, x=x, coords_um=coords, coords_px=pixels)


def check_features(name: str, x: np.ndarray, first: str = "", width: int = 0) -> None:
    """Raise unless features are [n, d] finite numbers, n >= 1, as wide as those of the first bag.

    Args:
        name: the bag's id.
        x: its features.
        first: id of the first bag, "" if this is it.
        width: features an instance of the first bag.
    """
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(f"Bag {name!r} has features of shape {x.shape}; expected [instances, features], none 0.")
    if first and x.shape[1] != width:
        raise DataError(
            f"Bag {name!r} has {x.shape[1]} features an instance, but bag {first!r} has {width}; "
            "all bags need one width (one encoder)."
        )
    if x.dtype.kind not in "fiu" and x.dtype.name != "bfloat16":
        raise DataError(f"Bag {name!r} has features of dtype {x.dtype}; expected numbers.")
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise DataError(
            f"Bag {name!r} holds {x[row, column]} at instance {row}, feature {column} ({int(bad.sum())} values are "
            "NaN or infinite); features must be finite. Look at how they were made."
        )


def check_coords(name: str, coords: np.ndarray, n: int, what: str = "coords_um") -> None:
    """Raise unless positions are [n, 2] finite numbers; pixels (`coords_px`) are whole."""
    kinds = "iu" if what == "coords_px" else "fiu"
    if coords.shape != (n, 2) or coords.dtype.kind not in kinds or not np.isfinite(coords).all():
        whole = "whole" if what == "coords_px" else "finite"
        raise DataError(
            f"{what} of bag {name!r} is {coords.dtype} of shape {coords.shape}; expected {(n, 2)}, {whole} numbers."
        )
