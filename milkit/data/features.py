"""Where features come from: one way to read them, whatever the file; layouts of other tools are in `formats/`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np

from milkit.bag import Bag
from milkit.data.agree import check_agree
from milkit.data.feature_sets import as_attribute, sets_of
from milkit.data.formats.find import STORE, find
from milkit.data.formats.given import Given
from milkit.data.formats.guard_hdf5 import BROKEN, guarded
from milkit.data.formats.header import Unit
from milkit.data.formats.kind import FOREIGN, kind_of
from milkit.data.formats.source import source_of
from milkit.data.store import open_store
from milkit.data.store_write import FORMAT
from milkit.data.where import did_you_mean
from milkit.errors import DataError


@runtime_checkable
class FeatureSource(Protocol):
    """Features of slides by id; a `Store` is one."""

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the slides, unique."""

    @property
    def lengths(self) -> np.ndarray:
        """Instances of each slide, int64 [B]."""

    @property
    def features(self) -> int:
        """Width d."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """JSON-able; `encoder`, `mpp`, `tile_um`, `tile_px` of the tiles as the encoder saw them, where known."""

    def read(self, bag_id: str) -> Bag:
        """One slide."""


@runtime_checkable
class Placeable(FeatureSource, Protocol):
    """Features whose positions may be in pixels, to which an mpp can be given."""

    @property
    def needs_mpp(self) -> bool:
        """Whether there are positions in pixels of level 0 of slides whose mpp is not known."""

    def at(self, mpp: Mapping[str, float], said: str = "") -> FeatureSource:
        """The same with positions in micrometres; `mpp` of level 0 by slide id, `said` is where it is from."""


def open_features(
    path: str | Path | Sequence[str | Path],
    *,
    mpp: float | None = None,
    tile_um: float | None = None,
    encoder: str = "",
    unit: Unit = "",
    patches: str = "",
    layout: str = "",
    allow: Sequence[str] = (),
) -> FeatureSource:
    """Open the features at one path, or at several that together hold a cohort.

    A path is a native store, a folder of them, or a file or folder of another tool (`milkit.data.formats.known`; docs/
    formats.md). Features are read when a slide is asked for.

    Args:
        path: one, or several of one kind.
        mpp: micrometres per pixel at level 0 of all slides, for files that hold positions in pixels and no mpp.
        tile_um: width of a tile in micrometres, for files that do not say it.
        encoder: name of the encoder, for files that do not say it.
        unit: of positions, for files that do not say it: "px" of level 0, "um", "grid" (columns and rows), or "tile_px"
            (pixels of the tiles as the encoder saw them).
        patches: folder of CLAM's patches files or of soma's tiles, where it is not beside the features.
        layout: name of the layout, for the few files that do not tell it (docs/formats.md).
        allow: what slides may differ in, "encoder", "tile" or "mpp"; where they do otherwise, that is an error.

    Raises:
        DataError: a file that cannot be used; files that hold one slide twice or differ in feature width,
            encoder, mpp or tile size; an option that a store answers itself.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise DataError("No feature file is given; name at least one store or folder.")
    if all(_may_be_store(p) for p in paths):
        stores = [(str(p), open_store(p)) for p in paths]
    else:
        try:
            found = find(paths, layout)
            if found.layout != STORE:
                return source_of(found, Given(mpp, tile_um, encoder, unit, tuple(allow)), patches)
        except OSError as error:  # a folder that may not be listed, a name too long for what is looked for beside it
            raise DataError(f"{error.filename or paths[0]} cannot be read: {error.strerror or error}.") from None
        stores = [(str(file), open_store(file)) for file in found.files]
    for option, value in (("encoder", encoder), ("patches", patches), ("unit", unit)):
        if value:
            raise DataError(f"{stores[0][0]} is a milkit store, which names that itself; leave out {option}={value!r}.")
    given = Given(mpp, tile_um, allow=tuple(allow))
    return join([(name, store.given(given)) for name, store in stores], given.allow)


def _may_be_store(path: Path) -> bool:
    """Whether `open_store` is to judge a path: all but folders and HDF5 files of other tools."""
    path = path.expanduser()
    if path.is_dir() or not path.is_file() or not h5py.is_hdf5(path):
        return not path.is_dir() and (not path.is_file() or kind_of(path) not in FOREIGN)
    try:
        with guarded(path) as file:
            return bool(file.attrs.get("format") == FORMAT)
    except BROKEN:
        return True


@dataclass(frozen=True, eq=False)
class Joined:
    """Several sources read as one.

    Attributes:
        ids: of all slides, in the order of the sources.
        lengths: instances of each slide, int64 [B].
        features: width d.
        provenance: what all agree on, and each file's own under `files`.
        where: source of each slide.
    """

    ids: tuple[str, ...]
    lengths: np.ndarray
    features: int
    provenance: Mapping[str, Any]
    where: Mapping[str, FeatureSource] = field(repr=False)

    @property
    def needs_mpp(self) -> bool:
        """Whether a source has pixels of slides whose mpp is not known."""
        return any(getattr(source, "needs_mpp", False) for source in self._sources)

    @property
    def _sources(self) -> list[FeatureSource]:
        return list({id(source): source for source in self.where.values()}.values())

    def at(self, mpp: Mapping[str, float], said: str = "") -> "Joined":
        """The same sources with positions in micrometres; see `milkit.data.store.Store.at`."""
        where = dict(self.where)
        for source in self._sources:
            if isinstance(source, Placeable):
                own = {name: mpp[name] for name in source.ids if name in mpp}
                where.update(dict.fromkeys(source.ids, source.at(own, said)))
        return replace(self, where=where)

    def read(self, bag_id: str) -> Bag:
        """One slide."""
        if bag_id not in self.where:
            raise DataError(f"No features of slide {bag_id!r}.{did_you_mean(bag_id, self.ids)}")
        return self.where[bag_id].read(bag_id)


def join(named: Sequence[tuple[str, FeatureSource]], allow: Sequence[str] = ()) -> FeatureSource:
    """Read several sources, each with its file's name, as one; they must agree but for what `allow` names."""
    if len(named) == 1:
        return named[0][1]
    do = "make them alike, or write the store anew with what is missing."
    check_agree("features an instance", [(name, source.features) for name, source in named], do)
    agreed = {key: _agreed(key, named, allow) for key in ("encoder", "mpp", "tile_um", "tile_px")}
    texts = [(name, as_attribute(sets_of(source.provenance))) for name, source in named]
    sets = json.loads(check_agree("list of feature sets", texts, do))
    agreed |= {"feature_sets": sets} if sets else {}
    where: dict[str, FeatureSource] = {}
    for _, source in named:
        where.update(dict.fromkeys(source.ids, source))
    count = sum(len(source.ids) for _, source in named)
    if len(where) != count:
        _raise_twice(named)
    files = [{"file": name, **source.provenance} for name, source in named]
    return Joined(
        ids=tuple(where),
        lengths=np.concatenate([source.lengths for _, source in named]).astype(np.int64),
        features=named[0][1].features,
        provenance={**agreed, "files": json.loads(json.dumps(files))},
        where=where,
    )


def _agreed(key: str, named: Sequence[tuple[str, FeatureSource]], allow: Sequence[str]) -> Any:
    """What all sources say of a fact, None where they differ and that is allowed."""
    values = [(name, source.provenance.get(key)) for name, source in named]
    word = key.split("_")[0]
    if word in allow and len({value for _, value in values}) > 1:
        return None
    do = f"make them alike, write the store anew with what is missing, or say that you mean it: allow={word!r}."
    return check_agree(key, values, do)


def _raise_twice(named: Sequence[tuple[str, FeatureSource]]) -> None:
    first: dict[str, str] = {}
    for name, source in named:
        for slide in source.ids:
            if slide in first:
                raise DataError(
                    f"Slide {slide!r} is in {first[slide]} and in {name}; a cohort holds a slide once. "
                    "Leave one file out, or rename the slide."
                )
            first[slide] = name
