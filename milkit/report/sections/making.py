"""How the numbers were made, run by run, and how to make them again."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from milkit.report.blocks import Block, Code, Facts, Folded, Heading, Paragraph, Table
from milkit.report.source import Source
from milkit.report.words import duration, headline, metric_label, number

_ENVIRONMENT = {
    "command": "Command",
    "git_commit": "Commit",
    "git": "Commit",
    "device": "Device",
    "backend": "Backend",
    "precision": "Precision",
    "matmul_precision": "Matmul precision",
    "seconds": "Time",
}
LINE = 88


def making(source: Source) -> list[Block]:
    """Config, environment, every run, how to repeat."""
    return [*_made(source), *_runs(source), *_repeat(source)]


def _made(source: Source) -> list[Block]:
    blocks: list[Block] = [Heading("How it was made"), Code(readable(source.experiment))]
    width = source.config.get("width")
    pairs = [("Runs side by side (width)", str(width))] if width is not None else []
    if "instances_at_once" in source.config:
        pairs.append(("Long bags", f"in chunks of at most {source.config['instances_at_once']:,} instances (exact)"))
    for key, label in _ENVIRONMENT.items():
        value = source.environment.get(key)
        if value not in (None, ""):
            pairs.append((label, duration(value) if key == "seconds" else str(value)))
    rest = [(k.replace("_", " "), _flat(v)) for k, v in source.environment.items() if k not in (*_ENVIRONMENT, "times")]
    if pairs:
        blocks.append(Facts(tuple(pairs)))
    if rest:
        blocks.append(Folded("Versions and settings", (Facts(tuple((k, v) for k, v in rest if v)),)))
    spent = time_spent(source.environment.get("times"))
    if spent:
        blocks.append(Paragraph(spent))
    blocks.append(Paragraph(promise(source)))
    moved = precision(source)
    return [*blocks, Paragraph(moved)] if moved else blocks


def precision(source: Source) -> str:
    """What computing in half precision moved, over all runs; nothing to say in float32."""
    rows = [row for row in source.runs if row.get("precision_largest")]
    if not rows:
        return ""
    used = source.experiment.get("train", {}).get("precision")
    widest = max(rows, key=lambda row: float(row["precision_largest"]))
    most, run = float(widest["precision_largest"]), widest["run"]
    middle = float(np.median([float(row["precision_median"]) for row in rows]))
    parts = " and ".join(sorted({str(row["precision_part"]) for row in rows}))
    return (
        f"Models computed in {used}; parameters, optimiser, losses and sums were float32. The same parameters in "
        f"float32 give scores of the {parts} part that differ by {middle:.2g} in the median (over bags, then over "
        f"runs) and by {most:.2g} at most (run {run}). "
        "What training itself would have done in float32 is another question: only a second study answers it."
    )


def time_spent(times: Any) -> str:
    """Where the time went, in a sentence; "" for runs that did not note it."""
    if not isinstance(times, dict) or not isinstance(times.get("train"), int | float):
        return ""
    what = {
        "import": "starting and importing",
        "prepare": "reading the data and drawing the folds",
        "compile": f"compiling {times.get('compiled', 0):,} functions, "
        f"{times.get('compiled_cached', 0):,} of which were kept from an earlier start",
        "train": "training",
        "predict": "predicting and writing",
        "measure": "computing the numbers",
    }
    parts = [f"{duration(times[k])} {text}" for k, text in what.items() if isinstance(times.get(k), int | float)]
    return f"The time went into: {'; '.join(parts)} (summed over programs, also where several ran side by side)."


def promise(source: Source) -> str:
    """Which bits are promised when the study is run again."""
    width = source.config.get("width")
    same = f"width {width}, " if width is not None else ""
    return (
        f"The same config, {same}backend, device and versions give the same bits. At another width or on another "
        "machine the last digits may differ, and training can make such a difference larger."
    )


def readable(value: Any, indent: int = 0) -> str:
    """A tagged config as the Python that a researcher would write."""
    if isinstance(value, list):
        inner = ", ".join(readable(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not isinstance(value, dict):
        return repr(value)
    name = value.get("type")
    fields = [(k, v) for k, v in value.items() if k != "type" or name is None]
    if name is None:
        return "{" + ", ".join(f"{k!r}: {readable(v)}" for k, v in fields) + "}"
    flat = f"{name}({', '.join(f'{k}={readable(v)}' for k, v in fields)})"
    if not fields or (indent + len(flat) <= LINE and "(" not in flat[len(str(name)) + 1 :]):
        return flat
    pad = " " * (indent + 4)
    lines = [f"{pad}{k}={readable(v, indent + 4)}," for k, v in fields]
    return "\n".join([f"{name}(", *lines, " " * indent + ")"])


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    return "" if value is None else str(value)


def _runs(source: Source) -> list[Block]:
    """Every run: what it was, how it ended, its own metrics."""
    rows = source.results.get("per_run", [])
    if not rows and not source.runs:
        return []
    by_name = {row.get("run", ""): row for row in source.runs}
    metrics = _run_metrics(rows, headline(source.metrics))
    names = [str(row.get("run")) for row in rows] or list(by_name)
    measured = {str(row.get("run")): row for row in rows}
    columns = ("repeat", "fold", "inner", "seed", "status", "selected_epoch", "n_train", "n_validation", "n_test")
    # "inner" says something in nested studies only
    kept = [
        c for c in columns if len({by_name.get(n, {}).get(c, "") for n in names}) > 1 or c not in ("inner", "status")
    ]
    header = ("Run", *(c.replace("_", " ").replace("n ", "") for c in kept), *(metric_label(m) for m in metrics))
    cells = []
    for name in names:
        run, own = by_name.get(name, {}), measured.get(name, {})
        facts = [run.get(c) or str(own.get(c, "") if own.get(c) is not None else "") for c in kept]
        cells.append((name, *facts, *(number(_value(own, m)) for m in metrics)))
    numeric = tuple(h for h in header if h not in ("Run", "status"))
    note = (
        "n: bags of each part. A single run's numbers rest on one small test part; read the table of metrics instead."
    )
    note = note.replace("n: bags of each part", "train, validation, test: bags of each part")
    return [
        Heading("Every run"),
        Folded(
            f"{len(cells):,} runs with their own test numbers", (Table(header, tuple(cells), numeric, notes=(note,)),)
        ),
    ]


def _run_metrics(rows: list[dict[str, Any]], first: str | None) -> list[str]:
    found = list(dict.fromkeys(m for row in rows for m in row.get("metrics", {})))
    return sorted(found, key=lambda m: m != first)[:6]


def _value(row: dict[str, Any], metric: str) -> Any:
    value = row.get("metrics", {}).get(metric)
    return value.get("value") if isinstance(value, dict) else value


def relative_paths(data: dict[str, Any]) -> list[str]:
    """Files that an experiment names relative to the folder it is run in."""
    found: list[str] = []
    for name in ("table", "features"):
        value = data.get(name)
        found += [value] if isinstance(value, str) else [str(v) for v in value or ()]
    return [path for path in found if path and not Path(path).expanduser().is_absolute()]


def started_in(folder: Path, paths: list[str]) -> Path | None:
    """The folder from which all paths are there: where the report is written, or one above the run folder."""
    for base in (Path.cwd(), *folder.resolve().parents):
        if all((base / path).exists() for path in paths):
            return base
    return None


def _repeat(source: Source) -> list[Block]:
    folder = source.folder.resolve().name
    command = f"milkit run {shlex.quote(f'{folder}/config.json')} --out {shlex.quote(f'{folder}-again')}"
    text = "From the folder that holds this run folder; nothing is needed but the data."
    paths = relative_paths(source.experiment.get("data", {}))
    if paths:
        command = f"milkit run {shlex.quote(str(source.folder.resolve() / 'config.json'))} "
        command += f"--out {shlex.quote(f'{source.folder.resolve()}-again')}"
        base = started_in(source.folder, paths)
        if base is None:
            text = "From the folder where the study was started: the experiment names its data relative to it, "
            text += f"{', '.join(paths)}, and they are not where this report was written."
        else:
            command = f"cd {shlex.quote(str(base))}\n{command}"
            text = "The experiment names its data relative to this folder, in which they were found."
    if "model" in source.config.get("source", {}):
        command += " --trust-source"
        text += " The model is not milkit's own: the command runs the experiment file that was saved with the run."
    lines: list[Block] = [Heading("How to repeat it"), Paragraph(text), Code(command)]
    if source.experiment.get("data", {}).get("type") == "InMemory":
        text = "The bags were held in memory and are not in the folder: run the script that made them again."
        lines = [Heading("How to repeat it"), Paragraph(text)]
    lines.append(Paragraph("To write this report again from the predictions, without training:"))
    return [*lines, Code(f"milkit report {shlex.quote(folder)}")]
