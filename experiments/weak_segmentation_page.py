"""The tables of docs/weak_segmentation.md, from the results of the studies.

    python -m experiments.weak_segmentation_page

Text outside the markers `<!-- NAME -->` and `<!-- /NAME -->` is left as it is.
"""

import json
import re
from pathlib import Path
from typing import Any

from experiments.weak_segmentation import RESULTS
from milkit.predictions import whole_file

PAGE = Path(__file__).resolve().parents[1] / "docs" / "weak_segmentation.md"
STUDIES = {"glas_oeem": "dice", "glas_weak": "dice", "colon_weak": "auroc", "glas_ablation": "dice"}
"""Names of the studies, and each one's primary metric."""


def rows(document: dict[str, Any], metric: str) -> list[str]:
    """The rows of a study: both cuts of the primary metric, mIoU where masks are the truth, AUROC."""
    points = metric == "auroc"
    columns = ("auroc", "f1", "balanced_accuracy") if points else ("dice at .5", "dice at label cut", "miou", "auroc")
    head = ["split", "row", "supervision", "labels an image", *columns, "runs", "minutes", "marks"]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in document["rows"]:
        cut, half = row["at_label_cut"], row["at_half"]
        values = [half.get(c) for c in columns]
        if not points:
            values = [half.get("dice"), cut.get("dice"), half.get("miou"), half.get("auroc")]
        labels = row["labels_per_image"]
        cells = [
            row["split"],
            f"`{row['row']}`",
            row["supervision"] or "",
            "" if labels is None else f"{labels:.0f}",
            *map(interval, values),
            str(row["splits"] * max(row["seeds"], 1)) if row["model"] else "",
            f"{row['minutes']:.1f}" if row["model"] else "",
            ", ".join(row["marks"]),
        ]
        out.append("| " + " | ".join(cells) + " |")
    return out


def pairs(document: dict[str, Any]) -> list[str]:
    """Differences of pairs with intervals and corrected p."""
    head = ["split", "first - second", "metric", "difference [95 %, patients]", "p (Holm)"]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for d in document["paired"]:
        low, high = d["sampling"]
        what = f"{d['metric']} at {d['at']}" if d["at"] != "no cut" else d["metric"]
        said = f"{d['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        p = "" if d["p_holm"] is None else f"{d['p_holm']:.3f}"
        out.append(f"| {d['split']} | `{d['first']}` - `{d['second']}` | {what} | {said} | {p} |")
    return out


def interval(found: dict[str, Any] | None) -> str:
    """A value and its sampling interval."""
    if not found or found["value"] is None:
        return ""
    bounds = found["sampling"]
    return f"{found['value']:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def written(page: str) -> str:
    """The page with the tables of all studies whose results are there."""
    for name, metric in STUDIES.items():
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            continue
        document = json.loads(path.read_text())
        for key, lines in ((name, rows(document, metric)), (f"{name} pairs", pairs(document))):
            marked = rf"(<!-- {key} -->\n).*?(<!-- /{key} -->)"
            page = re.sub(marked, lambda m, lines=lines: m[1] + "\n".join(lines) + "\n" + m[2], page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    text = written(PAGE.read_text())
    with whole_file(PAGE) as file:
        file.write(text)
    print(f"wrote {PAGE}")
