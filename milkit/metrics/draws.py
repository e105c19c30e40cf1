"""What every metric shares: weights with draws in front, and a NaN that says why.

A metric takes `weight` [n], or [draws, n] for many weightings at once (2,000 bootstrap draws are one call), and gives
one number or [draws]. A weight of 2 is a patient that stands twice, 0 one that is not there.

Whether a metric is defined depends on the truth and the weights, not on what a model predicts, as far as its
mathematics allows: a model that gives every patient the same score must not drop out of its own average.
"""

import numpy as np
from jaxtyping import Float, Num, Shaped

Weight = Num[np.ndarray, "*draws n"] | None
Value = float | Float[np.ndarray, "*draws"]

ONE_CLASS = "only one class among the patients compared"


class Undefined(float):
    """A NaN with the reason why there is no value."""

    reason: str

    def __new__(cls, reason: str) -> "Undefined":
        """NaN for `reason`."""
        value = super().__new__(cls, "nan")
        value.reason = reason
        return value

    def __repr__(self) -> str:
        return f"Undefined({self.reason!r})"


def why(value: float) -> str:
    """The reason of a value that is not there; "" for a number."""
    return value.reason if isinstance(value, Undefined) else ""


def as_draws(weight: Weight, n: int) -> Float[np.ndarray, "d n"]:
    """Weights as [draws, n]: ones where none were given."""
    return np.ones((1, n)) if weight is None else np.asarray(weight, np.float64).reshape(-1, n)


def finish(values: Float[np.ndarray, "d"], weight: Weight, reason: str) -> Value:
    """One value or an array of draws, as `weight` asks; a single NaN takes `reason`."""
    if weight is not None and weight.ndim > 1:
        return values.reshape(weight.shape[:-1])
    return Undefined(reason) if np.isnan(values[0]) else float(values[0])


def undefined(weight: Weight, reason: str) -> Value:
    """NaN for every draw."""
    return finish(np.full(1 if weight is None else int(np.prod(weight.shape[:-1])), np.nan), weight, reason)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is not positive."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def not_finite(score: Shaped[np.ndarray, "*any"]) -> str:
    """A reason if some score is not a finite number, else ""."""
    bad = int((~np.isfinite(score)).sum())
    return f"{bad} of {score.size} scores are not finite numbers" if bad else ""


def mean_of_defined(values: list[np.ndarray] | np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    stacked = np.asarray(values, np.float64)
    flat = stacked.reshape(len(stacked), -1)
    seen = ~np.isnan(flat)
    mean = ratio(np.where(seen, flat, 0.0).sum(0), seen.sum(0).astype(np.float64))
    return mean.reshape(stacked.shape[1:])
