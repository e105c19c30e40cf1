"""What is to be packed: which slides, into which files, and what is known of them; nothing is read but headers."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from milkit.data.bags import check_id
from milkit.data.features import FeatureSource, Placeable, open_features
from milkit.data.formats.find import layout_named
from milkit.data.formats.header import Unit
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.open_cohort import open_cohort
from milkit.data.pack.shards import Shard, shards
from milkit.data.store import Store, open_store
from milkit.data.store_write import FORMAT_VERSION, disk_dtype
from milkit.data.table import NONE, read_cohort
from milkit.errors import DataError

Dtype = Literal["float16", "float32", "bfloat16", "keep"]
FACTS = ("encoder", "mpp", "tile_um", "tile_px")
"""Facts that are attributes of the store's file."""


@dataclass(frozen=True)
class Asked:
    """What the user says of the features to be packed.

    Attributes:
        paths: what `milkit.data.open_features` takes.
        cohort: a table; only its slides are packed, and its column of mpps is used. "" packs all.
        mpp: of level 0, a number for all slides or a column of the table; "" takes a column mpp, "-" none.
        tile_um, encoder, unit, patches, allow: as in `milkit.data.open_features`; a store that does not say its
            encoder is given one.
        slide, patient: columns of the table, see `milkit.data.table.read_cohort`.
    """

    paths: tuple[str, ...]
    cohort: str = ""
    mpp: float | str = ""
    tile_um: float | None = None
    encoder: str = ""
    unit: Unit = ""
    patches: str = ""
    allow: tuple[str, ...] = ()
    slide: str = ""
    patient: str = ""

    @property
    def said(self) -> dict[str, Any]:
        """The options that were given, for provenance."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k != "paths" and v not in ("", None, ())}


@dataclass(frozen=True, eq=False)
class Opened:
    """The features that were asked for.

    Attributes:
        source: of all slides.
        ids: of those to be packed, in the source's order; each holds an instance.
        empty: slides without an instance, which are left out.
        notes: what a reader should know.
        encoder: its name, None where unknown.
        mpp_of: what the user says of mpp, by slide; None where nothing.
    """

    source: FeatureSource
    ids: tuple[str, ...]
    empty: tuple[str, ...]
    notes: tuple[str, ...]
    encoder: str | None
    mpp_of: Mapping[str, float] | None = None

    @property
    def lengths(self) -> list[int]:
        """Instances of each slide to be packed."""
        length = dict(zip(self.source.ids, self.source.lengths.tolist(), strict=True))
        return [int(length[name]) for name in self.ids]


def open_asked(asked: Asked, empty: bool = False) -> Opened:
    """Open the features that are to be packed.

    Args:
        asked: what the user says.
        empty: whether features without any instance will do.

    Raises:
        DataError: features that cannot be used, or none at all.
        CohortError: a table that cannot be used.
    """
    own = _stores(asked.paths)  # a store's encoder is not an option of reading it
    encoder = "" if own else asked.encoder
    options: dict[str, Any] = {"tile_um": asked.tile_um, "encoder": encoder, "unit": asked.unit}
    options |= {"patches": asked.patches, "allow": asked.allow}
    wanted: list[str] | None = None
    notes: list[str] = []
    if asked.cohort:
        rows = read_cohort(asked.cohort, slide=asked.slide, patient=asked.patient)
        table, source, _ = open_cohort(rows, list(asked.paths), mpp=asked.mpp, **options)
        wanted = table.slide.tolist()
        absent = [name for name in wanted if name not in set(source.ids)]
        if absent:
            notes.append(f"{len(absent)} of {len(wanted)} rows of {asked.cohort} have no features, such as {absent[0]}")
    else:
        if isinstance(asked.mpp, str) and asked.mpp not in ("", NONE):
            raise DataError(f"mpp={asked.mpp!r} is a column of a table; name the table: --cohort clinical.csv.")
        number = None if isinstance(asked.mpp, str) else asked.mpp
        source = open_features(list(asked.paths), mpp=number, **options)
    said = source.provenance.get("encoder")
    if own and asked.encoder and said not in (None, asked.encoder):
        raise DataError(f"{asked.paths[0]} says encoder {said!r}, but {asked.encoder!r} is given; leave it out.")
    known = dict(zip(source.ids, source.lengths.tolist(), strict=True))
    chosen = list(source.ids) if wanted is None else [n for n in source.ids if n in set(wanted)]
    ids = tuple(name for name in chosen if known[name])
    if not ids and not empty:
        raise DataError(f"{', '.join(asked.paths)}: no slide with an instance to pack.")
    for name in chosen:
        check_id(name)
    without = tuple(name for name in chosen if not known[name])
    notes = [*getattr(source, "notes", ()), *notes]
    return Opened(source, ids, without, tuple(notes), said or asked.encoder or None, _mpp_of(source))


def _stores(paths: Sequence[str]) -> bool:
    """Whether the paths are native stores."""
    for path in map(Path, paths):
        files = sorted(path.expanduser().glob("*.h5")) if path.is_dir() else [path]
        try:
            if not files or not open_store(files[0]):
                return False
        except DataError:
            return False
    return bool(paths)


def _mpp_of(source: FeatureSource) -> dict[str, float] | None:
    """Mpp of the slides of stores, so that a process that opens them anew can be told."""
    if isinstance(source, SlideFiles) or not isinstance(source, Placeable):
        return None
    parts = source.where if hasattr(source, "where") else dict.fromkeys(source.ids, source)
    found = {}
    for name in source.ids:
        store = parts[name]
        if isinstance(store, Store) and store.mpp is not None and store.coords_px is not None:
            value = float(store.mpp[store.index[name]])
            if np.isfinite(value):
                found[name] = value
    return found or None


@dataclass(frozen=True, eq=False)
class Plan:
    """A pack, settled.

    Attributes:
        asked: what the user said.
        opened: the features.
        dtype: of the stores.
        shards: the files.
        fingerprint: sha256 of all that decides what is written.
        files: size in bytes and time of change (ns) of each source file.
    """

    asked: Asked
    opened: Opened
    dtype: Literal["float16", "float32", "bfloat16"]
    shards: tuple[Shard, ...]
    fingerprint: str
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Features an instance."""
        return self.opened.source.features

    @property
    def row_bytes(self) -> int:
        """Bytes of an instance's features."""
        return self.width * disk_dtype(self.dtype).itemsize


def plan(asked: Asked, out: Path, dtype: Dtype, shard_gib: float | None) -> Plan:
    """Settle what is packed; reads headers, and of one slide its features where the dtype is to be kept.

    Raises:
        DataError: features that cannot be used; a dtype that a store does not hold.
    """
    opened = open_asked(asked)
    kept = _kept(opened) if dtype == "keep" else dtype
    if kept not in ("float16", "float32", "bfloat16"):
        raise DataError(
            f"dtype={kept!r}: a store holds float16, float32 or bfloat16{_said(dtype)}; give one of them, such as "
            "dtype='float32'."
        )
    row = opened.source.features * disk_dtype(kept).itemsize
    parts = shards(out, opened.lengths, row, shard_gib)
    files = source_files(opened)
    text = json.dumps(
        {
            "format": FORMAT_VERSION, "dtype": kept, "asked": asked.said, "ids": opened.ids, "lengths": opened.lengths,
            "encoder": opened.encoder, "mpp_of": opened.mpp_of, "provenance": opened.source.provenance,
            "files": files, "shards": [[s.path.name, s.first, len(s.lengths)] for s in parts],
        },
        sort_keys=True, default=str,
    )  # fmt: skip
    return Plan(asked, opened, kept, parts, hashlib.sha256(text.encode()).hexdigest(), files)


def _said(dtype: str) -> str:
    return ", and the features are none of these" if dtype == "keep" else ""


def _kept(opened: Opened) -> Any:
    """Dtype of the shortest slide's features; the others are held to it as they are read."""
    name = min(zip(opened.lengths, opened.ids, strict=True))[1]
    return opened.source.read(name).x.dtype.name


def source_files(opened: Opened) -> dict[str, tuple[int, int]]:
    """The files that hold the slides to be packed, in their order: size and time of change."""
    files = {}
    for path in (path_of(opened.source, name) for name in opened.ids):
        if path is not None and str(path) not in files:
            state = path.stat()
            files[str(path)] = (state.st_size, state.st_mtime_ns) if path.is_file() else (0, state.st_mtime_ns)
    return files


def path_of(source: FeatureSource, name: str) -> Path | None:
    """The file that holds a slide, None where the source does not say."""
    if isinstance(source, SlideFiles):
        return source.slides[name].path
    one = source.where[name] if hasattr(source, "where") else source
    return one.path if isinstance(one, Store) else None


def tile_level0_px(source: FeatureSource, name: str) -> float | None:
    """Width of a slide's tiles in pixels of level 0, None where the source does not say."""
    if isinstance(source, SlideFiles):
        return source.slides[name].tile_level0_px
    return _of_bag(source, name, "tile_level0_px")


def own_tile_um(source: FeatureSource, name: str) -> float | None:
    """Width of a slide's tiles in micrometres; of a store, which may say one for all, only the slide's own."""
    if isinstance(source, SlideFiles):
        return source.tile_um(name)
    return _of_bag(source, name, "tile_um")


def _of_bag(source: FeatureSource, name: str, what: str) -> float | None:
    store = source.where[name] if hasattr(source, "where") else source
    values = getattr(store, what, None)
    if not isinstance(store, Store) or values is None or np.isnan(values[store.index[name]]):
        return None
    return float(values[store.index[name]])


def portable(opened: Opened, asked: Asked) -> dict[str, Any]:
    """The source in values that another process can be sent; see `from_portable`."""
    if isinstance(opened.source, SlideFiles):
        values = {f.name: getattr(opened.source, f.name) for f in dataclasses.fields(opened.source)}
        return {"files": {**values, "layout": opened.source.layout.name}}
    return {"paths": asked.paths, "tile_um": asked.tile_um, "allow": asked.allow, "mpp_of": opened.mpp_of}


def from_portable(values: Mapping[str, Any]) -> FeatureSource:
    """The source again."""
    if "files" in values:
        return SlideFiles(**{**values["files"], "layout": layout_named(values["files"]["layout"])})
    source = open_features(list(values["paths"]), tile_um=values["tile_um"], allow=values["allow"])
    if values["mpp_of"] and isinstance(source, Placeable):
        source = source.at(values["mpp_of"])
    return source
