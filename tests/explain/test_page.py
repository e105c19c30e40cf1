"""The code of docs/explaining.md runs, and its tables are those of the committed results."""

import json
import re

import pytest

from experiments.localisation_page import with_tables


@pytest.fixture
def page(root):
    return (root / "docs" / "explaining.md").read_text()


def test_the_example_runs(page):
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "docs/explaining.md", "exec"), {"__name__": "docs_explaining"})


def test_the_tables_are_those_of_the_results(page, root):
    found = json.loads((root / "experiments" / "results" / "localisation.json").read_text())
    assert with_tables(page, found) == page
