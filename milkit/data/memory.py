"""Bags and rows given as Python values: studies in notebooks and tests, without files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from milkit.bag import Bag
from milkit.data.bags import as_bag, check_coords, check_features, check_id
from milkit.data.build import build_study
from milkit.data.covariates import Covariate
from milkit.data.study import Study, Unit
from milkit.data.table import ALIASES, table_of
from milkit.data.where import did_you_mean
from milkit.errors import CohortError, DataError
from milkit.task import Task


@dataclass(frozen=True, eq=False)
class MemorySource:
    """Features that are in memory already, by slide id; a `milkit.data.features.FeatureSource`.

    Attributes:
        ids: of the slides.
        lengths: instances of each, int64 [B].
        features: width d.
        provenance: JSON-able.
        bags: of each slide.
    """

    ids: tuple[str, ...]
    lengths: np.ndarray
    features: int
    provenance: Mapping[str, Any]
    bags: Mapping[str, Bag] = field(repr=False)

    def read(self, bag_id: str) -> Bag:
        """One slide."""
        if bag_id not in self.bags:
            raise DataError(f"No features of slide {bag_id!r}.{did_you_mean(bag_id, self.ids)}")
        return self.bags[bag_id]


@dataclass(frozen=True, eq=False)
class InMemory:
    """A cohort of bags in memory; made by `in_memory`.

    Attributes:
        bags: one a slide, ids unique.
        rows: one a slide, cells as text.
        name: of the cohort.
        covariates: columns that are an input of the model, see `milkit.data.covariates`.
    """

    bags: tuple[Bag, ...]
    rows: tuple[Mapping[str, str], ...]
    name: str = "memory"
    covariates: tuple[Covariate, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of all ids, features, positions and cells."""
        digest = hashlib.sha256(json.dumps([dict(row) for row in self.rows], sort_keys=True).encode())
        for bag in self.bags:
            sizes = [bag.tile_um, bag.mpp]
            digest.update(json.dumps(sizes).encode() if any(size is not None for size in sizes) else b"")
            for array in (bag.x, bag.coords_um, *([] if bag.coords_px is None else [bag.coords_px])):
                head = [bag.id] if array is None else [bag.id, str(array.dtype), list(array.shape)]
                digest.update(json.dumps(head).encode())
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def config_json(self) -> dict[str, Any]:
        """What a saved configuration keeps of it: enough to know the data again, not the data."""
        said = {"covariates": [_choice(c) for c in self.covariates]} if self.covariates else {}
        return {"name": self.name, "bags": len(self.bags), "digest": self.digest, **said}

    def load(self, task: Task, unit: Unit = "patient") -> Study:
        """The study of a task; columns are recognised by name as in a cohort table (`milkit.data.table`).

        Raises:
            CohortError: rows that cannot be used; names row and column.
        """
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        cells = {name: np.array([row.get(name, "") for row in self.rows], np.str_) for name in names}
        lines = np.arange(len(self.rows))
        table = table_of(self.name, cells, lines, digest=self.digest, line_word="row")
        source = MemorySource(
            ids=tuple(bag.id for bag in self.bags),
            lengths=np.array([len(bag.x) for bag in self.bags], np.int64),
            features=int(self.bags[0].x.shape[1]),
            provenance={"encoder": None, "mpp": None, "tile_um": None, "tile_px": None, "sha256": self.digest},
            bags={bag.id: bag for bag in self.bags},
        )
        return build_study(self.name, table, source, task, unit, covariates=self.covariates)


def in_memory(
    bags: Iterable[Any],
    rows: Iterable[Mapping[str, Any]],
    name: str = "memory",
    covariates: Iterable[Covariate] = (),
) -> InMemory:
    """A cohort from bags and rows, for notebooks and tests.

    Args:
        bags: of `milkit.Bag`, one a slide; ids unique, features finite and of one width.
        rows: one dict a slide, with a slide id (`slide_id`, `slide`, `bag_id`, `bag` or `image`); or, where no row
            has one, as many rows as bags in the same order. Values may be text, numbers, bools or None (missing).
        name: of the cohort.
        covariates: keys of the rows that are an input of the model, see `milkit.data.covariates`.

    Raises:
        DataError: no bag, a bag that is no Bag, ragged, empty, not finite, of another width, or given twice.
        CohortError: a row that is no dict, or rows without slide ids whose number is not that of the bags.
    """
    bags = tuple(_as_floats(bag, i) for i, bag in enumerate(bags))
    _check(bags)
    rows = tuple(rows)
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise CohortError(f'{name}: row {i} is {row!r}; expected a dict such as {{"slide_id": "s1", "label": 1}}.')
    text = tuple({str(key): _cell(value) for key, value in row.items()} for row in rows)
    if not any(key.lower() in ALIASES["slide"] for row in text for key in row):
        if len(text) != len(bags):
            raise CohortError(
                f"{name}: {len(text)} rows for {len(bags)} bags, and no row has a 'slide_id'; add one to each row, "
                "or give one row a bag in the same order."
            )
        text = tuple({"slide_id": bag.id, **row} for bag, row in zip(bags, text, strict=True))
    return InMemory(bags, text, name, tuple(covariates))


def _as_floats(bag: Any, place: int) -> Bag:
    """Lists, jax arrays and whole numbers as float arrays of NumPy."""
    bag = as_bag(bag, place)
    return replace(bag, x=bag.x.astype(np.float32)) if bag.x.dtype.kind in "iu" else bag


def _check(bags: tuple[Bag, ...]) -> None:
    if not bags:
        raise DataError("in_memory got no bag; give at least one.")
    seen: set[str] = set()
    first, before, width = "", "", 0
    for bag in bags:
        check_id(bag.id, before)
        if bag.id in seen:
            raise DataError(f"Bag {bag.id!r} is given twice; ids must be unique.")
        check_features(bag.id, bag.x, first, width)
        if bag.coords_um is not None:
            check_coords(bag.id, bag.coords_um, len(bag.x))
        if bag.coords_px is not None:
            check_coords(bag.id, bag.coords_px, len(bag.x), "coords_px")
        seen.add(bag.id)
        first, before, width = first or bag.id, bag.id, bag.x.shape[1]


def _choice(covariate: Covariate) -> Any:
    """A covariate as JSON."""
    return covariate if isinstance(covariate, str) else {"type": type(covariate).__name__, **asdict(covariate)}


def _cell(value: Any) -> str:
    """A value as the text that a CSV would hold."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return str(value).strip()  # the shortest digits that give the number back, in its own precision
