"""Bags whose length or scale tells the label: a tiling or an encoder that went with the class."""

import numpy as np

from milkit.check.evidence import Evidence
from milkit.check.finding import Finding, finding
from milkit.check.label_column import FEWEST, NEAR_PERFECT, PERMUTATIONS, aurocs


def look(e: Evidence) -> list[Finding]:
    """A warning where the number of instances, or their mean norm, is near-perfect."""
    g = e.g
    if g is None or e.label is None:
        return []
    use = g.usable & (e.bag_y >= 0)
    y = e.bag_y[use]
    if (np.bincount(y, minlength=2) >= FEWEST).sum() < 2:
        return []
    rng = np.random.default_rng(0)
    dealt = np.stack([y, *(rng.permutation(y) for _ in range(PERMUTATIONS))])
    reached = aurocs(np.stack([g.lengths[use].astype(np.float64), g.norm[use]], 1), dealt)
    chance = float(np.quantile(reached[1:].max(1), 0.95))
    found = []
    for name, value in zip(("the number of instances", "the mean norm of instances"), reached[0].tolist(), strict=True):
        if value >= NEAR_PERFECT and value > chance:
            found.append(
                finding(
                    "bag_size_label",
                    "warning",
                    [f"{name} (AUROC {value:.3f})"],
                    f"{name} of a bag tells {e.label.column!r} with AUROC {value:.3f} (chance {chance:.3f})",
                    "Ask whether the classes were tiled, scanned or embedded alike; a model may learn that instead.",
                    f"beyond the 95 % quantile of {PERMUTATIONS} permutations; tumours can also be larger by nature",
                )
            )
    return found
