"""The page on data sets: its snippets run as they stand, and its table names every set."""

import re

import pytest

from milkit.data.datasets import known


def test_the_page_works_as_it_stands(root, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    page = (root / "docs" / "datasets.md").read_text()
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M):
        exec(compile(snippet, "docs/datasets.md", "exec"), names)
    assert len(names["bags"]) == 70
    assert len(names["study"]) == 70
    assert [experiment.data.train_bags for experiment in names["curve"]] == [50, 100, 150, 200, 300, 400, 500]
    assert (len(names["mine"]), names["mine"].features) == (10, 2)
    assert names["volumes"][0].position[:3].tolist() == [0, 3000, 6000]
    assert names["scans"].features == 64
    assert names["scans"].lengths.tolist() == [6 + i for i in range(8)]


@pytest.mark.parametrize("record", known(), ids=lambda record: record.name)
def test_the_table_has_every_set(root, record):
    page = (root / "docs" / "datasets.md").read_text()
    assert record.use.split("(")[0] in page
    for file in record.files:
        assert file.split("/")[0] + "/" in page
