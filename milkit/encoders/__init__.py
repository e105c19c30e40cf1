"""Tiles to features: uint8[n, h, w, 3] in, float32[n, d] out; see `docs/encoders.md`.

One architecture a file, as in `milkit.models`: a frozen dataclass that knows its input and says which array of a file
is which of its own. `known.py` lists published encoders by name; `load_encoder` makes one with its weights.
"""

from milkit.encoders.efficientnet_lite import EfficientNetLite0
from milkit.encoders.encoder import Encoder, Network, NetworkEncoder
from milkit.encoders.known import KNOWN, Known
from milkit.encoders.load import load_encoder
from milkit.encoders.pixels import Pixels
from milkit.encoders.resnet import ResNet50
from milkit.encoders.vit import ViT

__all__ = [
    "KNOWN",
    "EfficientNetLite0",
    "Encoder",
    "Known",
    "Network",
    "NetworkEncoder",
    "Pixels",
    "ResNet50",
    "ViT",
    "load_encoder",
]
