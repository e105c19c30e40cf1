"""The code in docs/models.md runs, and its table names every model."""

import re
from typing import get_args

import pytest

from milkit.models import Model
from milkit.testing.model_battery import CHECKS


@pytest.fixture
def page(root):
    return (root / "docs" / "models.md").read_text()


@pytest.mark.slow
def test_the_examples_run(page):
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/models.md", "exec"), {"__name__": "docs_models"})


def test_every_model_and_every_check_is_in_a_table(page):
    rows = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert rows == {kind.__name__ for kind in get_args(Model)} | set(CHECKS)
