"""The test rows of one selection as arrays, one row a run and patient (or slide): what the figures are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from milkit.errors import RunFolderError
from milkit.metrics import Aggregate
from milkit.predictions import Predictions
from milkit.report.estimate import Measured, Resample, tested
from milkit.report.validation import Temperatures, scale


@dataclass(frozen=True, eq=False)
class Scores:
    """Test predictions of one selection; n rows, each a patient as one run saw it.

    Attributes:
        names: classes (binary: negative, positive), labels, values, or ("risk",).
        run: which fit, numbered from 0, [n].
        fold: which split (repeat and fold together), numbered from 0, [n].
        splits: (repeat, fold) of each split.
        seeds: distinct seeds.
        patient: number of the patient, [n].
        patients: id of each patient.
        target: class index, or labels, values, or time and event, [n, t].
        value: probabilities of the classes or labels, values, or the risk, [n, c].
        epoch: selected epoch of each run; NaN for none, [r].
        unit: number of each patient's resampling unit, the patient or its site, [p].
        bags: mean value over its runs of each test bag, by id (a bag is a slide or a patient).
        truth: target of each test bag, by id.
    """

    names: tuple[str, ...]
    run: Int[np.ndarray, "n"]
    fold: Int[np.ndarray, "n"]
    splits: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]
    patient: Int[np.ndarray, "n"]
    patients: Shaped[np.ndarray, "p"]
    target: Float[np.ndarray, "n t"]
    value: Float[np.ndarray, "n c"]
    epoch: Float[np.ndarray, "r"]
    unit: Int[np.ndarray, "p"]
    bags: Mapping[str, np.ndarray] = field(default_factory=dict)
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """Number of fits."""
        return len(self.epoch)

    @property
    def repeats(self) -> int:
        """Number of repetitions of the whole split."""
        return len({repeat for repeat, _ in self.splits})


def read_scores(
    path: Path,
    selection: str,
    aggregate: Aggregate,
    resample: Resample = "patient",
    measured: Measured = "patient",
    temperatures: Temperatures | None = None,
) -> tuple[Scores, Scores | None]:
    """Read `predictions.csv` and keep the test rows of one selection.

    Args:
        path: the file.
        selection: "validation", "last" or "optimistic".
        aggregate: how slides of one patient become one row.
        resample: unit of bootstraps.
        measured: `slide` where a row is a slide rather than a patient.
        temperatures: of each run.

    Returns:
        The scores, and those of the runs that have a temperature after scaling; None where no run has one.

    Raises:
        RunFolderError: the file is damaged, or holds no test row of this selection.
    """
    table = Predictions.read(path)
    kept = table.take((table.role == "test") & (table.selection == selection))
    if not len(kept):
        found = sorted(set(zip(table.selection.tolist(), table.role.tolist(), strict=True)))
        raise RunFolderError(
            f"{path} holds no test row of the selection {selection!r}; it has "
            f"{', '.join(' '.join(pair) for pair in found) or 'no row at all'}. Make it anew with --resume."
        )
    after = scale(kept, temperatures or {})
    scaled = scores_of(after, aggregate, resample, measured) if len(after) else None
    return scores_of(kept, aggregate, resample, measured), scaled


def scores_of(
    rows: Predictions, aggregate: Aggregate, resample: Resample = "patient", measured: Measured = "patient"
) -> Scores:
    """Test rows of one selection, a row a bag, to a row a patient. Rows whose score is not finite are left out.

    Bags become patients as they do for the numbers (`milkit.report.estimate`), so that a curve and its area agree.
    """
    rows = rows.take(np.isfinite(rows.score).all(1))
    study = tested(rows, aggregate, resample, measured)
    number = {split: i for i, split in enumerate(study.splits)}
    sizes = [len(run.patient) for run in study.runs]
    epochs = dict(zip(rows.run.tolist(), rows.selected_epoch.tolist(), strict=True))
    epoch = np.array([epochs[run.name] for run in study.runs], np.float64)
    return Scores(
        names=rows.names,
        run=np.repeat(np.arange(len(sizes)), sizes),
        fold=np.repeat(np.array([number[run.repeat, run.fold] for run in study.runs], np.int64), sizes),
        splits=tuple(study.splits),
        seeds=tuple(sorted({run.seed for run in study.runs})),
        patient=_joined([run.patient for run in study.runs], np.zeros(0, np.int64)),
        patients=study.patients,
        target=_joined([run.part.target for run in study.runs], rows.target),
        value=_joined([run.part.score for run in study.runs], rows.score),
        epoch=np.where(epoch < 0, np.nan, epoch),
        unit=study.unit,
        bags=_means(rows.bag, rows.score),
        truth=dict(zip(rows.bag.tolist(), rows.target, strict=True)),
    )


def _joined(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate(parts) if parts else empty


def _means(bag: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """Mean score of each bag over the runs that tested it."""
    names, number, count = np.unique(bag, return_inverse=True, return_counts=True)
    total = np.stack([np.bincount(number, column, len(names)) for column in value.T], 1)
    return dict(zip(names.tolist(), total / count[:, None], strict=True))
