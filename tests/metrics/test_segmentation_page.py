"""docs/segmentation_metrics.md: its example runs, and its tables name every metric."""

import re

import numpy as np
import pytest

import milkit.metrics
from milkit.metrics import segmentation as seg


@pytest.fixture
def page(root):
    return (root / "docs" / "segmentation_metrics.md").read_text()


def test_the_example_runs(page, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "docs/segmentation_metrics.md", "exec"), {"__name__": "docs_segmentation_metrics"})
    assert "Interval(low=" in capsys.readouterr().out


def test_every_metric_is_in_a_table(page):
    modes = ("exact", "exact_border", "hd95", "hd95_pooled", "opencv_rank")
    wanted = seg.Wanted(distances=modes, instances=True)
    truth = np.eye(4, dtype=bool)
    names = set(seg.summarise(seg.image_statistics(truth * 0.9, truth, wanted)))
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `") and "in `summarise`" not in line]
    assert {n for row in rows for n in re.findall(r"`(\w+)`", row[2])} == names
    first = {n for row in rows for n in re.findall(r"`(\w+)`", row[1])}
    assert first == set(modes) | {
        name
        for name in seg.__all__
        if name.islower()
        and name not in ("auroc_bounds", "confusions", "contours", "hausdorff", "histograms", "instances")
        and name
        not in (
            "image_statistics",
            "label_threshold",
            "oracle_component",
            "paired",
            "point_statistics",
            "per_patient",
            "stack",
            "summarise",
        )
        and not name.startswith(("from_", "at_"))
        and not name.endswith(("_estimates", "_segmentations"))
    }


def test_the_module_is_found_without_being_imported_by_name():
    assert milkit.metrics.__getattr__("segmentation") is seg
    with pytest.raises(AttributeError, match="no attribute 'segmentations'"):
        _ = milkit.metrics.segmentations
