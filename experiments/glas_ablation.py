"""What each part of SA-MIL does on GlaS: one thing changed at a time, crops of 64 px with one label each.

    python -m experiments.glas_ablation --out RUNS        # results/glas_ablation.json; goes on where it stopped

The grid: how often attention is applied (R), the exponent r of the pooled probability, sides. The official split, one
run each: 80 test images, most of whose patients are in training too, so this table describes and proves nothing;
intervals draw patients. `samil` is the paper's setting on a frozen trunk (`experiments.glas_weak`, row samil_64). More
rows are more entries of `CHANGES`.
"""

from dataclasses import replace
from typing import Any

from experiments.glas_weak import samil_64
from experiments.weak_segmentation import LITE0, Row, study
from milkit.pixel import SAMIL

CHANGES: dict[str, dict[str, Any]] = {
    "R0": {"recurrences": 0},
    "R1": {"recurrences": 1},
    "r1": {"r": 1.0},
    "last_side_only": {"sides": False},
}


def changed(changes: dict[str, Any]) -> SAMIL:
    """The preset on a frozen trunk with some things changed."""
    return replace(SAMIL.pretrained(LITE0, trunk_rate=0.0), **changes)


ROWS = (
    Row("samil", samil_64),
    *(Row(name, replace(samil_64, model=changed(c)), against=("samil",)) for name, c in CHANGES.items()),
)

if __name__ == "__main__":
    study("glas_ablation", __doc__ or "", ROWS, ("official",))
