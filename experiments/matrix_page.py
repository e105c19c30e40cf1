"""The matrix out of its cells: `results/matrix.json`, and from that alone `docs/matrix.md`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from experiments.matrix_rows import ABSENT, BASELINES, SETS
from milkit.metrics.comparison import corrected_t_test
from milkit.metrics.verdict import holm

TESTS = ("single_concept", "multi_concept", "false_frequency")
MARKS = {"respects": "yes", "fails": "**no**", "did not learn": "-", "undecided": "?"}


def collect(out: Path, names: list[str], columns: list[str]) -> dict[str, Any]:
    """Every cell that is there, what is not, and the paired differences."""
    found: dict[str, Any] = {}
    for name in names:
        cells = {}
        for column in columns:
            file = out / "cells" / column / f"{name}.json"
            if file.exists():
                cells[column] = _rounded(json.loads(file.read_text()))
        found[name] = cells
    return {
        "made_by": "make matrix",
        "machine": machine(),
        "processor_hours": round(sum(c["processor"] for cells in found.values() for c in cells.values()) / 3600, 2),
        "absent": ABSENT,
        "not_run": {n: missing for n, cells in found.items() if (missing := [c for c in columns if c not in cells])},
        "rows": found,
        "differences": {base: differences(found, base) for base in BASELINES},
    }


def differences(found: dict[str, Any], base: str) -> dict[str, Any]:
    """AUROC of each row minus the base's on the same folds of each set; corrected test, Holm over all cells."""
    cells: list[tuple[str, str]] = []
    verdicts = []
    for column in (f"classic_{s}" for s in SETS):
        ours = (found.get(base) or {}).get(column)
        if not ours or "folds" not in ours:
            continue
        for name, row in found.items():
            theirs = row.get(column)
            if name == base or not theirs or "folds" not in theirs:
                continue
            gap = [_minus(a["auroc"], b["auroc"]) for a, b in zip(theirs["folds"], ours["folds"], strict=True)]
            test, train = ([f[k] for f in ours["folds"]] for k in ("n_test", "n_train"))
            verdicts.append(corrected_t_test(np.array(gap), np.array(test), np.array(train)))
            cells.append((name, column.removeprefix("classic_")))
    corrected: list[float] = holm([v.p for v in verdicts]).tolist() if verdicts else []
    table: dict[str, Any] = {}
    for (name, column), verdict, p in zip(cells, verdicts, corrected, strict=True):
        table.setdefault(name, {})[column] = {
            "difference": round(verdict.difference, 4), "interval": [round(verdict.low, 4), round(verdict.high, 4)],
            "p": round(verdict.p, 4), "p_holm": round(float(p), 4), "detectable": round(verdict.detectable, 4),
        }  # fmt: skip
    return table


def _minus(a: float | None, b: float | None) -> float:
    return float("nan") if a is None or b is None else a - b


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    rows = found["rows"]
    columns = ["contracts", *TESTS, "shifted_mean", *(f"classic_{s}" for s in SETS), "digits", "colon"]
    head = [
        "model",
        "contracts",
        *(t.replace("_", " ") for t in TESTS),
        "ShiftedMean: below posterior",
        *SETS,
        "digits",
        "colon",
    ]
    lines = [
        "# The matrix: every model by every test",
        "",
        f"Made by `{found['made_by']}` (`python -m experiments.matrix --out RUNS`), which is resumable: "
        f"{found['processor_hours']} processor hours so far on {found['machine']['processor']}, "
        f"{found['machine']['usable_cores']} cores. All numbers are in `experiments/results/matrix.json`. An empty "
        f"cell has not been run ({sum(len(v) for v in found['not_run'].values())} are empty); it is not a failure.",
        "",
        "**One width, one recipe.** Rows are 32 wide without dropout, trained alike, tuned for no model and no set "
        "(`experiments/matrix.py`, `matrix_rows.py`). So the table says how models behave side by side *there*. It "
        "does not say which is best: published widths, features and recipes differ, the sets are small, and a "
        "difference that is not marked could have gone unseen.",
        "",
        "- *contracts*: the battery of `milkit.testing.model_battery` ([models.md](models.md)).",
        "- *single concept, multi concept, false frequency*: Raff & Holt's tests ([algorithmic.md](algorithmic.md)); "
        "yes = respects, **no** = a shortcut was learnt that the assumption forbids, - = did not learn, ? = undecided. "
        "Three draws; algorithmic.md has five, of twice the bags, for some models. Only `claims` bind: most models "
        "promise nothing here.",
        "- *ShiftedMean*: test AUROC less the posterior's on the same bags, shift of 3 SD (Harvey et al. 2025).",
        "- *classic sets*: AUROC, mean of 10 folds dealt once; bold where it differs from gated ABMIL on the same "
        "folds (corrected resampled t, Holm over all cells, .05).",
        "- *digits*: AUROC on MNIST bags (200 to train), flattened pixels, mean of three initialisations.",
        "- *colon*: AUROC on bags of nuclei, end to end: the convolutions of Ilse et al. (2018), half of the filters, "
        "before each model, and places for the models that read them. 5 folds, 8 epochs, 32 nuclei of a bag a step, "
        "bags judged whole; patient-leaky (no patient is known), 100 bags: an interval is some .07 to either side at "
        "best. The study of 5 x 10 folds beside published numbers is `experiments/results/ilse2018_pixels.json`.",
        "- *places*: the model needs coordinates, which these bags do not have.",
        "- *diverged*: a loss was not finite under this recipe. ILRA has no layer norm by default, and its validation "
        "losses reach millions after the first epoch on Fox.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    against = found["differences"]["ABMIL"]
    for name, cells in rows.items():
        shown = [f"`{name}`"]
        for column in columns:
            shown.append(_cell(column, name, cells, against))
        lines.append(f"| {' | '.join(shown)} |")
    lines += ["", *(f"`{name}`: no row; {why}." for name, why in found["absent"].items()), "", *_cost(rows)]
    return "\n".join([*lines, *_significant(found)]) + "\n"


def _cell(column: str, name: str, cells: dict[str, Any], against: dict[str, Any]) -> str:
    cell = cells.get("raff_holt" if column in TESTS else column)
    if cell is None:
        return ""
    if "error" in cell:
        if cell["error"].startswith("NonFiniteError"):
            return "diverged"
        return "places" if "coords_um" in cell["error"] or "places" in cell["error"] else "error"
    if column == "contracts":
        return "pass" if cell["passes"] else "**breaks**"
    if column in TESTS:
        return MARKS[cell["tests"][column]["verdict"]]
    if column == "shifted_mean":
        return f"{-cell['minus_posterior']:.3f}"
    value = f"{cell['metrics']['auroc']['value']:.3f}"
    pair = against.get(name, {}).get(column.removeprefix("classic_"))
    return f"**{value}**" if pair and pair["p_holm"] < 0.05 else value


def _cost(rows: dict[str, Any]) -> list[str]:
    """What each model costs as published."""
    lines = [
        "## Cost, as published",
        "",
        "The config's own defaults on one bag of 1,000 instances of 512 features with places, one logit: forward and "
        "backward, one bag at a time, float32. Processor time on a busy machine: compare rows, not papers.",
        "",
        "| model | parameters | GFLOP | MiB beside parameters and bag | processor ms a bag |",
        "|---|---|---|---|---|",
    ]
    for name, cells in rows.items():
        cell = cells.get("cost")
        if cell and "error" not in cell and "(" not in name:
            memory = cell["mib_of_memory"]
            lines.append(
                f"| `{name}` | {cell['parameters']:,} | {cell['gflop']:.2f} | "
                f"{'' if memory is None else f'{memory:,.0f}'} | {cell['processor_microseconds_a_bag'] / 1000:,.1f} |"
            )
    return lines


def _significant(found: dict[str, Any]) -> list[str]:
    """Differences that hold after Holm, and how many were looked at."""
    names = {"ABMIL": "gated ABMIL", "EmbeddingPooling": "the mean of embeddings"}
    lines = ["", "## Differences on the classic sets", ""]
    for base, table in found["differences"].items():
        pairs = [(n, s, v) for n, row in table.items() for s, v in row.items()]
        held = [(n, s, v) for n, s, v in pairs if v["p_holm"] < 0.05]
        seen = float(np.median([v["detectable"] for *_, v in pairs])) if pairs else float("nan")
        lines.append(
            f"Against {names[base]}: {len(pairs)} pairs, {len(held)} different after Holm. Half of these studies would "
            f"have seen a difference of {seen:.2f} in four of five cases before the correction; smaller ones pass."
        )
        lines += [
            f"- `{n}` on {s}: {v['difference']:+.3f} [{v['interval'][0]:+.3f}, {v['interval'][1]:+.3f}], Holm p "
            f"{v['p_holm']:.3f}"
            for n, s, v in held
        ]
        lines.append("")
    lines.append(
        "No ranks are tested: with 5 sets and some 40 models Nemenyi's critical difference is 29 ranks, more than any "
        "two rows could be apart."
    )
    return lines
