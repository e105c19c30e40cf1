"""The run folder's tables, put together from what its finished programs left."""

import csv
import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.protocol import Plan
from milkit.data.protocol.labels import few_label_rows
from milkit.data.study import Study
from milkit.execute.folder import write_bytes, write_json, write_text
from milkit.execute.prepare import Prepared
from milkit.execute.program import is_done, program_folder
from milkit.task import Binary, MultiClass, MultiLabel, Survival, Task

PICTURES_A_CLASS = 3
FEW_LABELS = "few_labels"
"""Folder in a run folder with the tables of its label budgets."""


def cohort_json(prepared: Prepared) -> dict[str, Any]:
    """The cohort's flow and what each fold holds: the head of every report."""
    study, plan = prepared.study, prepared.plan
    return {
        "flow": study.flow.as_dict(),
        "folds": [
            {
                "repeat": split.repeat,
                "fold": split.fold,
                "inner": split.inner,
                "role": role,
                "bags": len(rows),
                "patients": len(set(study.patient[rows].tolist())),
                "counts": class_counts(prepared.experiment.task, study, rows),
            }
            for split in plan.splits
            for role in ("train", "validation", "test")
            if len(rows := getattr(split, role))
        ],
        "grouped_by": plan.grouped_by,
        "marks": list(plan.marks),
        "notes": [*plan.notes, *(prepared.few.notes if prepared.few else ())],
        "instances": {
            "min": int(study.lengths.min()),
            "median": float(np.median(study.lengths)),
            "max": int(study.lengths.max()),
            "total": int(study.lengths.sum()),
        },
        "provenance": json.loads(json.dumps(dict(study.provenance), default=str)),
    }


def columns_csv(study: Study) -> str:
    """Columns of the cohort table beside ids, targets and splits, one row a bag: what patients can be grouped by."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = [name for name in study.columns if name not in ("bag", "patient")]
    table.writerow(["bag", "patient", *names])
    table.writerows(zip(study.bag, study.patient, *(study.columns[name] for name in names), strict=True))
    return text.getvalue()


def few_labels_csv(prepared: Prepared) -> str:
    """Who trains and validates with each label budget and draw."""
    text = io.StringIO()
    splits = prepared.few.splits if prepared.few else ()
    csv.writer(text, lineterminator="\n").writerows(few_label_rows(splits, prepared.study))
    return text.getvalue()


def class_counts(task: Task, study: Study, rows: np.ndarray) -> dict[str, int]:
    """Bags of each class (or label, or events) among some rows; empty for regression."""
    values, names = study.targets.values[rows], study.targets.names
    if isinstance(task, Binary | MultiClass):
        found = Counter(values.tolist())
        return {name: int(found.get(i, 0)) for i, name in enumerate(names)}
    if isinstance(task, MultiLabel):
        return {name: int(values[:, i].sum()) for i, name in enumerate(names)}
    if isinstance(task, Survival):
        return {"events": int(values[:, 1].sum()), "censored": int((1 - values[:, 1]).sum())}
    return {}


def plan_rows(plan: Plan) -> dict[str, dict[str, int]]:
    """Sizes of each split's parts by `repeat/fold/inner`."""
    return {
        f"{s.repeat}/{s.fold}/{s.inner}": {
            "train": len(s.train),
            "validation": len(s.validation),
            "test": len(s.test),
        }
        for s in plan.splits
    }


def assemble(out: Path, programs: int) -> int:
    """Write `predictions.csv`, `history.jsonl`, `runs.csv` and `top_instances.csv` from the finished programs.

    Programs of few labels have the same tables under `few_labels/`: the study's own are those of all labels.

    Returns:
        How many programs are finished.
    """
    finished = [program_folder(out, p) for p in range(programs) if is_done(out, p)]
    folders = [f for f in finished if (f / "predictions.csv").exists()]  # trials of a search are trained only
    rows = {f: json.loads((f / "done.json").read_text()) for f in folders}
    few = [f for f in folders if rows[f][0].get("labels")]
    _tables(out, {f: rows[f] for f in folders if f not in few})
    if few:
        (out / FEW_LABELS).mkdir(exist_ok=True)
        _tables(out / FEW_LABELS, {f: rows[f] for f in few})
    return len(finished)


def _tables(out: Path, done: dict[Path, list[dict[str, Any]]]) -> None:
    """Join what some programs left, by their folders and the rows of their runs."""
    folders = list(done)
    for name in ("predictions.csv", "top_instances.csv"):
        parts = [(f / name).read_bytes() for f in folders if (f / name).exists()]
        if parts:  # every part has the header; the first one's is kept
            write_bytes(out / name, b"".join([parts[0], *(p.split(b"\n", 1)[1] for p in parts[1:])]))
    write_bytes(out / "history.jsonl", b"".join((f / "history.jsonl").read_bytes() for f in folders))
    rows = [row for part in done.values() for row in part]
    if rows:
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(out / "runs.csv", text.getvalue())


class Readable:
    """Keeps the tables of a running study up with its finished programs, for a tenth of the time at most."""

    def __init__(self, out: Path) -> None:
        self._out, self._next = out, 0.0

    def after(self, programs: int) -> None:
        """A program was finished; `programs` is how many there are."""
        began = time.monotonic()
        if began >= self._next:
            assemble(self._out, programs)
            ended = time.monotonic()
            self._next = ended + 10 * (ended - began)


def attention_json(prepared: Prepared, out: Path) -> None:
    """Whole attention maps of a few test bags: of each class, those that its runs were surest of.

    Attention is averaged over the seeds of the first repeat, each bag tested by one fold; the spread over seeds is
    kept beside it.
    """
    study = prepared.study
    maps: dict[int, list[np.ndarray]] = {}
    for program in range(prepared.programs):
        file = program_folder(out, program) / "attention.npz"
        if is_done(out, program) and file.exists():
            with np.load(file, allow_pickle=False) as arrays:
                for key in arrays.files:
                    maps.setdefault(int(key.rsplit("/", 1)[1]), []).append(arrays[key])
    if not maps:
        return
    shown = _surest(prepared, out, sorted(maps))
    bags = []
    for row, probability in shown:
        attention = np.stack(maps[row])
        xy = study.read(row).coords_um  # a patient's slides side by side, as a picture wants them
        bags.append(
            {
                "bag": str(study.bag[row]),
                "target": _target(prepared, row),
                "score_of_target": probability,
                "n": int(study.lengths[row]),
                "seeds": len(attention),
                "attention": np.round(attention.mean(0).astype(float), 7).tolist(),
                "attention_sd": np.round(attention.std(0).astype(float), 7).tolist(),
                "coords_um": None if xy is None else np.asarray(xy, float).round(1).tolist(),
            }
        )
    write_json(out / "attention.json", {"bags": bags})


def _target(prepared: Prepared, row: int) -> Any:
    value = prepared.study.targets.values[row]
    if isinstance(prepared.experiment.task, Binary | MultiClass):
        return prepared.study.targets.names[int(value)]
    return np.asarray(value, float).tolist()


def _surest(prepared: Prepared, out: Path, rows: list[int]) -> list[tuple[int, float]]:
    """(row, mean score of its own class over runs) of the bags to show."""
    from milkit.predictions import Predictions

    seen = Predictions.read(out / "predictions.csv")
    primary = "validation" if prepared.selects else "last"
    keep = (seen.selection == primary) & (seen.role == "test")
    row_of = {str(b): i for i, b in enumerate(prepared.study.bag)}
    own: dict[int, list[float]] = {}
    single = isinstance(prepared.experiment.task, Binary | MultiClass)
    for bag, target, score in zip(seen.bag[keep], seen.target[keep], seen.score[keep], strict=True):
        row = row_of[str(bag)]
        own.setdefault(row, []).append(float(score[int(np.ravel(target)[0])] if single else score[0]))
    mean = {row: float(np.mean(own[row])) for row in rows if row in own}
    best = sorted(mean, key=lambda r: (-mean[r], r))
    if not single:
        return [(r, mean[r]) for r in best[: 2 * PICTURES_A_CLASS]]
    classes = prepared.study.targets.values
    # attention over few instances shows little: look among the largest quarter
    large = prepared.study.lengths >= np.quantile(prepared.study.lengths[rows], 0.75)
    best = [r for r in best if large[r]] or best
    groups = [[r for r in best if classes[r] == c] for c in reversed(range(len(prepared.study.targets.names)))]
    return [(r, mean[r]) for g in groups for r in g[:PICTURES_A_CLASS]]
