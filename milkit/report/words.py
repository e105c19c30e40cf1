"""How numbers, metrics and choices are written for a reader."""

import math
from collections.abc import Sequence
from typing import Any

UNDEFINED = "undefined"

_LABELS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "prevalence": "Prevalence",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "macro_f1": "Macro-F1",
    "mcc": "MCC",
    "quadratic_kappa": "Quadratic kappa",
    "brier": "Brier score",
    "ece": "ECE",
    "nll": "Log loss",
    "ppv": "PPV",
    "npv": "NPV",
    "log_loss": "Log loss",
    "c_index": "C-index",
    "c_index_ipcw": "C-index (IPCW)",
    "integrated_brier": "Integrated Brier score",
    "mae": "Mean absolute error",
    "mse": "Mean squared error",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "iou": "IoU",
    "iou_per_image": "IoU, mean over images",
    "miou": "mIoU",
    "dice": "Dice",
    "dice_per_image": "Dice, mean over images",
    "dice_label_cut": "Dice, cut by labels",
    "dice_per_image_label_cut": "Dice, mean over images, cut by labels",
    "miou_label_cut": "mIoU, cut by labels",
    "auroc_at_points": "AUROC of points",
    "f1_at_points": "F1 of points",
    "f1_at_points_label_cut": "F1 of points, cut by labels",
    "f1_per_image": "F1, mean over images",
    "balanced_accuracy_at_points": "Balanced accuracy of points",
    "balanced_accuracy_at_points_label_cut": "Balanced accuracy of points, cut by labels",
    "f1_pos": "F1+",
    "f1_neg": "F1-",
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
}
_LOWER_IS_BETTER = {"brier", "integrated_brier", "ece", "nll", "log_loss", "mae", "mse", "rmse", "loss"}
_HEADLINES = ("auroc", "c_index")

SELECTIONS = {
    "validation": "epoch chosen on validation",
    "last": "last epoch, none chosen",
    "optimistic": "epoch chosen on the test part itself (optimistic)",
    "locked": "model, threshold and temperature locked before these patients were seen",
}


def number(value: Any) -> str:
    """A number with at most three decimals and, above 10, about four digits; "undefined" for None, NaN and infinity."""
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return UNDEFINED
    size = abs(value)
    decimals = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    text = f"{value:,.{decimals}f}"
    # "-0.000" says nothing that "0.000" does not
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def weight(value: float) -> str:
    """An attention weight: three decimals, or two digits where it is small, as in a bag of thousands."""
    return number(value) if value >= 0.1 or value == 0 else f"{value:.2g}"


def interval(bounds: Any) -> str:
    """Two bounds as `low–high`; "to" instead of the dash where a bound is negative."""
    if not is_interval(bounds):
        return UNDEFINED
    low, high = (number(b) for b in bounds)
    return f"{low} to {high}" if "-" in low + high else f"{low}–{high}"


def is_interval(bounds: Any) -> bool:
    """Whether both bounds are there and finite."""
    return (
        isinstance(bounds, list | tuple)
        and len(bounds) == 2
        and all(isinstance(b, int | float) and math.isfinite(b) for b in bounds)
    )


def metric_label(name: str) -> str:
    """A metric's name as papers print it; what stands after a colon (a label, a value) stays as it is."""
    head, found, tail = name.partition(":")
    if found:
        return f"{metric_label(head)}, {tail}"
    if name.startswith("sensitivity_at_specificity"):
        return "Sensitivity at specificity" + name.removeprefix("sensitivity_at_specificity").replace("_", " ")
    if name in _LABELS:
        return _LABELS[name]
    known = {word: label for word, label in _LABELS.items() if label.isupper()} | {"f1": "F1"}
    words = " ".join(known.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return name.partition(":")[0] in _LOWER_IS_BETTER


def headline(metrics: dict[str, Any]) -> str | None:
    """The metric that the page opens with: AUROC or C-index where there is one, else the results' first."""
    return next((name for name in _HEADLINES if name in metrics), next(iter(metrics), None))


def plural(count: int, word: str) -> str:
    """`1 fold`, `10 folds`, `2 classes`."""
    if count == 1:
        return f"1 {word}"
    ending = "es" if word.endswith(("s", "x", "ch")) else "s"
    return f"{count:,} {word}{ending}"


def spread_of(values: Sequence[int]) -> str:
    """`9` or `9–10`: the range of some counts."""
    return str(min(values)) if min(values) == max(values) else f"{min(values)}–{max(values)}"


def sentence(text: str) -> str:
    """With a capital at its beginning and a stop at its end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!")) else ".")


def shorten(text: str, most: int = 28) -> str:
    """A long id with its middle left out; both ends stay because ids differ at either."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def duration(seconds: Any) -> str:
    """Seconds as a reader would say them."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return UNDEFINED
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
