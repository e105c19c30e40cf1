"""The page on covariates and feature sets: its snippets are run as a reader would run them, one after the other."""

import re

import pytest

from milkit import api
from milkit.data.store import open_store
from milkit.task import Binary


@pytest.mark.slow
def test_the_page_works_as_it_stands(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "write_report", lambda out: None)  # drawings take most of a tiny study's time
    page = (root / "docs" / "covariates.md").read_text()
    names: dict = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M):
        exec(compile(snippet, "docs/covariates.md", "exec"), names)
    said = re.search(r"covariates.names\)  # (.*)", page)[1]
    assert ", ".join(names["study"].covariates.names) == said
    assert "covariate 'psa' is read as numbers, missing in 1 bag(s)" in str(names["study"].flow)
    assert names["two"].load(Binary()).features == 14
    assert names["levels"].load(Binary()).features == 16
    assert len(names["rows"]) == 20
    assert (tmp_path / "runs" / "clinical" / "results.json").exists()
    assert [s["name"] for s in open_store("both.h5").provenance["feature_sets"]] == ["uni", "conch"]
