"""Every model has a row of the matrix or a reason, and the page is that of the committed results."""

import json
from typing import get_args

from experiments.matrix_page import page
from experiments.matrix_rows import ABSENT, rows
from milkit.models import Model


def test_every_model_has_a_row_or_a_reason():
    assert {type(config).__name__ for config in rows().values()} | set(ABSENT) == {k.__name__ for k in get_args(Model)}


def test_the_page_shows_the_committed_results(root):
    found = json.loads((root / "experiments" / "results" / "matrix.json").read_text())
    assert (root / "docs" / "matrix.md").read_text() == page(found)
    assert set(found["rows"]) == set(rows())
