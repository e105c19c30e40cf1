"""Micrometres a pixel: read where the file says so, asked for where it does not, never guessed."""

import math
from pathlib import Path

from milkit.errors import DataError

SMALLEST, LARGEST = 0.05, 20.0
"""Micrometres a pixel between which slides lie."""
SQUARE = 0.01
"""How much the two sides of a pixel may differ, relatively."""
ASK = "Give it by the option --mpp (mpp= of open_slide), or slide by slide in the column `mpp` of the cohort table."


class MppError(DataError):
    """A slide that can be read, but whose mpp is not known; no other reader will know it."""


def given_or_found(
    path: Path, given: float | None, found: tuple[float, float] | None, source: str, hint: str = ""
) -> tuple[float, str]:
    """The mpp of level 0 and where it came from.

    Args:
        path: the slide, for messages.
        given: what the user said; it goes before what the file says.
        found: micrometres a pixel along x and y that the file states.
        source: where the file states it.
        hint: what else the file says of its resolution.

    Raises:
        MppError: neither is there, pixels are not square, or the value lies outside [0.05, 20].
    """
    if given is not None:
        if not _plausible(given):
            raise MppError(
                f"{path}: an mpp of {given:g} was given; micrometres a pixel lie between {SMALLEST} and {LARGEST:g}."
            )
        return float(given), "given"
    if found is None:
        raise MppError(f"{path} does not say how many micrometres a pixel is wide (mpp){hint}. {ASK}")
    x, y = found
    if not (_plausible(x) and _plausible(y)):
        raise MppError(
            f"{path} states an mpp of {x:g} (x) and {y:g} (y) in {source}; micrometres a pixel lie between {SMALLEST} "
            f"and {LARGEST:g}. {ASK}"
        )
    if abs(x - y) > SQUARE * x:
        raise MppError(
            f"{path} states pixels that are not square, {x:g} x {y:g} micrometres, in {source}; expected square ones. "
            f"{ASK}"
        )
    return float(x), source


def number(text: object) -> float | None:
    """A number where `text` is one, else None."""
    try:
        value = float(str(text).strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plausible(mpp: float) -> bool:
    return math.isfinite(mpp) and SMALLEST <= mpp <= LARGEST
