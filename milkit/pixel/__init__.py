"""Pixel-level models: an image is a bag, its pixels the instances. One paper a file.

`PixelModel` is the only list, as `milkit.models.Model` is of models of bags: a new model is one file and one name here.
Each is a frozen dataclass; `build(in_channels, out_features, rngs=...)` gives a module that is called on
`milkit.types.Images` and returns an `Output` whose `extras["maps"]` holds probability maps [b, h, w, c] by name,
"fused" first. `objective` is the method's own loss on image labels; `learning_rate_scale(path)` the share of the
learning rate that a parameter has; `smallest_side` the fewest pixels an image may have a side.
"""

from milkit.pixel.cam import CAM
from milkit.pixel.camel import CAMEL
from milkit.pixel.dcgn import DCGN
from milkit.pixel.dwsmil import CDWSMIL, DWSMIL
from milkit.pixel.efficientnet_lite import EfficientNetLite0
from milkit.pixel.fcn import FCN8s
from milkit.pixel.pspnet import PSPNet
from milkit.pixel.resnet import ResNet
from milkit.pixel.samil import SAMIL, Baseline
from milkit.pixel.segnet import SegNet
from milkit.pixel.stain_threshold import Everything, StainThreshold
from milkit.pixel.supervised import pixel_loss
from milkit.pixel.swinmil import SwinMIL
from milkit.pixel.unet import UNet

PixelModel = (
    SAMIL
    | Baseline
    | DWSMIL
    | CDWSMIL
    | SwinMIL
    | UNet
    | FCN8s
    | SegNet
    | PSPNet
    | CAM
    | CAMEL
    | DCGN
    | StainThreshold
    | Everything
)

__all__ = [
    "CAM",
    "CAMEL",
    "CDWSMIL",
    "DCGN",
    "DWSMIL",
    "SAMIL",
    "Baseline",
    "EfficientNetLite0",
    "Everything",
    "FCN8s",
    "PSPNet",
    "PixelModel",
    "ResNet",
    "SegNet",
    "StainThreshold",
    "SwinMIL",
    "UNet",
    "pixel_loss",
]
