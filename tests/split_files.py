"""Split files and tables to the letter of the tools that write them: header, padding, number format, quotes.

A split is a dict of lists of ids, `{"train": [...], "val": [...], "test": [...]}`; labels are a dict of ids.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

Parts = Mapping[str, Sequence[str]]


def lines(path: Path, rows: Sequence[Sequence[object]], separator: str = ",") -> Path:
    """Rows as text, without quotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(str(cell) for cell in row) + "\n" for row in rows))
    return path


def clam(folder: Path, number: int, parts: Parts, classes: Mapping[str, str] | None = None) -> Path:
    """What `save_splits` writes: the ids, the same as True and False, and with `classes` the counts of each class."""
    names = ["train", "val", "test"]
    columns = [parts.get(name, ()) for name in names]
    ragged = [[i, *row] for i, row in enumerate(zip_longest(*columns, fillvalue=""))]
    path = lines(folder / f"splits_{number}.csv", [["", *names], *ragged])
    marks = [[slide, *(name == part for part in names)] for name in names for slide in parts.get(name, ())]
    lines(folder / f"splits_{number}_bool.csv", [["", *names], *marks])
    if classes is not None:
        counts = [
            [label, *(sum(classes[s] == label for s in parts.get(name, ())) for name in names)]
            for label in sorted(set(classes.values()))
        ]
        lines(folder / f"splits_{number}_descriptor.csv", [["", *names], *counts])
    return path


def transmil(folder: Path, number: int, parts: Parts, labels: Mapping[str, int]) -> Path:
    """A column of ids and one of labels a part; padded columns hold floats, full ones whole numbers."""
    longest = max(len(parts.get(name, ())) for name in ("train", "val", "test"))
    columns: list[list[object]] = []
    for name in ("train", "val", "test"):
        ids = list(parts.get(name, ()))
        padding = [""] * (longest - len(ids))
        columns += [[*ids, *padding]]
        columns += [[*(labels[i] if not padding else float(labels[i]) for i in ids), *padding]]
    header = ["", *(f"{name}{end}" for name in ("train", "val", "test") for end in ("", "_label"))]
    rows = [[i, *row] for i, row in enumerate(zip(*columns, strict=True))]
    return lines(folder / f"fold{number}.csv", [header, *rows])


def mil_baseline(folder: Path, fold: int, folds: int, parts: Parts, labels: Mapping[str, int]) -> Path:
    """A row a slide, which stands in the columns of its part; all other cells are empty, so labels are floats."""
    names = ("train", "val", "test")
    header = [f"{name}_{end}" for name in names for end in ("slide_path", "label")]
    order = sorted((slide, name) for name in names for slide in parts.get(name, ()))
    rows = []
    for slide, part in order:
        cells: list[object] = []
        for name in names:
            cells += [f"/data/feats/{slide}.pt", float(labels[slide])] if name == part else ["", ""]
        rows.append(cells)
    return lines(folder / f"Total_{folds}-fold_Set_{fold}fold.csv", [header, *rows])


def patho_bench(
    folder: Path, cases: Mapping[str, str], labels: Mapping[str, object], folds: Sequence[Parts], task: str = "grade"
) -> Path:
    """`k=all.tsv` and the `config.yaml` beside it; `cases` is slide -> case."""
    part_of = [{slide: name for name, ids in parts.items() for slide in ids} for parts in folds]
    header = ["case_id", "slide_id", task, *(f"fold_{k}" for k in range(len(folds)))]
    rows = [[cases[s], s, labels[s], *(parts.get(s, "") for parts in part_of)] for s in cases]
    (folder / "x").parent.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        f"task_col: {task}\nextra_cols: []\nlabel_dict:\n  0: low\n  1: high\nmetrics:\n- macro-ovr-auc\n"
        "sample_col: case_id\ntask_type: classification\n"
    )
    return lines(folder / "k=all.tsv", [header, *rows], "\t")


def stamp(folder: Path, splits: Sequence[Parts]) -> Path:
    """`splits.json` of a cross-validation: patients, no validation part."""
    folder.mkdir(parents=True, exist_ok=True)
    value = {"splits": [{f"{name}_patients": list(s[name]) for name in ("train", "test")} for s in splits]}
    (folder / "splits.json").write_text(json.dumps(value, indent=4))
    return folder / "splits.json"


def acmil(folder: Path, seed: int, parts: Parts) -> Path:
    """`split_<seed>.json`, one line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"split_{seed}.json"
    path.write_text(json.dumps({f"{name}_names": list(parts[name]) for name in ("train", "val", "test")}))
    return path


def torchmil(folder: Path, parts: Parts) -> Path:
    """`splits.csv` of its data sets."""
    rows = [[name, part] for part, names in parts.items() for name in names]
    return lines(folder / "splits.csv", [["bag_name", "split"], *rows])


def soma(folder: Path, folds: Sequence[Parts]) -> Path:
    """`splits.csv`: a row a sample and fold."""
    rows = [[name, part, k] for k, parts in enumerate(folds) for part, names in parts.items() for name in names]
    return lines(folder / "splits.csv", [["sample_id", "split", "fold"], *rows])
