"""docs/using_a_model.md shows what its command printed."""

import json
import sys


def test_the_page_shows_what_the_command_printed(root):
    sys.path.insert(0, str(root))
    from benchmarks.quickstart import fill

    page = (root / "docs" / "using_a_model.md").read_text()
    made = json.loads((root / "benchmarks" / "results" / "using_a_model.json").read_text())
    assert fill(page, made["outputs"]) == page
    assert len(made["outputs"]) == 5
    shown = f"auroc  {made['metrics']['auroc']['value']:.3f}"
    assert shown in page
