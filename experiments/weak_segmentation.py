"""What the studies of weakly supervised segmentation share: rows of a table, trained fold by fold and put together.

A row is a model trained alike on every split. Crops need one given split (it says which masks stay closed), so each
fold is a run folder of its own; here their test images are put together: every number is a mean over the folds, its
sampling interval draws patients, its procedure interval is the corrected one over folds.

Fixed before the folds of the table were run: the primary number is pooled Dice on the patient-grouped split, with maps
cut where labels of validation crops put the cut. Models are compared in pairs by the same draws of patients, p-values
corrected by Holm.
"""

import argparse
import csv
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from milkit import Experiment, GivenFolds, ImageCrops, KnownImages
from milkit.errors import MilkitError
from milkit.metrics.segmentation import compare_segmentations, segmentation_estimates
from milkit.metrics.segmentation.study import SegmentationDifference, SegmentationRun
from milkit.metrics.verdict import holm
from milkit.pixel import DCGN, StainThreshold
from milkit.predictions import Predictions
from milkit.report.contestants import recorded_train
from milkit.report.results import recorded_columns
from milkit.report.segmentation_runs import Scored, scored

RESULTS = Path(__file__).parent / "results"
KEPT = ("dice", "miou", "iou", "dice_per_image", "f1_pos", "f1_neg", "accuracy", "auroc", "auprc", "f1",
        "balanced_accuracy", "auroc_per_image")  # fmt: skip
"""Metrics that go into the file, where a study has them."""
LITE0 = str(Path(os.environ.get("MILKIT_DATA", "../shared/data")) / "weights" / "efficientnet_lite0_imagenet_f16.npz")
"""ImageNet weights of EfficientNet-Lite0, where the shared data lie (docs/weights.md)."""
NO_LABELS = (DCGN, StainThreshold)
"""Models that learn no label."""
FOLDS, DEVELOPMENT = 4, 0
"""Of the patient-grouped split, and the fold that is left out of the table: size of crops, depth and rate of the
trunk and epochs were chosen looking at masks of its four patients. The other three test 12 patients whose masks nobody
had looked at for that."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the row and of its folder.
        experiment: of the official split, or of fold 0.
        against: names of rows that it is compared with.
        splits: on which it is trained, of those that the study has.
    """

    name: str
    experiment: Experiment
    against: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("patients", "official", "as stated")


@dataclass(frozen=True)
class Measured:
    """A row on one split: its runs at one half, at the cut of labels, and what was said of them."""

    half: list[SegmentationRun] = field(default_factory=list)
    chosen: list[SegmentationRun] = field(default_factory=list)
    everything: list[SegmentationRun] = field(default_factory=list)
    cuts: list[float] = field(default_factory=list)
    undecided: int = 0
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    summary: Callable[..., dict[str, Any]] | None = None


def tested_folds() -> list[int]:
    """Folds of the patient-grouped split that make the table."""
    return [fold for fold in range(FOLDS) if fold != DEVELOPMENT]


def of_split(experiment: Experiment, split: str) -> list[Experiment]:
    """The experiments of a split: one of the official, three of the patient-grouped, as it stands of any other."""
    if split == "as stated":
        return [experiment]
    crops = experiment.data
    assert isinstance(crops, ImageCrops)
    assert isinstance(crops.images, KnownImages)
    overlap = split == "official"  # 11 of 16 patients are on both sides, which marks every number
    parts = [replace(crops.images, split="official")]
    if split == "patients":
        parts = [replace(crops.images, split="patients", fold=fold, folds=FOLDS) for fold in tested_folds()]
    protocol = GivenFolds(allow_single_class=True, allow_patient_overlap=overlap)
    return [replace(experiment, data=replace(crops, images=part), protocol=protocol) for part in parts]


def trained(row: Row, split: str, out: Path) -> list[Path]:
    """Run what is not finished yet; the run folders of a row on a split."""
    from milkit import api

    folders = []
    for i, experiment in enumerate(of_split(row.experiment, split)):
        fold = tested_folds()[i] if split == "patients" else 0
        folder = out / row.name / (split if split != "patients" else f"fold{fold}")
        if not (folder / "report.html").is_file():
            started = time.perf_counter()
            api.run(replace(experiment, name=row.name), folder, resume=folder.exists(), source=None)
            print(f"{row.name}, {split}, fold {fold}: {time.perf_counter() - started:.0f} s", flush=True)
        folders.append(folder)
    return folders


def measured(folders: Sequence[Path]) -> Measured:
    """Test images of all folds put together; patients keep their names, each folder is a split."""
    total = Measured()
    people: dict[str, int] = {}
    seconds, undecided, found, summary = 0.0, 0, {}, None
    for split, folder in enumerate(folders):
        config, results = _json(folder / "config.json"), _json(folder / "results.json")
        predictions = Predictions.read(folder / "predictions.csv")
        part = _scored(folder, config, predictions)
        tested = predictions.take(predictions.role == "test")
        names = np.unique(tested.patient).tolist()
        number = np.array([people.setdefault(name, len(people)) for name in names])
        for ours, theirs in ((total.half, part.half), (total.chosen, part.chosen), (total.everything, part.everything)):
            ours += [
                SegmentationRun(run.images, number[run.patient], split + run.split, run.train_patients)
                for run in theirs
            ]
        total.cuts.extend(cut.threshold for cut in part.cuts.values())
        undecided += sum(bool(cut.note) for cut in part.cuts.values())
        seconds += _json(folder / "environment.json")["seconds"]
        found, summary = results["segmentation"], part.summary
    return replace(total, seconds=seconds, undecided=undecided, found=found, summary=summary)


def _scored(folder: Path, config: dict[str, Any], predictions: Predictions) -> Scored:
    experiment = config["experiment"]
    selection = "validation" if (predictions.selection == "validation").any() else "last"
    part = scored(
        folder, experiment["data"], predictions, selection, recorded_columns(folder / "columns.csv"),
        recorded_train(folder, "patients"), experiment.get("task", {}),
    )  # fmt: skip
    if part is None:
        raise MilkitError(f"{folder} has no maps that could be measured.")
    return part


def line(row: Row, split: str, seen: Measured) -> dict[str, Any]:
    """A row of the results file."""
    supervision = seen.found.get("supervision", {})
    if isinstance(row.experiment.model, NO_LABELS):  # their studies have labels, as any table has, and read none
        supervision = {"kind": "none", "labels_per_image": 0}
    train = row.experiment.train
    return {
        "row": row.name,
        "split": split,
        "model": type(row.experiment.model).__name__,
        "supervision": supervision.get("kind"),
        "labels_per_image": supervision.get("labels_per_image"),
        "marks": sorted({*seen.found.get("marks", []), *(["patient-leaky"] if split == "official" else [])}),
        "splits": len({run.split for run in seen.half}),
        "seeds": row.experiment.seeds,
        "epochs": train.epochs,
        "test_images": sum(len(run.images) for run in seen.everything),
        "test_patients": len({int(p) for run in seen.everything for p in run.patient}),
        "minutes": round(seen.seconds / 60, 1),
        "cut": {
            "mean": float(np.mean(seen.cuts)), "lowest": min(seen.cuts), "highest": max(seen.cuts),
            "undecided": seen.undecided,
        },
        "at_label_cut": _estimates(seen.chosen, seen),
        "at_half": _estimates(seen.half, seen),
    }  # fmt: skip


def everything(split: str, seen: Measured) -> dict[str, Any]:
    """The floor: every pixel of every test image called foreground."""
    return {
        "row": "everything", "split": split, "model": None, "supervision": "none", "labels_per_image": 0, "marks": [],
        "splits": len({run.split for run in seen.everything}), "seeds": 0, "epochs": 0,
        "test_images": sum(len(run.images) for run in seen.everything), "minutes": 0.0,
        "at_label_cut": _estimates(seen.everything, seen), "at_half": _estimates(seen.everything, seen),
    }  # fmt: skip


def _estimates(runs: list[SegmentationRun], seen: Measured) -> dict[str, Any]:
    assert seen.summary is not None
    found = segmentation_estimates(runs, summary=seen.summary)
    return {
        name: {
            "value": _number(e.value),
            "sampling": e.sampling and [_number(b) for b in e.sampling],
            "procedure": e.procedure and [_number(b) for b in e.procedure],
        }
        for name, e in found.items()
        if name in KEPT and np.isfinite(e.value)
    }


def differences(rows: Sequence[Row], split: str, seen: dict[str, Measured], metric: str) -> list[dict[str, Any]]:
    """Rows against those they name, on the same images: `metric` at the cut of labels and at one half, and AUROC.

    p is corrected by Holm over the pairs of each of the three.
    """
    pairs = [(row.name, other) for row in rows for other in row.against if row.name in seen and other in seen]
    found = []
    for name, at in ((metric, "label cut"), (metric, "half"), ("auroc", "no cut")):
        if name == "auroc" and at != "no cut":
            continue
        tested: list[SegmentationDifference] = []
        for first, second in pairs:
            one, two = seen[first], seen[second]
            runs = (one.chosen, two.chosen) if at == "label cut" else (one.half, two.half)
            assert one.summary is not None
            tested.append(compare_segmentations(*runs, summary=one.summary)[name])
        corrected = holm([d.sampling.p for d in tested])
        found += [
            {
                "first": first,
                "second": second,
                "split": split,
                "metric": name,
                "at": at,
                "difference": _number(d.sampling.difference),
                "sampling": [_number(d.sampling.low), _number(d.sampling.high)],
                "p": _number(d.sampling.p),
                "p_holm": _number(p),
                "procedure": [_number(d.procedure.low), _number(d.procedure.high)],
            }
            for (first, second), d, p in zip(pairs, tested, corrected, strict=True)
        ]
    return found


def published(dataset: str) -> list[dict[str, Any]]:
    """Published rows on a data set, where the shared table of them lies; [] without it."""
    path = Path(os.environ.get("MILKIT_SHARED", "../shared")) / "published" / "segmentation.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["dataset"] == dataset]


def study(
    name: str, doc: str, rows: Sequence[Row], splits: Sequence[str], metric: str = "dice", said: str = ""
) -> None:
    """The command line of a study: train what is missing, write `results/NAME.json`, print the table.

    Args:
        name: of the study and its file.
        doc: help.
        rows: of the table.
        splits: "patients", "official", or "as stated".
        metric: the primary one.
        said: dataset of the published rows to print beside ours.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="run folders are kept here, and gone on with")
    parser.add_argument("--rows", nargs="*", help="only these; the file is then printed, not written")
    parser.add_argument("--splits", nargs="*", default=list(splits))
    options = parser.parse_args()
    chosen = [row for row in rows if options.rows is None or row.name in options.rows]
    lines, paired = [], []
    for split in options.splits:
        own = [row for row in chosen if split in row.splits]
        seen = {row.name: measured(trained(row, split, options.out)) for row in own}
        lines.append(everything(split, next(iter(seen.values()))))
        lines += [line(row, split, seen[row.name]) for row in own]
        paired += differences(chosen, split, seen, metric)
    print(table(lines, metric))
    for d in paired:
        print(
            f"{d['split']}: {d['first']} - {d['second']}: {d['difference']:+.3f} {d['sampling']} Holm p {d['p_holm']}"
        )
    if options.rows is None and list(options.splits) == list(splits):
        from benchmarks.machine import machine

        for entry in lines:
            entry["command"] = (
                f"python -m experiments.{name} --out RUNS --rows {entry['row']} --splits '{entry['split']}'"
            )

        document = {
            "made_by": f"python -m experiments.{name} --out RUNS",
            "machine": machine(),
            "primary": f"{metric} at the cut that labels of validation crops choose, patient-grouped split",
            "rows": lines,
            "paired": paired,
            "published": published(said) if said else [],
        }
        path = RESULTS / f"{name}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"wrote {path}")


def table(lines: Sequence[dict[str, Any]], metric: str) -> str:
    """The rows as text, with sampling intervals."""
    out = []
    for entry in lines:
        at, half = entry["at_label_cut"], entry["at_half"]
        cells = [f"{entry['split']:10s} {entry['row']:26s} {_labels(entry):>22s}"]
        for name in dict.fromkeys((metric, "miou")):
            cells.append(f"{name} {_cell(at.get(name))}")
        cells.append(f"auroc {_cell(half.get('auroc'))}")
        cells.append(f"at .5 {_cell(half.get(metric))}")
        out.append("  ".join(cells) + f"  {entry['minutes']} min {' '.join(entry['marks'])}")
    return "\n".join(out)


def _labels(entry: dict[str, Any]) -> str:
    n = entry["labels_per_image"]
    return f"{n:.0f} labels an image" if n is not None else str(entry["supervision"])


def _cell(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    bounds = found["sampling"]
    return f"{found['value']:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
