"""Scores of a slide's tiles for the page: squares, raw scores, ranks and colours, computed when asked for."""

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from milkit.heatmaps.kinds import KINDS
from milkit.heatmaps.opened import Opened, open_run
from milkit.heatmaps.scores import SlideScores, slide_scores
from milkit.heatmaps.shown import SCALES, colours, ranks

KEPT = 8
"""Maps that are kept: one of a million tiles is some 25 MB."""
Scorer = Callable[[str, str, str | None], SlideScores]
"""(slide id, kind, class or None) -> its scores."""


class Asked:
    """A run whose models are asked when a slide is; opened once, at the first question."""

    def __init__(
        self, run: Path, *, store: Path | None, cohort: Path | None, mpp: float | None, trust_source: bool
    ) -> None:
        self._open = lambda: open_run(run, store=store, cohort=cohort, trust_source=trust_source)
        self._opened: Opened | None = None
        self._mpp = mpp

    def __call__(self, slide_id: str, kind: str, label: str | None) -> SlideScores:
        """Scores of a slide, also where all models saw it in training, which `SlideScores.marks` then says.

        Raises:
            MilkitError: the data have moved, the model has no such scores, or the tiles' places are not known.
        """
        if self._opened is None:
            self._opened = self._open()
        return slide_scores(self._opened, slide_id, kind=kind, label=label, seen=True, mpp=self._mpp)


class Maps:
    """Maps of a run's slides as JSON-able values; safe in threads, one is computed at a time.

    Attributes:
        kinds: of scores that can be asked for, and what they are.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.kinds = KINDS
        self._scorer = scorer
        self._kept: OrderedDict[tuple[str, str, str | None], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def map(self, slide_id: str, kind: str, label: str | None) -> dict[str, Any]:
        """The map of a slide.

        Raises:
            MilkitError: see `Asked`.
        """
        key = slide_id, kind, label
        with self._lock:
            if key not in self._kept:
                self._kept[key] = written(self._scorer(*key))
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def close(self, seconds: float) -> bool:
        """Let no further map begin; whether the one under way was done within some seconds."""
        return self._lock.acquire(timeout=seconds)


def written(scores: SlideScores) -> dict[str, Any]:
    """Scores as the page reads them; coloured by rank, as its legend says."""
    return {
        "kind": scores.kind,
        "marks": scores.marks,
        "legend": f"{SCALES['rank']}\n{scores.legend()}",
        "width_px": scores.width_px,
        "tiles": len(scores),
        "xy_px": packed(scores.xy_px, "<i4"),
        "scores": packed(scores.scores, "<f4"),
        "ranks": packed(ranks(scores), "<i4"),
        "colours": packed(colours(scores), "u1"),
    }


def packed(values: np.ndarray, dtype: str) -> str:
    """An array's bytes, little-endian, row by row, as base64: every bit arrives."""
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode("ascii")
