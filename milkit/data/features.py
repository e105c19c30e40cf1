"""Where features come from: one way to read them, whatever the file. Foreign layouts join here."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from milkit.data.store import open_store
from milkit.data.where import and_more, did_you_mean
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
        """JSON-able; `encoder`, `mpp`, `tile_um`, `tile_px` where known."""

    def read(self, bag_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Features [n, d] and coords_um [n, 2] (or None) of a slide."""


def open_features(path: str | Path | Sequence[str | Path]) -> FeatureSource:
    """Open the features at one path, or at several that together hold a cohort.

    Raises:
        DataError: a file that cannot be used; files that hold one slide twice or differ in feature width,
            encoder, mpp or tile size.
    """
    if isinstance(path, str | Path):
        return open_store(path)
    if not path:
        raise DataError("No feature file is given; name at least one store.")
    return join([(str(p), open_store(p)) for p in path])


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

    def read(self, bag_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Features [n, d] and coords_um [n, 2] (or None) of a slide."""
        if bag_id not in self.where:
            raise DataError(f"No features of slide {bag_id!r}.{did_you_mean(bag_id, self.ids)}")
        return self.where[bag_id].read(bag_id)


def join(named: Sequence[tuple[str, FeatureSource]]) -> FeatureSource:
    """Read several sources, each with its file's name, as one; they must agree."""
    if len(named) == 1:
        return named[0][1]
    _check_agree("features an instance", [(name, source.features) for name, source in named])
    agreed: dict[str, Any] = {}
    for key in ("encoder", "mpp", "tile_um", "tile_px"):
        values = [(name, source.provenance.get(key)) for name, source in named]
        _check_agree(key, values)
        agreed[key] = values[0][1]
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


def _check_agree(what: str, values: Sequence[tuple[str, Any]]) -> None:
    """Raise where the files of a cohort differ; an unknown value agrees with no known one."""
    usual = Counter(value for _, value in values).most_common(1)[0][0]
    others = [f"{name}: {value}" for name, value in values if value != usual]
    if others:
        first = next(name for name, value in values if value == usual)
        raise DataError(
            f"The feature files of a cohort must have one {what}; {first}: {usual}, but "
            f"{and_more(others[:5], len(others))}. Features of two kinds cannot be pooled; make them alike, "
            "or write the store anew with what is missing."
        )


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
