"""The page on searches says what the committed study found, and what is exported."""

import json
import re

import pytest


@pytest.fixture
def page(root):
    return (root / "docs" / "search.md").read_text()


def test_the_worked_example_is_that_of_the_committed_study(root, page, monkeypatch):
    monkeypatch.syspath_prepend(str(root))
    from experiments.search_musk1 import page as table
    from experiments.search_musk1 import plain, searched

    found = json.loads((root / "experiments" / "results" / "search_musk1.json").read_text())
    assert table(found) in page
    said = found["search"]
    assert f"{said['tried']} configurations a fold, {said['trainings']} trainings as {said['compiled']}" in page
    assert f"The folds chose {len({c['trial'] for c in said['chosen']})} different configurations" in page
    assert (said["tried"], said["trainings"]) == (searched.search.trials, 20 * plain.protocol.folds)


def test_the_example_of_the_page_is_an_experiment(root, page, monkeypatch):
    monkeypatch.syspath_prepend(str(root))
    from experiments.search_musk1 import plain, searched

    code = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    names = {"plain": plain}
    exec(code, names)
    assert names["searched"] == searched
