"""Predictions as columns: made from logits, written, read, joined."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from milkit.errors import RunFolderError
from milkit.predictions import cells, layout
from milkit.predictions.layout import MAP, META, NUMBERS, ROLES, SELECTIONS, TAIL, TEXT, Kind
from milkit.predictions.whole import whole_file
from milkit.task import Binary, MultiLabel, Survival, Task, probabilities

Text = Shaped[np.ndarray, "n"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """The rows of `predictions.csv` as columns; n rows.

    Attributes:
        kind: class name of the task.
        names: classes (binary: negative, positive), labels or values; ("risk",) for survival.
        experiment, run, selection, role, bag, slide, patient, site, cohort: text.
        repeat, fold, seed: whole numbers.
        target: class index [n, 1]; labels or values [n, t]; time and event [n, 2].
        logits: what the model gave, [n, k].
        score: probabilities [n, classes or labels] (binary: both), values [n, t], or the risk [n, 1]. May be
            NaN where a run diverged.
        selected_epoch: epoch of the weights; -1 for none.
        threshold: cut on the probability, chosen on validation patients, one a label; NaN for none.
        map: of images only: the file with the map of a bag's pixels, relative to the run folder, "" for none.

    Raises:
        RunFolderError: columns that do not fit the task, or a target, selection or role that cannot be.
    """

    kind: Kind
    names: tuple[str, ...]
    experiment: Text
    run: Text
    repeat: Int[np.ndarray, "n"]
    fold: Int[np.ndarray, "n"]
    seed: Int[np.ndarray, "n"]
    selection: Text
    role: Text
    bag: Text
    slide: Text
    patient: Text
    site: Text
    cohort: Text
    target: Float[np.ndarray, "n t"]
    logits: Float[np.ndarray, "n k"]
    score: Float[np.ndarray, "n s"]
    selected_epoch: Int[np.ndarray, "n"]
    threshold: Float[np.ndarray, "n m"]
    map: Text | None = None

    def __len__(self) -> int:
        return len(self.run)

    def __post_init__(self) -> None:
        _check_shape(self)
        _check_values(self)

    @staticmethod
    def of(
        task: Task,
        names: Sequence[str],
        logits: np.ndarray,
        target: np.ndarray,
        *,
        experiment: str,
        run: str,
        repeat: int,
        fold: int,
        seed: int,
        selection: str,
        role: str | Sequence[str] | np.ndarray,
        bag: Sequence[str] | np.ndarray,
        patient: Sequence[str] | np.ndarray,
        slide: Sequence[str] | np.ndarray | None = None,
        site: Sequence[str] | np.ndarray | None = None,
        cohort: str | Sequence[str] | np.ndarray = "",
        values: np.ndarray | None = None,
        selected_epoch: int = -1,
        threshold: float | np.ndarray = np.nan,
        map: Sequence[str] | None = None,
    ) -> "Predictions":
        """Rows of one run and selection from the model's logits; a single role or cohort stands for all rows.

        Args:
            task: says how logits are read.
            names: classes (binary: negative, positive), labels or values; not read for survival.
            logits: what the model gave, [n, k].
            target: as `milkit.task` lays it out, [n] or [n, t].
            experiment: the study's name.
            run: the run's name, unique in the study.
            repeat: which repetition of the whole split.
            fold: which fold of it.
            seed: which training of that fold.
            selection: how the epoch was chosen: validation, last or optimistic.
            role: train, validation or test.
            bag: ids, [n].
            patient: ids, [n].
            slide: ids of each bag's slides joined by `;`; the bag's own id where not given.
            site: empty where not given.
            cohort: empty where not given.
            values: regression only: predictions in the target's unit, [n, t]; the logits where not given.
            selected_epoch: -1 for none.
            threshold: NaN for none; [m] for one a label.
            map: files of images' maps, [n]; None where bags are no images.

        Raises:
            RunFolderError: columns that do not fit each other or the task.
        """
        n, logits = len(bag), np.asarray(logits, np.float64)
        kind: Kind = type(task).__name__  # type: ignore[assignment]
        score = probabilities(task, logits) if values is None else np.asarray(values, np.float64)
        if isinstance(task, Binary):
            score = np.concatenate([1.0 - score, score], axis=1)

        def text(column: str | Sequence[str] | np.ndarray | None) -> np.ndarray:
            return np.broadcast_to(np.asarray("" if column is None else column, np.str_), (n,)).copy()

        def whole(column: int) -> np.ndarray:
            return np.full(n, column, np.int64)

        labels = len(names) if isinstance(task, MultiLabel) else 1
        return Predictions(
            kind=kind,
            names=("risk",) if isinstance(task, Survival) else tuple(str(name) for name in names),
            experiment=text(experiment),
            run=text(run),
            repeat=whole(repeat),
            fold=whole(fold),
            seed=whole(seed),
            selection=text(selection),
            role=text(role),
            bag=text(bag),
            slide=text(bag if slide is None else slide),
            patient=text(patient),
            site=text(site),
            cohort=text(cohort),
            target=np.asarray(target, np.float64).reshape(n, -1),
            logits=logits,
            score=score,
            selected_epoch=whole(selected_epoch),
            threshold=np.broadcast_to(np.asarray(threshold, np.float64), (n, labels)).copy(),
            map=None if map is None else text(map),
        )

    def take(self, rows: np.ndarray) -> "Predictions":
        """The rows that an index array or a boolean mask [n] names."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in self._columns()}
        return replace(self, **columns)

    def header(self) -> list[str]:
        """Names of the columns."""
        kind, names = self.kind, self.names
        logits = layout.logit_names(kind, names, self.logits.shape[1])
        return [
            *META,
            *layout.target_names(kind, names),
            *logits,
            *layout.score_names(kind, names),
            *TAIL,
            *self._last(),
        ]

    def _last(self) -> list[str]:
        """The column that only tables of images have."""
        return [] if self.map is None else [MAP]

    def _columns(self) -> list[str]:
        return [
            f.name for f in fields(Predictions) if f.name not in ("kind", "names") and getattr(self, f.name) is not None
        ]

    def write(self, path: Path | str) -> None:
        """Write the file whole or not at all; numbers keep every digit.

        Raises:
            RunFolderError: the disk is full or refuses, or an id holds a carriage return.
        """
        path = Path(path)
        for name in (*TEXT, *self._last()):
            if any("\r" in value for value in set(getattr(self, name).tolist())):
                raise RunFolderError(f"Column {name} holds a carriage return, which {path} cannot keep.")
        with whole_file(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.header())
            writer.writerows(zip(*self._lists(), strict=True))

    @staticmethod
    def read(path: Path | str) -> "Predictions":
        """Read a file that `write` (or another tool, with the same header) wrote.

        Raises:
            RunFolderError: it is absent or cut short, a bag stands twice in one run, or a cell is not what its
                column holds; names row and column.
        """
        path = Path(path)
        header, rows = cells.read_cells(path)
        kind, names, logits = layout.read_header(path, header)
        by_name = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
        bags = by_name["bag"]

        def numbers(wanted: Sequence[str]) -> np.ndarray:
            table = [cells.convert(path, name, by_name[name], float, bags) for name in wanted]
            return np.array(table, np.float64).reshape(len(wanted), len(rows)).T

        columns: dict[str, Any] = {name: np.array(by_name[name], np.str_) for name in TEXT}
        for name in (*NUMBERS, "selected_epoch"):
            whole = cells.convert(path, name, by_name[name], int if name in NUMBERS else _epoch, bags)
            columns[name] = np.array(whole, np.int64)
        columns["target"] = numbers(layout.target_names(kind, names))
        columns["logits"] = numbers(logits)
        columns["score"] = numbers(layout.score_names(kind, names))
        labels = len(names) if kind == "MultiLabel" else 1
        columns["map"] = np.array(by_name[MAP], np.str_) if MAP in by_name else None
        columns["threshold"] = cells.thresholds(path, by_name["threshold"], labels, bags)
        try:
            table = Predictions(kind=kind, names=names, **columns)
        except RunFolderError as error:
            raise RunFolderError(f"{path}: {error}") from None
        _refuse_repeats(path, table)
        return table

    def _lists(self) -> list[list]:
        """All columns as Python values; `csv` writes floats in their shortest exact form."""
        target = [column.tolist() for column in self.target.T]
        for i, name in enumerate(layout.target_names(self.kind, self.names)):
            if self.kind in ("Binary", "MultiClass", "MultiLabel") or name == "event":
                target[i] = self.target[:, i].astype(np.int64).tolist()
        epoch = ["" if e < 0 else e for e in self.selected_epoch.tolist()]
        return [
            *(getattr(self, name).tolist() for name in META),
            *target,
            *self.logits.T.tolist(),
            *self.score.T.tolist(),
            epoch,
            cells.threshold_cells(self.threshold),
            *(getattr(self, name).tolist() for name in self._last()),
        ]


def concat(parts: Sequence[Predictions]) -> Predictions:
    """Rows of several tables of one task.

    Raises:
        RunFolderError: no part, or parts of other tasks, classes or numbers of logits.
    """
    if not parts:
        raise RunFolderError("There are no predictions to join; no run has finished.")
    first = parts[0]
    for part in parts[1:]:
        if part.header() != first.header():
            raise RunFolderError(
                f"Predictions of {part.kind} ({', '.join(part.names)}) cannot be joined to those of "
                f"{first.kind} ({', '.join(first.names)}); keep experiments with other classes apart."
            )
    columns: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in first._columns()}
    return replace(first, **columns)


def _epoch(cell: str) -> int:
    return int(cell) if cell else -1


def _check_shape(table: Predictions) -> None:
    names = table.names
    if len(set(names)) != len(names):
        raise RunFolderError(f"Names of classes or labels must differ; found {', '.join(names)}.")
    if table.kind == "Binary" and len(names) != 2:
        raise RunFolderError(f"A binary task has 2 classes; found {len(names)}: {', '.join(names)}.")
    width = {
        "target": len(layout.target_names(table.kind, names)),
        "logits": len(layout.logit_names(table.kind, names, table.logits.shape[1])),
        "score": len(names),
    }
    for field, expected in width.items():
        if getattr(table, field).shape[1] != expected:
            raise RunFolderError(
                f"{table.kind} predictions of {', '.join(names)} need {expected} columns of {field}; "
                f"found {getattr(table, field).shape[1]}."
            )


def _check_values(table: Predictions) -> None:
    """Refuse targets, selections and roles that no metric can read."""
    truth = dict(zip(layout.target_names(table.kind, table.names), table.target.T, strict=True))
    for name, allowed in {"selection": SELECTIONS, "role": ROLES}.items():
        _refuse(table, name, getattr(table, name), ~np.isin(getattr(table, name), allowed), ", ".join(allowed))
    for name, column in truth.items():
        if table.kind in ("Binary", "MultiClass"):
            classes = len(table.names)
            wrong = ~np.isin(column, np.arange(classes))
            _refuse(table, name, column, wrong, f"a class index of 0 to {classes - 1}")
        elif table.kind == "MultiLabel" or name == "event":
            _refuse(table, name, column, ~np.isin(column, (0, 1)), "0 or 1")
        else:
            _refuse(table, name, column, ~np.isfinite(column), "a finite number")


def _refuse(table: Predictions, name: str, column: np.ndarray, wrong: np.ndarray, expected: str) -> None:
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise RunFolderError(
            f"row {i + 1} (bag {str(table.bag[i])!r}), column {name}: found {column[i].item()!r}, expected {expected}."
        )


def _refuse_repeats(path: Path, table: Predictions) -> None:
    """A bag that stands twice in one run, selection and role would count twice in every number."""
    keys = zip(*(getattr(table, name).tolist() for name in ("run", "selection", "role", "bag")), strict=True)
    seen: set[tuple] = set()
    for i, key in enumerate(keys):
        if key in seen:
            run, selection, role, bag = key
            raise RunFolderError(
                f"{path}, row {i + 1}: bag {bag!r} stands twice as {role} of run {run!r}, selection "
                f"{selection!r}; remove the second row, or make the file anew with --resume."
            )
        seen.add(key)
