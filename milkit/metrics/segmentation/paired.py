"""Two models' maps of the same test images, from what was kept of each image: the difference, its intervals, a verdict.

`compare_segmentations` with the runs put together from what a script has at hand, and with both models' own values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Num, Shaped

from milkit.errors import DataError
from milkit.metrics.draws import mean_of_defined
from milkit.metrics.intervals import DRAWS, SEED
from milkit.metrics.segmentation import pixels
from milkit.metrics.segmentation.statistics import ImageStatistics, summarise
from milkit.metrics.segmentation.study import SegmentationRun, compare_segmentations
from milkit.metrics.verdict import ALPHA, MARGIN, Verdict

PAIRED = ("dice", "dice_per_image", "iou", "miou", "f1_pos", "f1_neg", "auroc", "auprc")
"""What is compared where nothing else is asked for, as far as the statistics hold it."""


@dataclass(frozen=True)
class PairedDifference:
    """One metric of two models; differences are first minus second.

    Attributes:
        first, second: their values, runs of a split averaged, then splits.
        sampling: the difference tested by a bootstrap of patients, both models in the same draws; the models are taken
            as they are.
        procedure: the corrected resampled t test over splits; its interval is NaN where there is only one, or where the
            numbers of training patients are not known.
        first_runs, second_runs: each run's value: with one split, how much the seed alone moves it.
        patients, splits: how many.
    """

    first: float
    second: float
    sampling: Verdict
    procedure: Verdict
    first_runs: tuple[float, ...]
    second_runs: tuple[float, ...]
    patients: int
    splits: int

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.sampling.difference

    def json(self) -> dict[str, Any]:
        """For a results file; what is undefined is None."""
        return {"difference": _number(self.difference), **_plain(asdict(self))}


def from_confusion(confusion: Num[np.ndarray, "n 2 2"]) -> ImageStatistics:
    """Statistics of images of which only the pixels were counted: [image, true class, called class].

    Enough for Dice, IoU, mIoU, F1 of positive and of negative images, and accuracy.
    """
    counts = confusion.astype(np.float64)
    return ImageStatistics(
        counts,
        {
            "iou_per_image": pixels.image_terms(counts, 1, "iou"),
            "dice_per_image": pixels.image_terms(counts, 1, "dice"),
            "f1_pos": pixels.f1_pos_terms(counts),
            "f1_neg": pixels.f1_neg_terms(counts),
        },
    )


def paired(
    first: Sequence[ImageStatistics],
    second: Sequence[ImageStatistics],
    patient: Shaped[np.ndarray, "_"] | Sequence[Shaped[np.ndarray, "_"]],
    *,
    splits: tuple[Sequence[int], Sequence[int]] | None = None,
    train_patients: int | Mapping[int, int] = 0,
    metrics: Iterable[str] = PAIRED,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    seed: int = SEED,
) -> dict[str, PairedDifference]:
    """Differences of two models on the same test images.

    Args:
        first: of each run of the first model, what was kept of its test images: `image_statistics(maps, masks)`, or
            `from_confusion`.
        second: likewise of the second model; the numbers of runs (seeds) may differ.
        patient: whose each image is, any ids: one array where all runs test the same images; else one array a split, in
            the order of the splits' numbers.
        splits: number of the split of each run of the first model, and of the second; None: all runs are of one split
            and differ in their seed.
        train_patients: patients of the training part (of each split); 0 for unknown, which leaves no procedure
            interval.
        metrics: names of `summarise`; those that a model's statistics lack are left out.
        margin: the smallest difference that matters.
        alpha: two-sided error allowed; neither p nor intervals are corrected for several metrics or pairs
            (`milkit.metrics.verdict.holm`).
        draws: of patients.
        seed: of the draws.

    Raises:
        DataError: no runs; other images, truths, patients or splits; none of the metrics is there.
    """
    of_runs = splits or ([0] * len(first), [0] * len(second))
    if [len(of_runs[0]), len(of_runs[1])] != [len(first), len(second)] or not first or not second:
        raise DataError(
            f"{len(first)} and {len(second)} runs, but splits of {len(of_runs[0])} and {len(of_runs[1])}. Expected the "
            "number of its split for each run, and at least one run of each model."
        )
    numbers = _numbers(patient, sorted({*of_runs[0], *of_runs[1]}))
    known = train_patients if isinstance(train_patients, Mapping) else dict.fromkeys(numbers, train_patients)
    wanted = tuple(metrics)
    runs = tuple(
        [SegmentationRun(kept(s, wanted), numbers[i], i, known.get(i, 0)) for s, i in zip(model, own, strict=True)]
        for model, own in zip((first, second), of_runs, strict=True)
    )
    found = compare_segmentations(*runs, margin=margin, alpha=alpha, draws=draws, seed=seed)
    own_values = [[summarise(run.images) for run in model] for model in runs]
    people = len(np.unique(np.concatenate(list(numbers.values()))))
    out = {}
    for name in [n for n in wanted if n in found]:
        values = [tuple(float(v[name]) for v in model) for model in own_values]
        a, b = (_mean(v, own) for v, own in zip(values, of_runs, strict=True))
        verdicts = found[name].sampling, found[name].procedure
        out[name] = PairedDifference(a, b, *verdicts, values[0], values[1], people, len(numbers))
    if not out:
        raise DataError(
            f"The statistics of both models hold none of {', '.join(wanted)}; they hold {', '.join(found)}."
        )
    return out


def _numbers(patient: Any, splits: Sequence[int]) -> dict[int, np.ndarray]:
    """Numbers of the patients of each split's images, the same patient with the same number everywhere."""
    arrays = [patient] * len(splits) if isinstance(patient, np.ndarray) and patient.ndim == 1 else list(patient)
    if len(arrays) != len(splits):
        raise DataError(f"Patients of {len(arrays)} splits, but runs of {len(splits)}. Give one array a split.")
    _, flat = np.unique(np.concatenate(arrays), return_inverse=True)
    return dict(zip(splits, np.split(flat, np.cumsum([len(a) for a in arrays])[:-1]), strict=True))


def kept(statistics: ImageStatistics, wanted: Sequence[str]) -> ImageStatistics:
    """Statistics with only what the wanted metrics need: 2,000 draws of 512 numbers an image are not free."""
    terms = {name: rows for name, rows in statistics.terms.items() if name in wanted}
    curves = statistics.histogram if {"auroc", "auprc", "prevalence"} & set(wanted) else None
    return ImageStatistics(statistics.confusion, terms, curves)


def _mean(values: Sequence[float], splits: Sequence[int]) -> float:
    """Runs of a split averaged, then splits."""
    own = [np.asarray([v for v, s in zip(values, splits, strict=True) if s == split]) for split in sorted(set(splits))]
    return float(mean_of_defined(np.asarray([mean_of_defined(v) for v in own])))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return _number(value) if isinstance(value, float) else value
