"""What is lost when features are stored in fewer bits."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SMALLEST_NORMAL = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126}
"""Below it a dtype holds ever fewer digits, down to 0."""


@dataclass(frozen=True)
class Rounding:
    """Errors of the values of some features.

    Attributes:
        values: how many were looked at; 0 where nothing was rounded, as the dtype stayed the same.
        max_absolute: largest |stored - value|.
        max_relative: largest |stored - value| / |value| of values that the dtype holds with all its digits.
        below_normal: values that are not 0 but smaller than that; they keep fewer digits.
        underflowed: of those, values that became 0.
    """

    values: int = 0
    max_absolute: float = 0.0
    max_relative: float = 0.0
    below_normal: int = 0
    underflowed: int = 0

    def __add__(self, other: "Rounding") -> "Rounding":
        """Of both together."""
        return Rounding(
            self.values + other.values,
            max(self.max_absolute, other.max_absolute),
            max(self.max_relative, other.max_relative),
            self.below_normal + other.below_normal,
            self.underflowed + other.underflowed,
        )

    @property
    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @property
    def words(self) -> str:
        """One sentence."""
        if not self.values:
            return "no value was rounded: the features were of this dtype already"
        small = f"{self.below_normal} of {self.values} values are too small for all digits"
        return (
            f"largest error {self.max_absolute:.3g} absolute, {self.max_relative:.3g} relative; {small}, "
            f"{self.underflowed} became 0"
        )


def rounding(x: np.ndarray, stored: np.ndarray, dtype: str) -> Rounding:
    """Compare features with what was stored of them.

    Args:
        x: features, [n, d], as read.
        stored: the same in the dtype of the store.
        dtype: its name.
    """
    if x.dtype == stored.dtype:
        return Rounding()
    # float32 is exact for what is stored, and for all sources but float64
    wide = np.float64 if x.dtype.itemsize > 4 else np.float32
    exact, error = x.astype(wide, copy=False), stored.astype(wide)
    value = np.abs(exact)
    np.abs(np.subtract(error, exact, out=error), out=error)
    small = (value < SMALLEST_NORMAL[dtype]) & (value > 0)
    absolute = float(error.max(initial=0))
    error[small] = 0
    np.divide(error, value, out=error, where=value > 0)
    return Rounding(
        values=int(x.size),
        max_absolute=absolute,
        max_relative=float(error.max(initial=0)),
        below_normal=int(small.sum()),
        underflowed=int((small & (stored == 0)).sum()),
    )
