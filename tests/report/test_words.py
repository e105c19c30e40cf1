import math
from typing import Any

import pytest

from milkit.report import words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.93456, "0.935"),
        (-0.0004, "0.000"),
        (-0.0126, "-0.013"),
        (12.3456, "12.35"),
        (123.456, "123.5"),
        (12345.6, "12,346"),
        (None, "undefined"),
        (math.nan, "undefined"),
        (math.inf, "undefined"),
        (1, "1.000"),
    ],
)
def test_number(value: Any, expected: str) -> None:
    assert words.number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.25, "0.250"), (0.0123, "0.012"), (1 / 1500, "0.00067"), (0.0, "0.000")]
)
def test_weight(value: float, expected: str) -> None:
    assert words.weight(value) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([0.88, 0.974], "0.880–0.974"),
        ([-0.1, 0.2], "-0.100 to 0.200"),
        (None, "undefined"),
        ([None, 0.5], "undefined"),
        ([math.nan, 0.5], "undefined"),
    ],
)
def test_interval(bounds: Any, expected: str) -> None:
    assert words.interval(bounds) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auroc", "AUROC"),
        ("auroc:HER2/neu", "AUROC, HER2/neu"),
        ("macro_auroc", "Macro AUROC"),
        ("balanced_accuracy_at_threshold", "Balanced accuracy at threshold"),
        ("sensitivity_at_specificity_0.90", "Sensitivity at specificity 0.90"),
        ("r2:score", "R², score"),
    ],
)
def test_metric_label(name: str, expected: str) -> None:
    assert words.metric_label(name) == expected


def test_lower_is_better() -> None:
    assert words.lower_is_better("mae:score")
    assert not words.lower_is_better("auroc")


def test_headline_is_auroc_else_the_first() -> None:
    assert words.headline({"accuracy": {}, "auroc": {}}) == "auroc"
    assert words.headline({"mae": {}, "r2": {}}) == "mae"
    assert words.headline({}) is None


def test_plurals_and_ranges() -> None:
    assert [words.plural(n, "fold") for n in (1, 2, 1200)] == ["1 fold", "2 folds", "1,200 folds"]
    assert words.plural(3, "class") == "3 classes"
    assert (words.spread_of([9, 9]), words.spread_of([10, 9])) == ("9", "9–10")


def test_shorten_keeps_both_ends() -> None:
    assert words.shorten("TCGA-AB-1234-01Z-00-DX1", 11) == "TCGA-…0-DX1"
    assert len(words.shorten("x" * 99, 28)) == 28
    assert words.shorten("short") == "short"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(74.32, "74.3 s"), (600, "10 min"), (7500, "2 h 5 min"), (None, "undefined")]
)
def test_duration(seconds: Any, expected: str) -> None:
    assert words.duration(seconds) == expected
