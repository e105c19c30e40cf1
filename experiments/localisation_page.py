"""The tables of docs/explaining.md, from results/localisation.json alone."""

from typing import Any

START, END = "<!-- results -->", "<!-- end of results -->"
WHAT = {
    "digits": (
        "MNIST bags (300 to train), positive = the digit 9; three initialisations, 100 test bags each. Flattened "
        "pixels, no convolution."
    ),
    "glands": (
        "GlaS tiles embedded by EfficientNet-Lite0, five folds by patient. Bags are benign or malignant; an instance "
        "counts as positive if half of it is gland. **The label does not ask for that**, so this says whether a model "
        "looks at glands, not whether it is right to."
    ),
    "nuclei": (
        "Colon images, a patch at each nucleus, end to end behind a convolutional encoder, five folds; positive = "
        "epithelial. `patient-leaky`: nobody knows which images share a patient."
    ),
}


def with_tables(page: str, found: dict[str, Any]) -> str:
    """The page with its tables replaced."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return "\n".join([before + START, "", *_tables(found), END + after])


def _tables(found: dict[str, Any]) -> list[str]:
    lines = [
        f"Made by `{found['made_by']}`; models are 64 wide, trained on labels of bags alone. AUPRC of instances within "
        "a bag, pointing (is the highest instance positive?) and FROC (mean sensitivity at 1/4 to 8 false positives a "
        "bag) over test bags with both kinds of instance; deletion and insertion: area less that of random orders, on "
        "positive bags. In brackets 95 % intervals of other patients (digits: bags) for these very models. "
        "Bold: the interval excludes 0 on the faithful side.",
        "",
    ]
    for name, models in found["sets"].items():
        if not models:
            continue
        chance = next(row["chance"] for m in models.values() for k, row in m.items() if k != "auroc")
        lines += [
            f"**{name.capitalize()}.** {WHAT[name]} Chance of AUPRC: about {chance:.2f}.",
            "",
            "| model | AUROC of bags | relevance | AUPRC | pointing | FROC | deletion | insertion |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for model, rows in models.items():
            for i, (relevance, row) in enumerate((k, v) for k, v in rows.items() if k != "auroc"):
                lines.append(
                    f"| {f'`{model}`' if i == 0 else ''} | {_auroc(rows) if i == 0 else ''} | {relevance} | "
                    f"{_cell(row['auprc'])} | {row['pointing']['value']:.2f} | {row['froc']['value']:.2f} | "
                    f"{_gain(row['deletion'], -1)} | {_gain(row['insertion'], 1)} |"
                )
        lines.append("")
    return lines


def _auroc(rows: dict[str, Any]) -> str:
    return f"{rows['auroc']['value']:.3f}"


def _cell(entry: dict[str, Any]) -> str:
    low, high = entry["sampling"]
    return f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]"


def _gain(entry: dict[str, Any], side: int) -> str:
    low, high = entry["sampling"]
    text = f"{entry['value']:+.3f}"
    return f"**{text}**" if (high < 0 if side < 0 else low > 0) else text
