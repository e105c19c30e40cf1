"""The code of docs/own_model.md runs; the file that it is about is as short as it says and keeps every contract."""

import re

from experiments import my_model


def test_the_file_is_short_and_its_model_keeps_the_contracts(root):
    assert len((root / "experiments" / "my_model.py").read_text().splitlines()) < 60
    my_model.test_my_model()


def test_the_code_of_the_page_runs(root):
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "own_model.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/own_model.md", "exec"), {"__name__": "docs_own_model"})
