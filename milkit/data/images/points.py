"""Points of known kind in whole images, for scoring maps where there are no masks: the nuclei of the colon images.

Only scoring reads them: training sees images and their labels.
"""

from dataclasses import dataclass

import numpy as np

from milkit.data.datasets.colon import TYPES, nuclei_in
from milkit.data.datasets.folders import find
from milkit.data.datasets.records import absent, record_of
from milkit.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Points:
    """The points of one image.

    Attributes:
        xy: (x, y) [k, 2] in pixels of the image as it was read, from the top left corner.
        positive: whether each is of foreground's kind, [k].
    """

    xy: np.ndarray
    positive: np.ndarray


def points_of(name: str, *, kind: str = "epithelial", downsample: int = 1) -> dict[str, Points]:
    """The points of a known set by the id of their image, one kind against the others.

    Args:
        name: `colon`, the only set with points.
        kind: of nuclei that foreground is: epithelial (what its image labels say), inflammatory, fibroblast or others.
        downsample: as the images were read.

    Raises:
        ConfigError: another set or kind.
        DataError: the file is absent or damaged.
    """
    if name != "colon":
        raise ConfigError(f"No points are known of {name!r}; only the set 'colon' has them.")
    if kind not in TYPES:
        raise ConfigError(f"Nuclei are {', '.join(TYPES)}, not {kind!r}.")
    record = record_of("colon_nuclei")
    path = find(record.files[0])
    if path is None:
        raise absent(record)
    found = nuclei_in(path, path.read_bytes())
    return {image: Points(xy / downsample, types == TYPES.index(kind)) for image, (xy, types) in found.items()}
