"""What is in a file or folder: features, a table of slides, or something else that milkit knows; headers only."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.cells import is_workbook
from milkit.data.describe_other import Other, other
from milkit.data.features import FeatureSource, Joined
from milkit.data.formats.kind import TEXT_SUFFIXES, kind_of
from milkit.data.formats.known import LAYOUTS
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.missing import missing_facts, other_notes
from milkit.data.pack.plan import Asked, open_asked
from milkit.data.pack.provenance import labels_of
from milkit.data.splits_of import read_splits
from milkit.data.store import Store
from milkit.data.table import CohortTable, read_cohort
from milkit.data.targets import is_missing
from milkit.data.where import and_more
from milkit.errors import CohortError, MilkitError

MOST_VALUES = 20
"""Values of a column that are counted one by one."""
BINS = 10
"""Of the histogram of bag sizes."""


@dataclass(frozen=True)
class Description:
    """What is in a file or folder; None where not known or not a matter of it.

    Attributes:
        path: as the user wrote it.
        kind: "store", "features", "cohort", "splits", "patches", "images", "run", "model" or "image".
        tool: which wrote it.
        layout: whose layout.
        words: one line.
        slides: how many.
        patients: how many, of a table.
        lengths: instances of each slide.
        features: width.
        dtype: of the features; of several the first.
        mpp: micrometres per pixel of the tiles as the encoder saw them.
        mpp_level0: of level 0, one or [least, most].
        tile_um, tile_px: width of a tile, in micrometres and in pixels as the encoder saw it.
        encoder: its name.
        labels: of each column (of a table) or of the files, see `column_values`.
        missing: facts that are not known, see `milkit.data.missing.Missing`.
        notes: what a reader should know.
        bytes: on disk.
        said: other facts, under their own names.
    """

    path: str
    kind: str
    words: str = ""
    tool: str | None = None
    layout: str | None = None
    slides: int | None = None
    patients: int | None = None
    lengths: np.ndarray | None = None
    features: int | None = None
    dtype: str | None = None
    mpp: float | None = None
    mpp_level0: float | list[float] | None = None
    tile_um: float | None = None
    tile_px: int | None = None
    encoder: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    bytes: int = 0
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def instances(self) -> dict[str, Any] | None:
        """Of the bags: total, min, median, mean, max, and how many are empty."""
        if self.lengths is None or not len(self.lengths):
            return None
        n = self.lengths
        return {
            "total": int(n.sum()),
            "min": int(n.min()),
            "median": float(np.median(n)),
            "mean": float(n.mean()),
            "max": int(n.max()),
            "empty": int((n == 0).sum()),
        }

    @property
    def histogram(self) -> tuple[list[int], list[int]]:
        """Edges and counts of bag sizes; the edges are whole numbers, the last one included."""
        if self.lengths is None or not len(self.lengths):
            return [], []
        low, high = int(self.lengths.min()), int(self.lengths.max())
        step = max(1, -(-(high + 1 - low) // BINS))
        edges = list(range(low, high + 1 + step, step))
        counts = np.histogram(self.lengths, edges)[0]
        return edges, counts.tolist()

    @property
    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        names = "path kind words tool layout slides patients instances features dtype mpp mpp_level0 tile_um tile_px"
        edges, counts = self.histogram
        return {
            **{name: getattr(self, name) for name in [*names.split(), "encoder"]},
            "labels": dict(self.labels),
            "missing": [dict(fact) for fact in self.missing],
            "notes": list(self.notes),
            "bytes": self.bytes,
            "histogram": {"edges": edges, "counts": counts},
            **self.said,
        }


def describe(asked: Asked, features: Sequence[str] = ()) -> Description:
    """Say what is in a file or folder.

    Args:
        asked: paths and what the user says of them.
        features: of a cohort table's slides; () looks at the table alone.

    Raises:
        DataError: nothing that milkit knows; names the path.
        CohortError: a table that cannot be used; names file, line and column.
    """
    path = Path(asked.paths[0]).expanduser()
    if len(asked.paths) == 1:
        known = other(path)
        if known is not None:
            return _of_other(asked.paths[0], known)
        try:
            table = _table(path, asked)
            return _of_features(asked) if table is None else _of_cohort(asked, table, features)
        except MilkitError:
            splits = _of_splits(asked.paths[0])
            if splits is None:
                raise
            return splits
    return _of_features(asked)


def _of_splits(path: str) -> Description | None:
    """What a file or folder of splits says; None where it is none."""
    try:
        named = read_splits(path, allow_twice=True)
    except MilkitError:
        return None
    counts = [{"repeat": s.repeat, "fold": s.fold, "inner": s.inner, **Counter(s.roles.values())} for s in named.splits]
    words = f"{len(named)} splits of {len({n for s in named for n in s.roles})} names, in the layout of {named.tool}"
    return Description(
        path, "splits", f"{words}; give them to a study or to milkit check --folds", named.tool,
        notes=named.notes, bytes=size_of(Path(path)), said={"splits": counts},
    )  # fmt: skip


def _of_other(path: str, known: Other) -> Description:
    lengths = None if known.lengths is None else np.array(known.lengths, np.int64)
    slides = None if lengths is None else len(lengths)
    said = {name: known.said[name] for name in ("tile_px",) if name in known.said}
    return Description(
        path, known.kind, known.words, known.tool or None, slides=slides, lengths=lengths, bytes=size_of(Path(path)),
        notes=known.notes, said={"said": dict(known.said)}, **said,
    )  # fmt: skip


def _table(path: Path, asked: Asked) -> CohortTable | None:
    """The cohort table that a file is; None where it is no table, or one of features."""
    if not path.is_file() or not (is_workbook(path) or kind_of(path) in (*TEXT_SUFFIXES.values(), "text")):
        return None
    try:
        return read_cohort(path, slide=asked.slide, patient=asked.patient)
    except CohortError:
        if any(layout.container == kind_of(path) and layout.claims(path, None) for layout in LAYOUTS):
            return None
        raise


def _of_cohort(asked: Asked, table: CohortTable, features: Sequence[str]) -> Description:
    ids = {table.used.get("slide"), table.used.get("patient")}
    labels = {name: column_values(cells) for name, cells in table.columns.items() if name not in ids}
    words = f"a cohort table of {len(table)} slides, {len(set(table.patient.tolist()))} patients"
    patients = len(set(table.patient.tolist()))
    if not features:
        missing = [{"fact": "features", "where": asked.paths[0], "option": "--features PATH"}]
        return Description(
            asked.paths[0], "cohort", words, slides=len(table), patients=patients, labels=labels,
            missing=tuple(missing), notes=tuple(table.notes), bytes=size_of(Path(asked.paths[0])),
            said={"columns": list(table.columns), "used": dict(table.used)},
        )  # fmt: skip
    own = replace(asked, paths=tuple(features), cohort=asked.paths[0])
    found = _of_features(own)
    return replace(
        found,
        path=asked.paths[0],
        kind="cohort",
        words=f"{words}; {found.slides} of them have features",
        patients=patients,
        labels=labels,
        notes=(*table.notes, *found.notes),
        said={**found.said, "columns": list(table.columns), "used": dict(table.used), "rows": len(table)},
    )


def column_values(cells: np.ndarray) -> dict[str, Any]:
    """What stands in a column of text: distinct values, empty cells, and counts (few values) or range (numbers)."""
    empty = is_missing(cells)
    values = Counter(cells[~empty].tolist())
    found: dict[str, Any] = {"distinct": len(values), "missing": int(empty.sum())}
    if len(values) <= MOST_VALUES:
        found["counts"] = dict(values.most_common())
        return found
    try:
        numbers = cells[~empty].astype(float)
    except ValueError:
        found["examples"] = list(values)[:3]
        return found
    if np.isfinite(numbers).all():
        found |= {"min": float(numbers.min()), "median": float(np.median(numbers)), "max": float(numbers.max())}
    return found


def _of_features(asked: Asked) -> Description:
    opened = open_asked(asked, empty=True)
    source, facts = opened.source, opened.source.provenance
    missing = missing_facts(source, opened.encoder)
    stores = _stores_of(source)
    chosen = [*opened.ids, *opened.empty]
    length = dict(zip(source.ids, source.lengths.tolist(), strict=True))
    layout = "milkit store" if stores else str(facts.get("layout"))
    tool = _first([store.provenance["extra"].get("tool") for store in stores]) or facts.get("tool") or "milkit"
    said: dict[str, Any] = {}
    if stores:
        said = {
            "files": [str(store.path) for store in stores],
            "content_sha256": [s.provenance["sha256"] for s in stores],
        }
    if facts.get("mixed"):
        said["mixed"] = facts["mixed"]
    return Description(
        path=asked.paths[0] if len(asked.paths) == 1 else ", ".join(asked.paths),
        kind="store" if stores else "features",
        words=f"{'a milkit store' if stores else f'features of {tool}'}: {len(chosen)} slides",
        tool=tool,
        layout=layout,
        slides=len(chosen),
        lengths=np.array([length[name] for name in chosen], np.int64),
        features=source.features,
        dtype=_dtype(source),
        mpp=facts.get("mpp"),
        mpp_level0=_mpp_level0(source, chosen),
        tile_um=facts.get("tile_um") or _common([_known(s.tile_um) for s in stores]),
        tile_px=facts.get("tile_px"),
        encoder=opened.encoder,
        labels=_labels(source),
        missing=tuple(fact.to_json for fact in missing),
        notes=_notes(other_notes(opened.notes, missing), opened.empty),
        bytes=sum(size_of(Path(path)) for path in asked.paths),
        said=said,
    )


def _notes(notes: Sequence[str], empty: Sequence[str]) -> tuple[str, ...]:
    said = f"{len(empty)} slides hold no instance: {and_more(empty[:3], len(empty))}"
    return (*notes, said) if empty else tuple(notes)


def _stores_of(source: FeatureSource) -> list[Store]:
    parts = list({id(s): s for s in source.where.values()}.values()) if isinstance(source, Joined) else [source]
    return [part for part in parts if isinstance(part, Store)]


def _dtype(source: FeatureSource) -> str | None:
    """Of a store as it says; of files, of the shortest slide, whose features are read for it."""
    stores = _stores_of(source)
    if stores:
        return _common([store.dtype.name for store in stores]) or "mixed"
    if not isinstance(source, SlideFiles):
        return None
    held = [slide for slide in source.slides.values() if slide.length]
    return source.layout.features(min(held, key=lambda slide: slide.length)).dtype.name if held else None


def _mpp_level0(source: FeatureSource, ids: Sequence[str]) -> Any:
    if isinstance(source, SlideFiles):
        values = [source.mpp_level0[name] for name in ids if name in source.mpp_level0]
    else:
        values = [float(v) for store in _stores_of(source) if store.mpp is not None for v in store.mpp if v == v]
    if not values:
        return None
    return values[0] if min(values) == max(values) else [min(values), max(values)]


def _known(values: np.ndarray | None) -> float | None:
    """The median of the sizes that are known."""
    return None if values is None or np.isnan(values).all() else float(np.nanmedian(values))


def _common(values: Sequence[Any]) -> Any:
    return values[0] if values and all(value == values[0] for value in values) else None


def _first(values: Sequence[Any]) -> Any:
    return next((value for value in values if value), None)


def _labels(source: FeatureSource) -> dict[str, Any]:
    labels = labels_of(source)
    return {"label": column_values(np.array(list(labels.values()), np.str_))} if labels else {}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    path = path.expanduser()
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink())


def as_text(description: Description) -> str:
    """As JSON."""
    return json.dumps(description.to_json, indent=1, ensure_ascii=False, allow_nan=False, default=str)
