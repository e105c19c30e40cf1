"""What a kept model remembers of the images it was trained on: how they were read, and the canvas they stood in."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from milkit.data.images import ImageCrops, KnownImages
from milkit.data.images.decode import Reading
from milkit.data.study import Study
from milkit.errors import ConfigError

HALF = 0.5


def image_facts(data: Any, study: Study) -> dict[str, Any]:
    """How the images of a study were read.

    Args:
        data: what the experiment names; its `reading` says how images become pixels.
        study: its images.

    Returns:
        "reading" (downsample, white, max_megapixels); "canvas", height and width of the largest, px; "map_threshold",
        from where on a pixel is foreground.
    """
    whole = data.images if isinstance(data, ImageCrops) else data
    reading = whole.open().reading if isinstance(whole, KnownImages) else whole.reading
    assert study.sizes is not None
    return {
        "reading": asdict(reading),
        "canvas": [int(n) for n in study.sizes.max(0)],
        "map_threshold": {"value": HALF, "from": "a pixel that is as likely foreground as not"},
    }


def reading_of(facts: Mapping[str, Any]) -> Reading:
    """How a model wants its images read.

    Raises:
        ConfigError: it is no model of images.
    """
    if not facts.get("images"):
        raise ConfigError(
            f"{facts['model']['type']} reads features of slides, not images. Give a store of features, or a model that "
            "was trained on images (docs/own_images.md)."
        )
    return Reading(**facts["images"]["reading"])
