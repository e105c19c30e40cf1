"""The folder of a comparison: numbers, page, forest plot and tables."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milkit.errors import RunFolderError
from milkit.predictions import whole_file
from milkit.report.blocks import Block, Bullets, Facts, Heading, Notice, Page, Paragraph, Picture, Pictures, Table
from milkit.report.comparison import Comparison
from milkit.report.comparison_tables import to_csv, to_tex
from milkit.report.comparison_words import difference_text, level, metric_name, p_text, sentence
from milkit.report.figures.forest import forest
from milkit.report.figures.style import Drawing, drawing, themed
from milkit.report.html import to_html
from milkit.report.markdown import to_markdown
from milkit.report.sections.few_labels_compared import compared_curves, compared_figure, curves
from milkit.report.words import interval, number, plural

FORMAT = 1
FILES = (
    "comparison.json",
    "comparison.md",
    "comparison.html",
    "forest.png",
    "forest.pdf",
    "label_curves.png",
    "label_curves.pdf",
    "table.tex",
    "table.csv",
)
"""All that is written."""


def claim(out: Path, *, force: bool = False) -> None:
    """Refuse a folder that holds something, before anything is computed.

    Raises:
        RunFolderError: it is no folder, it is a run folder, or it holds files and `force` is not given.
    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file; give a folder for --out.")
    held = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if "predictions.csv" in held:
        raise RunFolderError(f"{out} is a run folder, whose tables would be replaced; give another --out.")
    if held and not force:
        raise RunFolderError(
            f"{out} holds {plural(len(held), 'file')} ({held[0]} ...); give another --out, or --force."
        )


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Write all files of a comparison; others in the folder stay.

    Returns:
        Their paths; no forest plot where nothing has a value.

    Raises:
        RunFolderError: the disk is full or refuses.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (out / name).unlink(missing_ok=True)
        found = curves(comparison)
        few = compared_curves(found, _save(compared_figure(found), out, "label_curves"))
        page = make_page(comparison, _save(forest(comparison), out, "forest"), few)
    except OSError as error:
        raise RunFolderError(f"{out} could not be written: {error.strerror or error}.") from None
    texts = {
        "comparison.json": json.dumps(everything(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "comparison.md": to_markdown(page),
        "comparison.html": to_html(page),
        "table.tex": to_tex(comparison),
        "table.csv": to_csv(comparison),
    }
    for name, text in texts.items():
        with whole_file(out / name) as file:
            file.write(text)
    return [out / name for name in FILES if (out / name).exists()]


def everything(comparison: Comparison) -> dict[str, Any]:
    """`comparison.json`: the runs, what was asked, and every pair."""
    found = comparison.field
    pairs: dict[str, dict[str, Any]] = {}
    for row in comparison.rows:
        pairs.setdefault(row.pair, {})[row.metric] = row.json()
    first = found.entrants[0].study
    return {
        "format": FORMAT,
        "task": found.kind,
        "classes": list(found.names),
        "runs": [
            {
                "name": e.name,
                "path": str(e.path),
                "selection": e.selection,
                "marks": list(e.marks),
                "runs": len(e.study.runs),
                "seeds": len({run.seed for run in e.study.runs}),
            }
            for e in found.entrants
        ],
        "patients": len(first.patients),
        "splits": len(first.splits),
        "unit": found.unit,
        "aggregate": found.aggregate,
        "resample": found.resample,
        "alpha": comparison.alpha,
        "margin": comparison.margin,
        "draws": comparison.draws,
        "correction": f"Holm over {plural(len(comparison.rows), 'comparison')}",
        "notes": list(found.notes),
        "pairs": pairs,
    }


def make_page(comparison: Comparison, picture: Picture | None, few: Sequence[Block] = ()) -> Page:
    """Verdicts first, then the picture, the numbers, `few` (label-budget curves), and how they were made."""
    names = [e.name for e in comparison.field.entrants]
    said = [sentence(row, comparison.alpha) for row in comparison.rows]
    if len(names) > 2:  # of many pairs the table says enough
        different = [s for s, row in zip(said, comparison.rows, strict=True) if row.verdict == "different"]
        said = [_counted(comparison), *different]
    marks = tuple(dict.fromkeys(mark for row in comparison.rows for mark in row.marks))
    blocks: list[Block] = [Paragraph(said[0], "lead")] if said else []
    if marks:
        blocks.append(Notice("Read every number with this", tuple(_mark(mark) for mark in marks)))
    blocks += [Bullets(tuple(said[1:]))] if said[1:] else []
    blocks += [Pictures((picture,))] if picture is not None else []
    blocks += [Heading("Numbers"), _table(comparison), *few, Heading("How it was made"), _facts(comparison)]
    return Page(" vs ".join(names), tuple(blocks))


def _counted(comparison: Comparison) -> str:
    """How many of the comparisons have which verdict."""
    words = [row.verdict for row in comparison.rows]
    said = ", ".join(f"{words.count(word)} {word}" for word in ("different", "indistinguishable", "no power"))
    return f"{plural(len(words), 'comparison')} of {len(comparison.field.entrants)} runs: {said}."


def _mark(mark: str) -> str:
    if mark == "optimistic":
        return "optimistic: the epoch of a run was chosen on the test part itself; do not quote such numbers as results"
    return mark


def _table(comparison: Comparison) -> Table:
    several = len(comparison.field.entrants) > 2
    width = level(comparison.alpha)
    header = (
        *(("First", "Second") if several else ()),
        "Metric",
        *(("Value of first", "Value of second") if several else tuple(e.name for e in comparison.field.entrants)),
        f"Difference ({width})",
        f"Sampling {width}",
        "p",
        "p (Holm)",
        "Detectable",
        "Verdict",
        "Test",
    )
    rows, notes = [], []
    for row in comparison.rows:
        marks = " †" if "optimistic" in row.marks else ""
        better = f": {row.better}" if row.better else ""
        cells = (metric_name(row) + marks, *(number(v) for v in row.values), difference_text(row))
        tested = (p_text(row.found.p), p_text(row.p_holm), number(row.found.detectable), row.verdict + better, row.test)
        rows.append((*((row.first, row.second) if several else ()), *cells, interval(row.sampling), *tested))
        notes += [f"{metric_name(row)}{f' ({row.pair})' if several else ''}: {'; '.join(row.notes)}."] * bool(row.notes)
    strong = tuple(i for i, row in enumerate(comparison.rows) if row.verdict == "different")
    numeric = tuple(name for name in header if name not in ("First", "Second", "Metric", "Verdict", "Test"))
    return Table(header, tuple(rows), numeric, strong, tuple(dict.fromkeys(notes)))


def _facts(comparison: Comparison) -> Facts:
    found = comparison.field
    study = found.entrants[0].study
    pairs = [(e.name, f"{e.path}, selection: {e.selection}") for e in found.entrants]
    pairs += [
        ("Difference", "first minus second, on the same patients and splits; ↓ lower is better"),
        ("Patients", f"{len(study.patients):,}"),
        ("Splits (repeat and fold)", str(len(study.splits))),
        ("Seeds", ", ".join(f"{e.name}: {len({r.seed for r in e.study.runs})}" for e in found.entrants)),
        ("Correction", f"Holm over {plural(len(comparison.rows), 'comparison')}, alpha {comparison.alpha:g}"),
        ("Margin", f"{comparison.margin:g}; a share of the second value for metrics without an upper end"),
        ("Detectable", "the smallest difference that would have been found in 80 of 100 such studies, uncorrected"),
        ("Bootstrap", f"{comparison.draws:,} draws of {found.resample}s, the same for all runs"),
    ]
    return Facts((*pairs, *(("Note", note) for note in found.notes)))


def _save(made: Drawing | None, out: Path, name: str) -> Picture | None:
    """`name`.png and .pdf, and the same drawing for the page."""
    if made is None:
        return None
    import matplotlib

    with drawing():
        made.figure.savefig(out / f"{name}.png", facecolor="white", metadata={"Software": "milkit"})
        undated: dict[str, Any] = {"CreationDate": None, "Creator": "milkit"}
        made.figure.savefig(out / f"{name}.pdf", facecolor="white", metadata=undated)
        matplotlib.rcParams["svg.hashsalt"] = made.name  # ids do not differ between two pages
        text = io.StringIO()
        keys = dict.fromkeys(("Date", "Creator", "Type", "Format"))
        made.figure.savefig(text, format="svg", transparent=True, metadata=keys)
    return Picture(Path(f"{name}.png"), themed(text.getvalue(), made.name), made.title, made.caption, made.wide)
