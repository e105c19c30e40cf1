"""A researcher's own encoder: a callable uint8[n, h, w, 3] -> float[n, d], named `module:function`."""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from milkit.errors import ConfigError, DataError


class CallableEncoder:
    """A callable and its name; what it returns is checked at every call.

    Args:
        name: written beside the features.
        function: tiles to features.
        side: pixels a side that it takes, 0 for any.
        batch: tiles that it is given at once at most.
    """

    def __init__(self, name: str, function: Callable[[np.ndarray], Any], *, side: int = 0, batch: int = 0):
        self.name, self.side, self.width, self.batch = name, side, 0, batch or 64
        self._function = function

    def encode(self, tiles: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
        """Features of tiles, in float32.

        Raises:
            DataError: it returned no finite numbers [n, d], or another d than before.
        """
        parts = [self._part(tiles[i : i + self.batch]) for i in range(0, len(tiles), self.batch)]
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)

    def facts(self) -> dict[str, Any]:
        """Name, width and input."""
        return {"encoder": self.name, "width": self.width, "side_px": self.side}

    def _part(self, tiles: np.ndarray) -> np.ndarray:
        found = np.asarray(self._function(tiles))
        if found.ndim != 2 or len(found) != len(tiles) or found.dtype.kind not in "fiu":
            raise DataError(
                f"Encoder {self.name} returned {found.dtype} {list(found.shape)} for {len(tiles)} tiles; expected "
                f"numbers [{len(tiles)}, d]."
            )
        if self.width and found.shape[1] != self.width:
            raise DataError(f"Encoder {self.name} returned {found.shape[1]} features, and {self.width} before.")
        if not np.isfinite(found).all():
            raise DataError(f"Encoder {self.name} returned features that are not finite.")
        self.width = found.shape[1]
        return found.astype(np.float32)


def imported(name: str, *, batch: int = 0) -> CallableEncoder:
    """The callable `module:function`; modules of the working folder are found as well.

    Raises:
        ConfigError: there is no such module or function, or it cannot be called.
    """
    module, _, function = name.partition(":")
    here, added = str(Path.cwd()), False
    if here not in sys.path:
        sys.path.insert(0, here)
        added = True
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the researcher's module raises
        raise ConfigError(f"Encoder {name}: {module} cannot be imported ({type(error).__name__}: {error}).") from error
    finally:
        if added:
            sys.path.remove(here)
    encode = getattr(found, function, None)
    if not callable(encode):
        raise ConfigError(f"Encoder {name}: {module} has no function {function or '(none was named)'}.")
    return CallableEncoder(name, encode, side=math.floor(getattr(encode, "side", 0)), batch=batch)
