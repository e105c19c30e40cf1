"""docs/check.md: its kinds are those of the code, its counts those of the committed measurement."""

import json
import re


def test_every_kind_of_finding_is_on_the_page(root):
    page = (root / "docs" / "check.md").read_text()
    listed = set(re.findall(r"`([a-z_]+)`", page.partition("## How sure")[0]))
    code = "\n".join(path.read_text() for path in sorted((root / "milkit" / "check").glob("*.py")))
    made = set(re.findall(r'finding\(\s*"([a-z_]+)"', code))
    made |= set(re.findall(r'kind = "([a-z_]+)"', code))
    assert len(made) > 20
    assert made <= listed


def test_the_counts_are_those_measured(root):
    page = " ".join((root / "docs" / "check.md").read_text().split())
    found = json.loads((root / "benchmarks" / "results" / "check_planted.json").read_text())
    counts = {name: found[name] for name in ("found", "planted", "false_alarms", "clean_sets")}
    said = "{found} of {planted} found, {false_alarms} errors on {clean_sets} clean sets".format(**counts)
    assert said in page
    size = json.loads((root / "benchmarks" / "results" / "check_scale.json").read_text())
    assert f"{size['peak_mib']} MiB at the peak" in page
