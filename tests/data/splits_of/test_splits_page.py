"""The page on tables and splits of other tools: its snippets are run as a reader would run them."""

import re

from milkit.data.splits_of.known import LAYOUTS


def test_the_page_works_as_it_stands(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "splits.md").read_text()
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M):
        exec(compile(snippet, "docs/splits.md", "exec"), names)
    said = capsys.readouterr().out
    assert "9 id(s) of the folds match as numbers" in said
    assert "the 2 splits (which it calls folds) are redraws" in said
    assert "1 patient(s) of clini.csv have no slide in slides.csv: 'p3'" in said
    tools = {layout.tool for layout in LAYOUTS} - {"a table"}
    assert {tool for tool in tools if f"| {tool} |" in page} == tools
