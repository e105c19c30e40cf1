"""What docs/long_bags.md says of whole slides is what the committed benchmark found, within its budget."""

import json

import pytest


@pytest.fixture
def found(root):
    return json.loads((root / "benchmarks" / "results" / "whole_slide.json").read_text())


def test_whole_slides_fit_the_budget_and_blocks_are_all_at_once(found):
    longest = {row["model"]: row["instances"] for row in found["rows"] if row["pass"] == "forward"}
    assert longest == dict.fromkeys(("TransMIL", "Transformer, narrow", "Transformer"), 100_000)
    assert {row["model"] for row in found["rows"] if row["pass"] == "forward and backward"} == longest.keys()
    assert all(row["peak_mib"] <= row["budget_mib"] == 4096 for row in found["rows"])
    assert {row["model"] for row in found["equal"]} == longest.keys()
    assert all(gap < 1e-5 for row in found["equal"] for gap in row["largest_relative_difference"].values())


def test_the_page_shows_the_committed_results(found, root):
    page = (root / "docs" / "long_bags.md").read_text()
    for row in found["rows"]:
        cells = (
            f"`{row['model'].partition(',')[0]}`, {row['width']}, {row['heads']}",
            row["pass"],
            f"{row['instances']:,}",
            f"{row['peak_mib']:,} MiB",
            f"{row['seconds']:.0f} s",
            f"{row['cpu_seconds']:.0f} s",
            f"{row['matrix_mib']:,} MiB",
        )
        assert f"| {' | '.join(cells)} |" in page
