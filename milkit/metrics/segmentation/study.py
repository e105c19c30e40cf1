"""Intervals and paired tests of segmentation metrics over the runs of a study.

The estimator is that of `docs/statistics.md`: a metric within each run's own test images, the mean over the runs of a
split (seeds), then over splits. `sampling` draws patients with all their images, `procedure` is the corrected resampled
t over splits. Images are never drawn by themselves where they have patients: crops of one slide are not independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from milkit.errors import DataError
from milkit.metrics.comparison import bootstrap_test, corrected_t_test
from milkit.metrics.draws import Value, Weight, mean_of_defined
from milkit.metrics.intervals import (
    DRAWS,
    LEVEL,
    SEED,
    Interval,
    bootstrap_blocks,
    corrected_resampled_t,
    percentile_interval,
)
from milkit.metrics.segmentation.statistics import ImageStatistics, bounds, per_patient, summarise
from milkit.metrics.verdict import ALPHA, MARGIN, Verdict

Summary = Callable[[ImageStatistics, Weight], dict[str, Value]]
"""All metrics of some rows of statistics under some weights."""


@dataclass(frozen=True, eq=False)
class SegmentationRun:
    """The test images of one run.

    Attributes:
        images: one row an image.
        patient: number of each image's patient, the same numbers in all runs of a study, from 0 on. Where folds are
            grouped by site, the site's. Images without patients: 0 to n - 1.
        split: number of the split (repeat and fold); runs of one split differ in their seed.
        train_patients: patients of the training part; 0 for unknown.
    """

    images: ImageStatistics
    patient: Int[np.ndarray, "n"]
    split: int = 0
    train_patients: int = 0

    def __post_init__(self) -> None:
        if len(self.patient) != len(self.images) or not len(self.patient):
            raise DataError(f"{len(self.images)} images, but patients of {len(self.patient)}. Expected one an image.")
        if self.patient.min() < 0:
            raise DataError("A patient has a negative number. Expected numbers from 0 on.")


@dataclass(frozen=True)
class SegmentationEstimate:
    """A metric with its two intervals.

    Attributes:
        value: mean over splits; NaN where no split has a value.
        sampling, procedure: 95 % intervals, None where there is none; the notes say why.
        splits: splits with a value.
    """

    value: float
    sampling: Interval | None
    sampling_note: str
    procedure: Interval | None
    procedure_note: str
    splits: int


@dataclass(frozen=True)
class SegmentationDifference:
    """First minus second model: tested by a bootstrap of patients, and over splits."""

    sampling: Verdict
    procedure: Verdict


def segmentation_estimates(
    runs: Sequence[SegmentationRun],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    level: float = LEVEL,
    summary: Summary = summarise,
) -> dict[str, SegmentationEstimate]:
    """Every metric of the runs with both intervals.

    Args:
        runs: of one model, any splits and seeds.
        draws: of patients.
        seed: of the draws.
        level: coverage aimed at.
        summary: what is measured.

    Raises:
        DataError: no runs, or runs that were not measured alike.
    """
    found = _PerSplit.of(runs, draws, seed, summary)
    return {name: _estimate(name, found, level) for name in found.value}


def compare_segmentations(
    first: Sequence[SegmentationRun],
    second: Sequence[SegmentationRun],
    *,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    seed: int = SEED,
    summary: Summary = summarise,
) -> dict[str, SegmentationDifference]:
    """Two models on the same images: each metric's difference, first minus second, split by split and draw by draw.

    Args:
        first: runs of one model.
        second: runs of the other, of the same splits; seeds may differ in number.
        margin: the smallest difference that matters, on the metric's own scale (distances: in px or um).
        alpha: two-sided error allowed, not corrected for several metrics (`milkit.metrics.verdict.holm`).
        draws: of patients, the same for both models.
        seed: of the draws.
        summary: what is measured.

    Raises:
        DataError: other splits, images, truths or patients.
    """
    _same_images(first, second)
    a, b = (_PerSplit.of(runs, draws, seed, summary) for runs in (first, second))
    out = {}
    for name in [n for n in a.value if n in b.value]:
        difference = a.value[name] - b.value[name]
        mean = float(mean_of_defined(difference))
        drawn = mean_of_defined(a.drawn[name] - b.drawn[name])
        limits = {"margin": margin, "alpha": alpha}
        out[name] = SegmentationDifference(
            bootstrap_test(mean, drawn, a.patients, **limits),
            corrected_t_test(difference, a.n_test, np.minimum(a.n_train, b.n_train), **limits),
        )
    return out


@dataclass(frozen=True, eq=False)
class _PerSplit:
    """Values of the splits, seeds averaged.

    Attributes:
        value: [splits] of each metric.
        drawn: [splits, draws] likewise.
        n_test, n_train: patients of each split's parts; n_train is NaN where it is not known.
        patients: of the whole study.
    """

    value: dict[str, Float[np.ndarray, "j"]]
    drawn: dict[str, Float[np.ndarray, "j d"]]
    n_test: Float[np.ndarray, "j"]
    n_train: Float[np.ndarray, "j"]
    patients: int

    @classmethod
    def of(cls, runs: Sequence[SegmentationRun], draws: int, seed: int, summary: Summary) -> "_PerSplit":
        if not runs:
            raise DataError("No runs to measure.")
        numbers, columns = np.unique(np.concatenate([r.patient for r in runs]), return_inverse=True)
        ends = np.cumsum([len(r.patient) for r in runs])[:-1]
        splits = sorted({r.split for r in runs})
        value: list[list[dict[str, float]]] = [[] for _ in splits]
        drawn: list[list[dict[str, np.ndarray]]] = [[] for _ in splits]
        for run, column in zip(runs, np.split(columns, ends), strict=True):
            own, row = np.unique(column, return_inverse=True)
            rows = per_patient(run.images, row, len(own))
            blocks = [summary(rows, w[:, own]) for w in bootstrap_blocks(len(numbers), draws, seed)]
            at = splits.index(run.split)
            value[at].append({k: float(v) for k, v in summary(rows, None).items()})
            drawn[at].append({k: np.concatenate([np.asarray(b[k]) for b in blocks]) for k in blocks[0]})
        names = list(value[0][0])
        if any(list(v) != names for split in value for v in split):
            raise DataError("Runs differ in what was measured: give the images of all runs the same `Wanted`.")
        of_split = [[r for r in runs if r.split == s] for s in splits]
        known = [[r.train_patients for r in rs if r.train_patients] for rs in of_split]
        return cls(
            {n: np.asarray([mean_of_defined(np.asarray([v[n] for v in split])) for split in value]) for n in names},
            {n: np.stack([mean_of_defined([d[n] for d in split]) for split in drawn]) for n in names},
            np.asarray([float(np.mean([len(np.unique(r.patient)) for r in rs])) for rs in of_split]),
            np.asarray([float(np.mean(k)) if k else np.nan for k in known]),
            len(numbers),
        )


def _estimate(name: str, found: _PerSplit, level: float) -> SegmentationEstimate:
    values = found.value[name]
    value = float(mean_of_defined(values))
    sampling, note = percentile_interval(mean_of_defined(found.drawn[name]), value, level)
    procedure, why_not = None, "the number of training patients is not known"
    if not np.isnan(found.n_train).any():
        procedure, why_not = corrected_resampled_t(values, found.n_test, found.n_train, level)
    return SegmentationEstimate(
        value,
        sampling and sampling.within(bounds(name)),
        note,
        procedure and procedure.within(bounds(name)),
        why_not,
        int((~np.isnan(values)).sum()),
    )


def _same_images(first: Sequence[SegmentationRun], second: Sequence[SegmentationRun]) -> None:
    """Check that every run of a split tests the same images in the same order."""
    seen: dict[int, SegmentationRun] = {}
    if {r.split for r in first} != {r.split for r in second}:
        raise DataError("The two models were not tested on the same splits. Pair runs of the same folds.")
    for run in [*first, *second]:
        known = seen.setdefault(run.split, run)
        same_patients = np.array_equal(known.patient, run.patient)
        if not same_patients or not np.array_equal(known.images.confusion.sum(2), run.images.confusion.sum(2)):
            raise DataError(
                f"Split {run.split}: the runs were not tested on the same images in the same order "
                f"({'their truths' if same_patients else 'their patients'} differ). A paired comparison needs that."
            )
