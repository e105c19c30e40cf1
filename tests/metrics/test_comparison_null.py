"""The simulated false alarms of `milkit compare`, as committed, and the page that quotes them."""

import json

import pytest


@pytest.fixture
def simulated(root):
    return json.loads((root / "benchmarks/results/comparison_null.json").read_text())


def test_no_test_raises_more_false_alarms_than_it_may(simulated):
    """Within three Monte Carlo standard errors of a share of .05; DeLong and the bootstrap for locked models only."""
    checked = 0
    for study, found in simulated["null"].items():
        most = 0.05 + 3 * (0.05 * 0.95 / found["studies"]) ** 0.5
        for test in ("corrected resampled t", "DeLong", "McNemar, exact"):
            for entry in found["rejected_at_.05"].get(test, {}).values():
                if "trained on" not in study:
                    assert entry["share"] < most, (study, test)
                    checked += 1
    assert checked == 10


def test_delong_is_nominal_for_locked_models(simulated):
    for study in ("92 patients, held out, locked models", "300 patients, held out, locked models"):
        share = simulated["null"][study]["rejected_at_.05"]["DeLong"]["auroc"]["share"]
        assert share == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / simulated["null"][study]["studies"]) ** 0.5)


def test_the_page_quotes_the_file(simulated, root):
    page = (root / "docs/comparing.md").read_text()
    for part in ("null", "power"):
        for study, found in simulated[part].items():
            for test, by_metric in found["rejected_at_.05"].items():
                if part == "power" and test != "corrected resampled t":
                    continue
                for metric, entry in by_metric.items():
                    cell = f"{entry['share']:.3f} ± {entry['se']:.3f}"
                    rows = [line for line in page.splitlines() if line.startswith(f"| {study} |") and cell in line]
                    assert rows, (study, test, metric, cell)
