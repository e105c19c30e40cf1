"""The tables of docs/algorithmic.md from results/raff_holt2023.json, between markers in the page."""

import re
from pathlib import Path
from typing import Any

from milkit.errors import ConfigError
from milkit.predictions import whole_file
from milkit.testing.algorithmic import TESTS

RECALLED = {  # the two tables in circulation for the task of arXiv:2510.25759: a notebook's, and a larger check's
    "notebook": (0.572, 0.712, 0.831, 0.922, 0.977, 0.997),
    "60,000 bags": (0.594, 0.713, 0.851, 0.947, 0.988, 0.998),
}


def write_page(page: Path, results: dict[str, Any]) -> None:
    """Rewrite what stands between the markers of each table; the rest of the page is a person's.

    Raises:
        ConfigError: a marker is missing.
    """
    text = page.read_text()
    for name, table in tables(results).items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ConfigError(f"{page} needs one '<!-- {name} -->' and one '<!-- end of {name} -->' after it.")
        text = pattern.sub(lambda match, table=table: f"{match[1]}\n{table}\n{match[2]}", text)
    with whole_file(page) as file:
        file.write(text)


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Markdown of each table by the name of its marker."""
    return {
        "matrix": matrix(results),
        "detail": detail(results),
        "recipe": recipe(results),
        "posterior": posterior(results),
        "shifted mean": shifted_mean(results),
    }


def matrix(results: dict[str, Any]) -> str:
    """A row a model, a verdict and the test AUROC a test; a claim's tests are marked."""
    lines = [f"| model | claims | {' | '.join(TESTS)} |", "|---|---|" + "---|" * len(TESTS)]
    for row in results["models"]:
        cells = [_verdict(row["tests"][test]) for test in TESTS]
        lines.append(f"| `{short(row['model'])}` | {', '.join(row['claims'])} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _verdict(cell: dict[str, Any]) -> str:
    words = f"**{cell['verdict']}**" if cell["verdict"] in ("respects", "fails") else cell["verdict"]
    return f"{words}{' (claimed)' if cell['bound'] else ''} {_three(cell['auroc'])}"


def detail(results: dict[str, Any]) -> str:
    """Every figure behind the matrix."""
    lines = [
        "| model | test | AUROC: training bags | fresh bags like them | test bags | 95 % sampling | seeds | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["models"]:
        for test in TESTS:
            cell = row["tests"][test]
            seeds = [s["test"] for s in cell["seeds"]]
            again = " (two tries)" if len(cell["tried"]) > 1 else ""
            lines.append(
                f"| `{short(row['model'])}` | {test} | {_three(cell['train'])} | {_three(cell['validation'])} "
                f"| {_three(cell['auroc'])} | {_range(cell['sampling'])} | {_range((min(seeds), max(seeds)))} "
                f"| {cell['verdict']}{again} |"
            )
    return "\n".join([*lines, ""])


def recipe(results: dict[str, Any]) -> str:
    """How the models were trained, in a sentence each."""
    sizes = "; ".join(f"{n} {s['train']} / {s['validation']} / {s['test']}" for n, s in results["sizes"].items())
    return (
        f"- Bags for training / validation / test: {sizes}; {results['seeds']} draws of each.\n"
        f"- First try: {_recipe(results['recipe'])}. Second try, of what did not learn: {_recipe(results['longer'])}.\n"
        f"- All of this page took {results['seconds'] / 60:.0f} minutes of one core.\n"
    )


def _recipe(values: dict[str, Any]) -> str:
    rates = " and ".join(f"{rate:g}" for rate in values["learning_rates"])
    return f"Adam, learning rate {rates}, {values['epochs']} epochs, {values['batch_bags']} bags a step"


def posterior(results: dict[str, Any]) -> str:
    """AUROC of the exact posterior beside the two tables that disagree."""
    found = results["shifted_mean"]["posterior"]
    lines = [f"| | {' | '.join(f'Delta {float(d):g}' for d in found)} |", "|---|" + "---|" * len(found)]
    ours = [f"{_three(v['auroc'])} +- {v['standard_error']:.3f}" for v in found.values()]
    lines.append(f"| here, {results['shifted_mean']['posterior_bags']:,} bags each | {' | '.join(ours)} |")
    lines += [f"| {name} | {' | '.join(map(_three, values))} |" for name, values in RECALLED.items()]
    return "\n".join([*lines, ""])


def shifted_mean(results: dict[str, Any]) -> str:
    """Each model's AUROC and its distance to the posterior's on the same bags."""
    deltas = results["shifted_mean"]["deltas"]
    lines = [f"| | {' | '.join(f'Delta {float(d):g}' for d in deltas)} |", "|---|" + "---|" * len(deltas)]
    best = [f"**{_three(entry['posterior'])}**" for entry in deltas.values()]
    lines.append(f"| exact posterior | {' | '.join(best)} |")
    for model in next(iter(deltas.values()))["models"]:
        cells = []
        for entry in deltas.values():
            row = entry["models"][model]
            low, high = row["sampling"]
            cells.append(f"{_three(row['auroc'])}; {row['minus_posterior']:+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(f"| `{short(model)}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def short(model: str) -> str:
    """The config as written, without the fields that no row varies: `ABMIL(gated=True)`."""
    name, _, inside = model.partition("(")
    kept = []
    if "pooling=" in inside:
        kept.append(re.findall(r"pooling='(\w+)'", inside)[0])
    if kept == ["topk"]:
        kept.append(re.findall(r"\bk=(\d+)", inside)[0])
    if name == "ABMIL":
        kept.append("gated" if "gated=True" in inside else "not gated")
    return f"{name} {', '.join(kept)}".strip()


def _three(value: float) -> str:
    return f"{value:.3f}"


def _range(bounds: Any) -> str:
    return f"{_three(bounds[0])} to {_three(bounds[1])}"
