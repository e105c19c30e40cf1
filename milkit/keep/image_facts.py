"""What a kept model remembers of the images it was trained on: how they were read, and the canvas they stood in."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from milkit.data.images import ImageCrops, KnownImages
from milkit.data.images.decode import Reading
from milkit.data.study import Study
from milkit.errors import ConfigError
from milkit.keep.run import Finished
from milkit.metrics.segmentation.label_threshold import DEFAULT, LabelThreshold
from milkit.report.segmentation_runs import cut_of, share_of


def image_facts(run: Finished, data: Any, study: Study) -> dict[str, Any]:
    """How the images of a study were read, and where its maps are cut.

    Args:
        run: the run folder; the maps of its validation part are read.
        data: what the experiment names; its `reading` says how images become pixels.
        study: its images.

    Returns:
        "reading" (downsample, white, max_megapixels); "canvas", height and width of the largest, px; "map_threshold",
        from where on a pixel is foreground.

    Raises:
        RunFolderError: a map is missing or damaged.
    """
    whole = data.images if isinstance(data, ImageCrops) else data
    reading = whole.open().reading if isinstance(whole, KnownImages) else whole.reading
    assert study.sizes is not None
    return {
        "reading": asdict(reading),
        "canvas": [int(n) for n in study.sizes.max(0)],
        "map_threshold": map_threshold(validation_cuts(run)),
    }


def validation_cuts(run: Finished) -> list[LabelThreshold]:
    """The cut of maps that each run's validation labels choose, of the runs that have a validation part with maps."""
    rows, stated = run.validation, run.config["experiment"]
    if rows.map is None:
        return []
    share = share_of(stated["data"], stated["task"])
    return [cut_of(run.folder, rows.take(rows.run == name), share) for name in dict.fromkeys(rows.run.tolist())]


def map_threshold(cuts: list[LabelThreshold]) -> dict[str, Any]:
    """The mean of the cuts that labels chose, one half where they chose none; and where it comes from.

    Maps of an ensemble are means over its members, so they are cut at the mean of the members' cuts.
    """
    chosen = [cut for cut in cuts if not cut.note]
    if not chosen:
        why = cuts[0].note.split(";")[0] if cuts else "the study has no validation maps"
        return {"value": DEFAULT, "from": f"a pixel that is as likely foreground as not: {why}"}
    runs = (
        f"{len(chosen)} runs" if len(chosen) == len(cuts) else f"those {len(chosen)} of {len(cuts)} runs that have one"
    )
    return {
        "value": float(np.mean([cut.threshold for cut in chosen])),
        "from": f"the cut that labels of validation images choose, mean over {runs}",
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
