"""Right-censored times as every function here takes them, checked before anything is computed from them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Num

from milkit.errors import DataError

Column = Num[np.ndarray, "n"] | Bool[np.ndarray, "n"] | Sequence[float] | Sequence[int] | Sequence[bool]
"""One number a patient."""


def censored_times(time: Column, event: Column) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Times as float64 and events as booleans.

    Args:
        time: from a common start to the event or to the last time the patient was known to be free of it, in any unit,
            0 or above. (A cohort table for training needs times above 0; to rank patients 0 does no harm.)
        event: 1 = the event was seen, 0 = censored.

    Raises:
        DataError: a time that is negative or not finite, an event that is neither 0 nor 1, or columns of different
            lengths; names the first such patient by index.
    """
    t, e = np.asarray(time, np.float64), np.asarray(event, np.float64)
    if t.shape != e.shape or t.ndim != 1:
        raise DataError(f"time has the shape {t.shape} and event {e.shape}; give one number a patient in each.")
    wrong = np.flatnonzero(~(np.isfinite(t) & (t >= 0)))
    if len(wrong):
        raise DataError(
            f"time[{wrong[0]}] is {t[wrong[0]]:g} ({len(wrong)} such in all); expected a finite number of 0 or above. "
            "Leave the patient out or mend the table."
        )
    wrong = np.flatnonzero((e != 0) & (e != 1))
    if len(wrong):
        raise DataError(
            f"event[{wrong[0]}] is {e[wrong[0]]:g} ({len(wrong)} such in all); expected 1 (seen) or 0 (censored). "
            "A second kind of event (a competing risk) is not offered; code it as censored only if that is what it is."
        )
    return t, e == 1


def same_length(what: str, column: np.ndarray, time: np.ndarray) -> None:
    """Raise a DataError if a column does not hold one value a patient."""
    if column.shape != time.shape:
        raise DataError(
            f"{what} has the shape {column.shape}, but there are {len(time)} patients; give one value a patient."
        )
