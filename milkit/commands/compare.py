"""`milkit compare`: runs on the same patients, with a verdict in words."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from milkit.errors import ConfigError

if TYPE_CHECKING:
    from milkit.report.comparison import Comparison

DESCRIPTION = """Compare runs on the same patients: paired differences with intervals, tests and a verdict.

A RUN is a run folder, a predictions.csv as milkit writes it, or any CSV with the columns
  patient (or patient_id, case, case_id), then time, event, risk or target, prob,
and, where there are any, fold, repeat, seed, site, slide, split (only its test rows are compared).
Every run must hold the same patients, truths and test parts."""

EPILOG = """example:
  milkit compare runs/gated runs/mean --metric auroc --out runs/gated_vs_mean
  milkit compare ours.csv published_with_another_paper.csv --json
  milkit compare runs/a runs/b runs/c --reference runs/c --selection last

verdicts, after Holm's correction over all that was compared:
  different           the runs differ, and which is better is said
  no power            not shown to differ; a difference of the margin could have gone unseen
  indistinguishable   not shown to differ, though a difference of the margin would most likely have been seen"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="milkit compare",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder or table of predictions")
    parser.add_argument(
        "--metric", action="extend", nargs="+", default=[], metavar="NAME",
        help="what to compare (default: the main metrics of the task); all for all",
    )  # fmt: skip
    parser.add_argument(
        "--selection", default="", metavar="NAME[,NAME ...]",
        help="which epoch: validation, last or optimistic; one for all runs, or one a run (default: the first of "
        "validation and last that all have)",
    )  # fmt: skip
    parser.add_argument("--reference", metavar="RUN", help="compare each with this one only, rather than every pair")
    parser.add_argument(
        "--margin", type=float, default=0.05,
        help="smallest difference that matters (default .05, on the metric's own scale; a share of the second run's "
        "value for metrics without an upper end, such as mae)",
    )  # fmt: skip
    parser.add_argument("--alpha", type=float, default=0.05, help="two-sided error allowed in all (default .05)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write page, forest plot and tables there")
    parser.add_argument("--force", action="store_true", help="write to a DIR that holds files; others in it stay")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON and nothing else")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        raise ConfigError("A comparison needs two runs; name a second one: milkit compare RUN_A RUN_B.")

    from milkit.report.compare_runs import compare  # not by way of the API, which brings JAX along

    found = compare(
        options.runs,
        metrics=tuple(options.metric),
        selections=tuple(s for s in options.selection.split(",") if s),
        reference=options.reference,
        margin=options.margin,
        alpha=options.alpha,
        out=options.out,
        force=options.force,
    )
    if options.json:
        print(json.dumps(found.json(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(found, options.out)
    return 0


def _show(found: "Comparison", out: Path | None) -> None:
    """A table, the verdicts as sentences, and what must be read with them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from milkit.report.comparison_words import difference_text, level, metric_name, p_text, sentence
    from milkit.report.words import number, plural

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=160)
    entrants = found.field.entrants
    width = level(found.alpha)
    table = Table(box=SIMPLE_HEAD)
    for name in ("", "A", "B", f"A - B ({width})", "p (Holm)", "detectable", "verdict"):
        table.add_column(name, justify="left" if name in ("", "verdict") else "right", no_wrap=name != "verdict")
    pair = ""
    for row in found.rows:
        if row.pair != pair:
            pair = row.pair
            table.add_section()
            if len(entrants) > 2:
                table.add_row(f"A = {row.first}, B = {row.second}")
        marks = f" [{', '.join(row.marks)}]" if row.marks else ""
        table.add_row(
            metric_name(row),
            *(number(v) for v in row.values),
            difference_text(row),
            p_text(row.p_holm),
            number(row.found.detectable),
            row.verdict + (f": {row.better} is better" if row.better else "") + marks,
        )
    study = entrants[0].study
    who = "; ".join(f"{letter} = {e.name} ({e.selection})" for letter, e in zip("AB", entrants, strict=False))
    size = f"{plural(len(study.patients), 'patient')}, {plural(len(study.splits), 'split')}"
    print(f"{who}: {size}" if len(entrants) == 2 else f"{plural(len(entrants), 'run')}: {size}")
    console.print(table)
    for row in found.rows:
        if len(entrants) == 2 or row.verdict == "different":  # of many pairs the table says enough
            print(f"- {sentence(row, found.alpha)}")
    for note in dict.fromkeys([*found.field.notes, *(n for row in found.rows for n in row.notes)]):
        print(f"note: {note}")
    if out is not None:
        print(f"page: {out / 'comparison.html'}")
