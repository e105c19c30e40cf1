"""Raw scores to keep: HDF5 for programs, CSV for spreadsheets."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from milkit.data.store_write import LIBVER
from milkit.heatmaps.scores import SlideScores
from milkit.heatmaps.shown import ranks

FORMAT, FORMAT_VERSION = "milkit.heatmap", 1


def write_hdf5(path: Path, scores: SlideScores, facts: Mapping[str, Any]) -> None:
    """Write `coords_px` int64 [n, 2], `scores` float32 [n], `scores_by_model` float32 [m, n], `rank` int64 [n].

    The file's attributes are `format`, `format_version`, `width_px`, `mpp` and `facts` (JSON).
    """
    with h5py.File(path, "w", libver=LIBVER) as file:
        file.attrs.update(
            format=FORMAT, format_version=FORMAT_VERSION, width_px=scores.width_px, mpp=scores.mpp,
            facts=json.dumps(dict(facts), ensure_ascii=False),
        )  # fmt: skip
        file["coords_px"] = scores.xy_px
        file["scores"] = scores.scores
        file["scores_by_model"] = scores.by_model
        file["rank"] = ranks(scores)
        file["models"] = np.array(scores.models, h5py.string_dtype())


def write_csv(path: Path, scores: SlideScores) -> None:
    """Write one row a tile, in the order of the features: corner, width, score (empty where not known), rank, mark."""
    marks = ";".join(scores.marks)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["x_px", "y_px", "width_px", "score", "rank", "marks"])
        columns = zip(scores.xy_px.tolist(), scores.scores.tolist(), ranks(scores).tolist(), strict=True)
        for (x, y), score, rank in columns:
            known = [score, rank] if rank else ["", ""]
            writer.writerow([x, y, scores.width_px, *known, marks])
