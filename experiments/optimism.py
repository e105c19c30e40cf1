"""How much a test accuracy gains when the best epoch is read off the test fold, and how much of that is chance.

The page `docs/optimism.md` is written by `make study-classic` (`python -m experiments.classic_table`) from
`experiments/results/ilse2018_classic.json`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def constant_accuracy(folds: Sequence[np.ndarray], epochs: int) -> float:
    """What the best of some epochs would show on average if accuracy never changed and epochs were independent.

    Exact: the number of right bags in a fold is a sum of independent coins; the expectation of the largest of
    `epochs` such sums follows from its distribution function F as the sum over k of 1 - F(k) ** epochs.

    Args:
        folds: of each test fold, the chance of each bag to be right, [n] in [0, 1].
        epochs: how many to choose from.

    Returns:
        Mean over folds of the expected best share of right bags.
    """
    best = []
    for chances in folds:
        right = np.ones(1)
        for chance in chances:
            right = np.convolve(right, [1 - chance, chance])
        below = np.minimum(np.cumsum(right)[:-1], 1.0)
        best.append(float((1 - below**epochs).sum()) / len(chances))
    return float(np.mean(best))


def optimism_page(found: dict[str, Any]) -> str:
    """`docs/optimism.md`, from the JSON alone."""
    cells = found["cells"]
    gains = [c["optimism"]["value"] for c in cells.values()]
    lines = [
        "# The best epoch on the test fold: what it gains, and what of that is chance",
        "",
        f"Written by `{found['made_by']}` from `experiments/results/ilse2018_classic.json`; not to be edited by hand.",
        "",
        "Many papers on the classic sets print the best epoch's test accuracy, or do not say how the epoch was chosen. "
        "Here the same trained networks, epoch by epoch the same weights, are read in three ways:",
        "",
        "- **validation-selected**: the epoch of lowest loss on a tenth of the training part (milkit's default);",
        "- **last epoch**: no selection at all;",
        "- **optimistic**: each fold's epoch of best accuracy *on its own test part*. The training never sees "
        "that part; "
        "the number is still no estimate of anything that can be had on new bags.",
        "",
        "*Optimism* is optimistic minus validation-selected, fold by fold, with its 95 % interval (corrected resampled "
        "t). The three columns after it say what the optimistic column would show if no epoch were any better than the "
        "last one, that is, from noise alone:",
        "",
        "- **alike, all epochs**: every bag is right with the last epoch's accuracy, anew in each epoch. An "
        "upper bound: "
        "real epochs resemble their neighbours, and some bags are always right.",
        "- **alike, 10 epochs**: the same with ten independent epochs, as a guess of how many a trajectory is worth.",
        "- **own rates, all epochs**: each bag is right as often as it was in the last epochs of the five "
        "repeats. Bags "
        "that were right five times of five stay right, so this can err on either side.",
        "",
        "| set | method | validation | last | optimistic ‡ | optimism | alike, all epochs | alike, 10 epochs | "
        "own rates |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells.values():
        s, null, gain = cell["selections"], cell["null"], cell["optimism"]
        name = cell["method"] + "".join(f" ({mark})" for mark in cell["marks"])
        numbers = [s["validation"]["value"], s["last"]["value"], s["optimistic"]["value"]]
        chance = [null["all_bags_alike"], null["all_bags_alike_ten_epochs"], null["each_bag_its_own_rate"]]
        shown = [
            *(f"{v:.3f}" for v in numbers),
            f"+{gain['value']:.3f} ({gain['low']:.3f} to {gain['high']:.3f})",
            *(f"{v:.3f}" for v in chance),
        ]
        lines.append("| " + " | ".join([cell["set"], name, *shown]) + " |")
    over = [c["selections"]["optimistic"]["value"] - c["selections"]["last"]["value"] for c in cells.values()]
    within = sum(c["selections"]["optimistic"]["value"] <= c["null"]["all_bags_alike"] for c in cells.values())
    lines += [
        "",
        "‡ optimistic: chosen on the test part.",
        "",
        "## What can be concluded",
        "",
        f"- Reading the epoch off the test fold adds {min(gains):.3f} to {max(gains):.3f} to the accuracy that "
        f"selection "
        f"on validation gives (mean {np.mean(gains):.3f} over {len(gains)} cells), and {min(over):.3f} to "
        f"{max(over):.3f} "
        "to the last epoch's. Differences between methods in published tables are smaller than that.",
        f"- In {within} of {len(cells)} cells the optimistic number is no higher than what a model of constant "
        f"accuracy "
        "would show with independent epochs: there, nothing in it needs a better epoch than the last.",
        "- What an epoch chosen on a few bags is worth on *other* bags is the validation column: validation and test "
        "parts are about as large as each other. It is below the last epoch's in "
        f"{sum(c['selections']['validation']['value'] < c['selections']['last']['value'] for c in cells.values())} of "
        f"{len(cells)} cells, so what the optimistic column adds does not carry over. (Validation chose by loss here, "
        "the optimistic reading by accuracy.)",
        "- Two papers can differ by this much with the same model, so a number without its selection rule cannot be "
        "compared.",
        "",
        "## What cannot",
        "",
        "- That a given paper selected on test: a high number has other explanations too (other folds, other features, "
        "more training data because nothing was held out).",
        "- How much of the optimism is a better epoch and how much noise: the upper bound assumes independent "
        "epochs, and "
        "how many independent ones a trajectory is worth is not known.",
        "- What holding out a tenth for validation costs: the three readings share one training part.",
        "",
    ]
    return "\n".join(lines)
