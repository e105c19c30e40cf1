"""The figures in the docs are those that `python -m benchmarks.embed` wrote."""

import json


def test_figures_of_the_page(root):
    found = json.loads((root / "benchmarks" / "results" / "embed.json").read_text())
    page = " ".join((root / "docs" / "slides.md").read_text().split())
    lite0, memory = found["lite0"], found["memory_mib"]
    for words in (
        f"busy {100 * lite0['busy']:.1f} % of the time at {lite0['tiles_per_s']} tiles/s",
        f"200 tiles a second was busy {100 * found['device 200']['busy']:.1f} %",
        f"one of 400 was busy {100 * found['device 400']['busy']:.1f} %",
        f"1,000,000 tiles took {memory['1000000']:.0f} MiB, one of 100,000 tiles {memory['100000']:.0f} MiB",
    ):
        assert words in page
