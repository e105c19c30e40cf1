"""How well the maps of a stage show where: the report's segmentation section, against masks that no stage has seen."""

from pathlib import Path
from typing import Any

from milkit.config import to_json
from milkit.data.images.truth import SUPERVISION
from milkit.execute.folder import read_json
from milkit.metrics.intervals import DRAWS
from milkit.predictions import Predictions
from milkit.report.results import recorded_columns
from milkit.report.segmentation import segmentation


def score(folder: Path, data: Any) -> dict[str, Any]:
    """Segmentation metrics of the test images of a stage's experiment.

    Args:
        folder: its run folder.
        data: the images that the staged study was given, whose masks are real.

    Returns:
        As `milkit.report.segmentation.segmentation`.
    """
    predictions = Predictions.read(folder / "predictions.csv")
    config = read_json(folder / "config.json")
    config = {**config, "experiment": {**config["experiment"], "data": to_json(data)}}
    results, columns = read_json(folder / "results.json"), recorded_columns(folder / "columns.csv")
    # of one split there is no spread over splits, which is what the sizes of training parts are for
    flow = read_json(folder / "cohort.json").get("flow", {})
    # masks that a stage learned from were painted by the stage before it: nothing but image labels was looked at
    flow = {**flow, "notes": [note for note in flow.get("notes", ()) if not str(note).startswith(SUPERVISION)]}
    return segmentation(
        folder, config, predictions, results["selection"], columns, None, DRAWS, flow, results["marks"]
    )  # fmt: skip
