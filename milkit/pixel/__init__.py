"""Pixel-level models: an image is a bag, its pixels the instances. One paper a file.

`PixelModel` is the only list, as `milkit.models.Model` is of models of bags: a new model is one file and one name here.
Each is a frozen dataclass; `build(in_channels, out_features, rngs=...)` gives a module that is called on
`milkit.types.Images` and returns an `Output` whose `extras["maps"]` holds probability maps [b, h, w, c] by name,
"fused" first. `objective` is the method's own loss on image labels; `learning_rate_scale(path)` the share of the
learning rate that a parameter has; `smallest_side` the fewest pixels an image may have a side.
"""

from milkit.pixel.dwsmil import CDWSMIL, DWSMIL
from milkit.pixel.samil import SAMIL, Baseline
from milkit.pixel.swinmil import SwinMIL

PixelModel = SAMIL | Baseline | DWSMIL | CDWSMIL | SwinMIL

__all__ = ["CDWSMIL", "DWSMIL", "SAMIL", "Baseline", "PixelModel", "SwinMIL"]
