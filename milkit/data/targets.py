"""From the cells of a table to the targets of a task, with errors that name file, row and column."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be predicted, one row a bag.

    Attributes:
        values: int32 [B] (binary: 1 = positive; multi-class: index of the class) or float32 [B, t]
            (multi-label, regression; survival: time, event), as in `milkit.task`.
        names: the classes (binary: negative, positive), the labels, the value columns, or ("time", "event").
    """

    values: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.values)
