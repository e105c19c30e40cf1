"""The test rows of one selection as arrays, one row a run and patient: what the figures are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from milkit.errors import RunFolderError
from milkit.predictions import Predictions


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


def read_scores(path: Path, selection: str, aggregate: str) -> Scores:
    """Read `predictions.csv` and keep the test rows of one selection.

    Args:
        path: the file.
        selection: "validation", "last" or "optimistic".
        aggregate: how slides of one patient become one row: "mean" or "max" of each column.

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
    return scores_of(kept, aggregate)


def scores_of(rows: Predictions, aggregate: str) -> Scores:
    """Test rows of one selection, a row a bag, to a row a patient. Rows whose score is not finite are left out."""
    rows = rows.take(np.isfinite(rows.score).all(1))
    _, first, run = np.unique(rows.run, return_index=True, return_inverse=True)
    patients, patient = np.unique(rows.patient, return_inverse=True)
    splits = sorted(set(zip(rows.repeat.tolist(), rows.fold.tolist(), strict=True)))
    number = {split: i for i, split in enumerate(splits)}
    fold = np.array([number[s] for s in zip(rows.repeat.tolist(), rows.fold.tolist(), strict=True)], np.int64)
    epoch = rows.selected_epoch[first].astype(np.float64)
    keys, at, group = np.unique(run * max(len(patients), 1) + patient, return_index=True, return_inverse=True)
    return Scores(
        names=rows.names,
        run=run[at],
        fold=fold[at],
        splits=tuple(splits),
        seeds=tuple(np.unique(rows.seed).tolist()),
        patient=patient[at],
        patients=patients,
        target=rows.target[at],
        value=_gathered(rows.score, group, len(keys), aggregate),
        epoch=np.where(epoch < 0, np.nan, epoch),
        bags=_means(rows.bag, rows.score),
        truth=dict(zip(rows.bag.tolist(), rows.target, strict=True)),
    )


def _gathered(value: np.ndarray, group: np.ndarray, count: int, aggregate: str) -> np.ndarray:
    """Rows of a group put together by their mean or their maximum."""
    if aggregate == "max":
        out = np.full((count, value.shape[1]), -np.inf)
        np.maximum.at(out, group, value)
        return out
    total = np.stack([np.bincount(group, column, count) for column in value.T], 1)
    return total / np.bincount(group, minlength=count)[:, None]


def _means(bag: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    names, number = np.unique(bag, return_inverse=True)
    return dict(zip(names.tolist(), _gathered(value, number, len(names), "mean"), strict=True))
