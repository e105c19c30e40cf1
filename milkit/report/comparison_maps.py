"""Maps of two runs of images on the same test images: the rows that a comparison has beside those of labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milkit.errors import MilkitError, RunFolderError
from milkit.metrics.segmentation import compare_segmentations, segmentation_estimates
from milkit.metrics.segmentation.paired import kept
from milkit.metrics.segmentation.study import SegmentationRun
from milkit.metrics.verdict import Verdict
from milkit.predictions import Predictions
from milkit.report.contestants import recorded_train
from milkit.report.results import recorded_columns
from milkit.report.same_patients import Entrant
from milkit.report.segmentation_runs import Scored, scored

OF_MASKS = ("dice", "dice_per_image", "miou")
OF_POINTS = ("auroc", "f1", "balanced_accuracy")
CUT = "_label_cut"
POINTS = "_at_points"
NAMES = (
    *(name + end for end in ("", CUT) for name in OF_MASKS),
    *(name + POINTS + end for end in ("", CUT) for name in OF_POINTS if (name, end) != ("auroc", CUT)),
)
"""What can be compared of maps; `_label_cut`: at the cut that labels of validation images chose."""


@dataclass(frozen=True)
class MapDifference:
    """One metric of two runs' maps, first minus second.

    Attributes:
        metric: one of `NAMES`.
        values: of both.
        found: the test over splits where there are several whose training parts are known, else over patients.
        over_splits: which of them it is.
        sampling: 1 - alpha interval of the bootstrap of patients; None for none.
        splits: that were compared.
    """

    metric: str
    values: tuple[float, float]
    found: Verdict
    over_splits: bool
    sampling: tuple[float, float] | None
    splits: int


class MapReader:
    """Scores the maps of runs, each once however many pairs need it."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], Scored | None] = {}

    def __call__(self, entrant: Entrant) -> Scored | None:
        """None for runs of bags, for tables without a run folder, and where no test image has a mask.

        Raises:
            MilkitError: maps or masks cannot be read.
        """
        key = (entrant.path, entrant.selection)
        if key not in self._known:
            self._known[key] = self._read(entrant)
        return self._known[key]

    def _read(self, entrant: Entrant) -> Scored | None:
        folder = entrant.path
        if not (folder / "config.json").is_file():
            return None
        try:
            experiment = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("experiment", {})
        except (ValueError, AttributeError) as error:
            raise RunFolderError(f"{folder / 'config.json'} is not readable ({error}); was it cut short?") from None
        if "data" not in experiment:
            return None
        table = Predictions.read(folder / "predictions.csv")
        if table.map is None:
            return None
        columns = recorded_columns(folder / "columns.csv")
        n_train = recorded_train(folder, "patients")  # patients are drawn, whatever a row of the labels' metrics is
        data, task = experiment["data"], experiment.get("task", {})
        return scored(folder, data, table, entrant.selection, columns, n_train, task)


def compare_maps(
    a: Scored, b: Scored, asked: Sequence[str], *, margin: float, alpha: float, draws: int, seed: int
) -> list[MapDifference]:
    """Differences of maps on the same test images, in the same draws of patients.

    Args:
        a: of the first run.
        b: of the second.
        asked: of `NAMES`; () for all that there are.
        margin: the smallest difference that matters.
        alpha: two-sided error allowed.
        draws: of patients.
        seed: of the draws.

    Raises:
        DataError: other images, truths or splits.
    """
    names, end = (OF_POINTS, POINTS) if a.points else (OF_MASKS, "")
    out = []
    for cut, first, second in (("", a.half, b.half), (CUT, a.chosen, b.chosen)):
        wanted = [n for n in names if n + end + cut in (asked or NAMES)]
        if not wanted:
            continue
        runs = [first, second] if a.points else [[_only(run, wanted) for run in model] for model in (first, second)]
        found = compare_segmentations(
            *runs, margin=margin, alpha=alpha, draws=draws, seed=seed, summary=a.summary
        )  # fmt: skip
        values = [segmentation_estimates(model, draws=2, summary=a.summary) for model in runs]
        for name in wanted:
            verdicts = found[name]
            over_splits = not np.isnan(verdicts.procedure.p)
            drawn = verdicts.sampling
            out.append(
                MapDifference(
                    name + end + cut,
                    (values[0][name].value, values[1][name].value),
                    verdicts.procedure if over_splits else drawn,
                    over_splits,
                    None if np.isnan(drawn.low) else (drawn.low, drawn.high),
                    len({run.split for run in first}),
                )
            )
    return out


def map_marks(entrant: Entrant) -> tuple[str, ...]:
    """What the numbers of a run's maps must be read with, as its report found."""
    try:
        results = json.loads((entrant.path / "results.json").read_text(encoding="utf-8"))
        return tuple(str(mark) for mark in results["segmentation"]["marks"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # no report was made yet, or none with maps


def maps_of_pair(reader: MapReader, a: Entrant, b: Entrant) -> tuple[Scored, Scored] | str:
    """The maps of both, or why they are not compared; "" where there are none to speak of."""
    try:
        first, second = reader(a), reader(b)
    except MilkitError as error:
        return f"maps of {a.name} and {b.name} are not compared: {error}"
    if first is None or second is None:
        lacking = [e.name for e, maps in ((a, first), (b, second)) if maps is None]
        return f"maps are not compared: {lacking[0]} has none" if len(lacking) == 1 else ""
    if first.points != second.points:
        return f"maps of {a.name} and {b.name} are not compared: one is held against masks, the other against points"
    return first, second


def _only(run: SegmentationRun, wanted: Sequence[str]) -> SegmentationRun:
    return SegmentationRun(kept(run.images, wanted), run.patient, run.split, run.train_patients)
