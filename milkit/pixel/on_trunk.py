"""What configurations have in common whose network is a trunk and something untrained on top of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx


class OnTrunk:
    """A configuration with fields `backbone` and `trunk_rate`; its module keeps the trunk under the name `trunk`."""

    backbone: Any
    trunk_rate: float

    @property
    def smallest_side(self) -> int:
        """The fewest pixels an image may have a side."""
        return int(self.backbone.smallest_side)

    def learning_rate_scale(self, path: tuple[str, ...]) -> float:
        """The share of the run's learning rate that the parameter at `path` of the module's state has."""
        return self.trunk_rate if path[0] == "trunk" else 1.0

    def load(self, module: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill the trunk with arrays in the naming that the backbone states; what lies above it stays as it is.

        Raises:
            DataError: they do not fit.
        """
        self.backbone.load(vars(module)["trunk"], arrays)
