"""Tiles to features: uint8[n, h, w, 3] in, float32[n, d] out; see `docs/encoders.md`.

One architecture a file, as in `milkit.models`: a frozen dataclass that knows its input and says which array of a file
is which of its own. `known.py` lists published encoders by name; `load.py` makes one with its weights.
"""

from milkit.encoders.efficientnet_lite import EfficientNetLite0
from milkit.encoders.encoder import Encoder, NetworkEncoder
from milkit.encoders.pixels import Pixels

__all__ = ["EfficientNetLite0", "Encoder", "NetworkEncoder", "Pixels"]
