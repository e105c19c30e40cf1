"""The classic table's arithmetic, and that its pages say what its JSON says."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments import classic_table, ilse2018_classic, optimism, study_classic  # noqa: E402


def test_best_of_two_coins_by_hand():
    # one bag, right half of the time, two epochs: the better of two tosses is right in three of four
    assert optimism.constant_accuracy([np.array([0.5])], 2) == pytest.approx(0.75)
    # a bag that is always right and one that never is stay at one half, however many epochs
    assert optimism.constant_accuracy([np.array([1.0, 0.0])], 100) == pytest.approx(0.5)


def test_best_of_epochs_is_the_enumerated_expectation():
    chances, epochs = np.array([0.9, 0.6, 0.2]), 3
    share, chance = [], []
    for right in itertools.product([0, 1], repeat=3):
        r = np.array(right)
        share.append(r.mean())
        chance.append(np.prod(np.where(r == 1, chances, 1 - chances)))
    expected = sum(
        max(share[i] for i in pick) * np.prod([chance[i] for i in pick])
        for pick in itertools.product(range(8), repeat=epochs)
    )
    assert optimism.constant_accuracy([chances], epochs) == pytest.approx(expected)


def test_corrected_error_by_hand():
    # four folds of variance 1/3 * (4 * .01) ; 1/4 + 1/9
    folds = np.array([0.9, 0.7, 0.9, 0.7])
    error, dof = classic_table.corrected_error(folds, 1 / 9)
    assert error == pytest.approx(np.sqrt(0.04 / 3 * (1 / 4 + 1 / 9)))
    assert dof == 3


def test_pages_say_what_the_json_says():
    found = json.loads(classic_table.RESULTS.read_text())
    assert classic_table.TABLE.read_text() == classic_table.table_page(found) + "\n"
    assert classic_table.OPTIMISM.read_text() == optimism.optimism_page(found) + "\n"


def test_every_cell_of_the_paper_is_there_with_marks():
    found = json.loads(classic_table.RESULTS.read_text())
    assert set(found["cells"]) == {n for s in ilse2018_classic.PAPER for n in ilse2018_classic.table(s)}
    for name, cell in found["cells"].items():
        assert ("inherited tuning" in cell["marks"]) == name.endswith("_tuned")
        for selection, entry in cell["selections"].items():
            assert "from memory" in entry["marks"]
            assert ("optimistic" in entry["marks"]) == (selection == "optimistic")
            assert entry["procedure"][0] <= entry["value"] <= entry["procedure"][1]


def test_what_is_tuned_runs_last_and_other_sets_have_the_same_rows():
    names = study_classic.cells(["musk1", "tiger"], [])
    assert names.index("tiger_gated") < names.index("tiger_gated_tuned")
    assert len(study_classic.cells(["ucsb_breast_features"], [])) == 6
    assert study_classic.cells(["web1"], ["gated"]) == ["web1_gated"]
