"""Several feature sets of the same slides, put together instance by instance.

    Cohort("cohort.csv", Aligned(("uni.h5", "conch.h5")))
    Cohort("cohort.csv", Aligned((FeatureFiles("fine.h5", name="20x"), FeatureFiles("coarse.h5", name="5x"))))

The tiles of the first set are the instances. A set with tiles of the same width gives each of them its features of the
tile at the same position, whatever the order in its file; a set with wider tiles (a lower magnification) those of the
tile whose square holds the instance's centre. An instance without a partner is left out; where a slide loses more than
`most_lost`, the sets are not of one tiling, and that is an error.

Aligning reads the positions of all slides. Do it once and keep what comes of it:
`write_store("both.h5", (source.read(i) for i in source.ids), feature_sets=source.sets, ...)`.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from milkit.bag import Bag
from milkit.data.align_tiles import same_place, square_around
from milkit.data.feature_sets import FeatureSet, as_json
from milkit.data.features import FeatureSource
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.where import and_more, did_you_mean
from milkit.errors import ConfigError, DataError
from milkit.fields import check_fields

SAME_WIDTH = 0.01
"""Relative difference of tile widths that is still the same width: rounding, not another magnification."""


@dataclass(frozen=True)
class FeatureFiles:
    """One feature set of a cohort, and what its files do not say themselves."""

    path: str | tuple[str, ...]
    """As `Cohort.features`."""
    name: str = ""
    """Of the set; "" takes the encoder's, or that of the file."""
    mpp: float | None = None
    """Micrometres per pixel of level 0, for files with positions in pixels; None takes that of the cohort."""
    tile_um: float | None = None
    """Width of a tile in micrometres, for files that do not say it."""
    encoder: str = ""
    """For files that do not say it."""
    unit: str = ""
    """Of positions, for files that do not say it."""
    patches: str = ""
    """CLAM's folder of patches files, where it is not beside the features."""

    def __post_init__(self) -> None:
        check_fields(self, "data.features.sets")


@dataclass(frozen=True)
class Aligned:
    """Several feature sets of the same slides, aligned by position; stands where a cohort names its features."""

    sets: tuple[str | FeatureFiles, ...]
    """Two or more, the first being the one whose tiles are the instances: that with the smallest tiles."""
    same_order: bool = False
    """Instances of all sets are in the same order, for files without positions; they must then be equally many."""
    most_lost: float = 0.1
    """Share of a slide's instances that may be without a partner."""
    tolerance_um: float = 1.0
    """How far apart two positions are still the same: above rounding to pixels, below any step between tiles."""

    def __post_init__(self) -> None:
        check_fields(self, "data.features", most_lost="[0, 1]", tolerance_um="[0, inf)")
        if len(self.sets) < 2:
            raise ConfigError("Aligned(...) takes two feature sets or more; name a single one without it.")

    @property
    def files(self) -> tuple[FeatureFiles, ...]:
        """The sets with all they say."""
        return tuple(s if isinstance(s, FeatureFiles) else FeatureFiles(s) for s in self.sets)


@dataclass(frozen=True, eq=False)
class AlignedSource:
    """Slides with several feature sets; a `milkit.data.features.FeatureSource`.

    Attributes:
        ids: of the slides that all sets hold, in the order of the first.
        lengths: instances that have a partner in every set, int64 [B].
        features: width of all sets together.
        provenance: `feature_sets`, and the first set's `mpp`, `tile_um` and `tile_px`, which are the instances'.
        parts: the sets and where they are read.
        how: what was asked for.
        notes: what was left out.
    """

    ids: tuple[str, ...]
    lengths: np.ndarray
    features: int
    provenance: Mapping[str, Any]
    parts: tuple["_Part", ...] = field(repr=False)
    how: Aligned = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def sets(self) -> tuple[FeatureSet, ...]:
        """The sets, in the order of their features."""
        return tuple(part.set for part in self.parts)

    def coords(self, bag_id: str) -> np.ndarray | None:
        """Top-left corners of a slide's instances in micrometres, [n, 2], or None; without reading features."""
        xy = self.parts[0].tiles(self._known(bag_id)).coords
        return None if xy is None else xy[_places(bag_id, self.parts, self.how)[0]].astype(np.float32)

    def read(self, bag_id: str) -> Bag:
        """One slide: positions, tile width and mpp are the first set's."""
        places = _places(self._known(bag_id), self.parts, self.how)
        bags = [part.source.read(bag_id) for part in self.parts]
        values = [bag.x[rows] for bag, rows in zip(bags, places, strict=True)]
        if len({v.dtype for v in values}) > 1:
            values = [v.astype(np.float32) for v in values]
        um, px = (None if xy is None else xy[places[0]] for xy in (bags[0].coords_um, bags[0].coords_px))
        return Bag(bag_id, np.concatenate(values, 1), um, px, bags[0].tile_um, bags[0].mpp)

    def _known(self, bag_id: str) -> str:
        if not all(bag_id in part.counts for part in self.parts):
            raise DataError(f"No slide {bag_id!r} in all feature sets.{did_you_mean(bag_id, self.ids)}")
        return bag_id


@dataclass(frozen=True, eq=False)
class _Part:
    """One set, and where it is read; `counts` are the tiles of its slides."""

    set: FeatureSet
    source: FeatureSource
    counts: Mapping[str, int]

    def tiles(self, slide: str) -> "_Tiles":
        """Positions and tile width of a slide, without reading its features where the source can do so."""
        coords, width = getattr(self.source, "coords", None), getattr(self.source, "tile_um", None)
        if callable(coords) and callable(width):
            xy, tile = coords(slide), width(slide)
        else:
            bag = self.source.read(slide)
            xy, tile = bag.coords_um, bag.tile_um
        tile = self.set.tile_um if tile is None else tile
        return _Tiles(self.counts[slide], None if xy is None else np.asarray(xy, np.float64), tile)


@dataclass(frozen=True)
class _Tiles:
    """Where the tiles of one slide of one set are.

    Attributes:
        count: of tiles.
        coords: top-left corners in micrometres, float64 [n, 2], or None.
        width: of a tile in micrometres, or None.
    """

    count: int
    coords: np.ndarray | None
    width: float | None


def align(sources: Sequence[FeatureSource], how: Aligned, wanted: Sequence[str] | None = None) -> AlignedSource:
    """Put feature sets of the same slides together; reads the positions of all slides.

    Args:
        sources: of each set.
        how: names of the sets, and how they are matched.
        wanted: slides that are asked for; of others no tile is matched, and all tiles are counted. None is all.

    Raises:
        DataError: sets without a slide in common, without positions, with tiles that are not of one tiling, or with
            narrower tiles than the first; names the slides.
    """
    counts = [dict(zip(source.ids, source.lengths.tolist(), strict=True)) for source in sources]
    parts = tuple(_Part(*p) for p in zip(_sets(sources, how), sources, counts, strict=True))
    ids = tuple(i for i in sources[0].ids if all(i in own for own in counts))
    asked = set().union(*counts) if wanted is None else set(wanted)
    names = [part.set.name for part in parts]
    if not asked & set(ids):
        first, second = (", ".join(repr(i) for i in list(source.ids)[:3]) for source in sources[:2])
        raise DataError(
            f"The feature sets {' and '.join(names)} have no slide in common that is asked for: {first} ..., and "
            f"{second} ... . Are the ids written alike?"
        )
    own = np.array([counts[0][slide] for slide in ids], np.int64)
    lengths = np.array(
        [len(_places(slide, parts, how)[0]) if slide in asked else counts[0][slide] for slide in ids], np.int64
    )
    return AlignedSource(
        ids=ids,
        lengths=lengths,
        features=sum(part.set.width for part in parts),
        provenance=_provenance(parts, how),
        parts=parts,
        how=how,
        notes=(*_only_in_some(names, counts, asked), *_lost(names, ids, own, own - lengths, how)),
    )


def _lost(names: Sequence[str], ids: Sequence[str], own: np.ndarray, lost: np.ndarray, how: Aligned) -> tuple[str, ...]:
    """A note on instances without a partner; an error where a slide loses too many."""
    partner = " or ".join(names[1:])
    bad = [f"{ids[i]!r} {lost[i]} of {own[i]}" for i in np.flatnonzero(lost > how.most_lost * own).tolist()]
    if bad:
        raise DataError(
            f"Tiles of {names[0]} have no partner in {partner} in {len(bad)} slide(s): {and_more(bad[:5], len(bad))}; "
            f"at most {how.most_lost:.0%} may be lost. Were the sets made of one tiling, and do their files say their "
            "tile width (tile_um=)? If they were, allow more: most_lost=."
        )
    if not lost.any():
        return ()
    said = [f"{ids[i]!r} {lost[i]}" for i in np.flatnonzero(lost).tolist()]
    return (
        f"{lost.sum()} of {own.sum()} tiles of {names[0]} have no partner in {partner} and are left out "
        f"({and_more(said[:3], len(said))})",
    )


def _only_in_some(names: Sequence[str], counts: Sequence[Mapping[str, int]], asked: set[str]) -> Iterator[str]:
    """Notes on slides that some set lacks."""
    every = dict.fromkeys(slide for own in counts for slide in own if slide in asked)
    for name, own in zip(names, counts, strict=True):
        gone = [slide for slide in every if slide not in own]
        if gone:
            some = and_more([repr(g) for g in gone[:3]], len(gone))
            yield f"{len(gone)} slide(s) of the other feature sets are not in {name} and are left out ({some})"


def _places(slide: str, parts: Sequence[_Part], how: Aligned) -> list[Int[np.ndarray, "n"]]:
    """Rows of a slide's instances in each set."""
    tiles = [part.tiles(slide) for part in parts]
    names = [part.set.name for part in parts]
    rows = [np.arange(tiles[0].count)]
    for other, name in zip(tiles[1:], names[1:], strict=True):
        rows.append(_partner(slide, (names[0], name), tiles[0], other, how))
    found = np.all([r >= 0 for r in rows], 0)
    return [r[found] for r in rows]


def _partner(slide: str, names: tuple[str, str], first: _Tiles, other: _Tiles, how: Aligned) -> Int[np.ndarray, "n"]:
    """Row of the other set for each tile of the first, -1 where there is none."""
    if how.same_order and first.count != other.count:
        raise DataError(
            f"same_order=True, but slide {slide!r} has {first.count} instances in {names[0]} and {other.count} in "
            f"{names[1]}. Leave same_order out, so that they are matched by position."
        )
    if first.coords is None or other.coords is None:
        if how.same_order:
            return np.arange(first.count)
        lacks = names[0] if first.coords is None else names[1]
        raise DataError(
            f"Slide {slide!r} has no positions in micrometres in {lacks}, by which its tiles are found in the other "
            "sets. Give what is missing (mpp=, tile_um=, unit=); or, if all files have one order, same_order=True."
        )
    if how.same_order:
        _check_order(slide, names, first.coords, other.coords, how.tolerance_um)
        return np.arange(first.count)
    if first.width is None or other.width is None or math.isclose(first.width, other.width, rel_tol=SAME_WIDTH):
        try:
            return same_place(first.coords, other.coords, how.tolerance_um)
        except DataError as error:
            raise DataError(f"Slide {slide!r}, sets {names[0]} and {names[1]}: {error}") from None
    if other.width < first.width:
        raise DataError(
            f"Tiles of {names[1]} are {other.width:g} um wide and those of {names[0]}, which is named first, "
            f"{first.width:g}: name the set with the smallest tiles first, as they are the instances."
        )
    return square_around(first.coords + first.width / 2, other.coords + other.width / 2, other.width)


def _check_order(
    slide: str, names: tuple[str, str], a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"], tolerance: float
) -> None:
    far = np.flatnonzero(np.abs(a - b).max(1, initial=0) > tolerance)
    if len(far):
        i = int(far[0])
        raise DataError(
            f"same_order=True, but tile {i} of slide {slide!r} is at {tuple(a[i].tolist())} um in {names[0]} and at "
            f"{tuple(b[i].tolist())} in {names[1]}. Leave same_order out, so that they are matched by position."
        )


def _sets(sources: Sequence[FeatureSource], how: Aligned) -> tuple[FeatureSet, ...]:
    """What is known of each set."""
    made = []
    for source, file in zip(sources, how.files, strict=True):
        known = source.provenance
        path = file.path if isinstance(file.path, str) else file.path[0]
        name = file.name or known.get("encoder") or Path(path).stem
        made.append(FeatureSet(name, source.features, known.get("encoder"), known.get("mpp"), known.get("tile_um")))
    names = [s.name for s in made]
    if len(set(names)) < len(names):
        raise DataError(
            f"The feature sets are called {', '.join(names)}, which does not tell them apart; name them: "
            "FeatureFiles(path, name='20x')."
        )
    return tuple(made)


def _provenance(parts: Sequence[_Part], how: Aligned) -> dict[str, Any]:
    first = parts[0].source.provenance
    encoders = [part.set.encoder for part in parts]
    asked = [how.same_order, how.most_lost, how.tolerance_um]
    files = [[part.set.name, _digests(part.source.provenance), _sample(part.source)] for part in parts]
    return {
        "encoder": " + ".join(map(str, encoders)) if all(encoders) else None,
        **{key: first.get(key) for key in ("mpp", "tile_um", "tile_px")},
        "feature_sets": as_json([part.set for part in parts]),
        "sets_sha256": hashlib.sha256(json.dumps([asked, files], sort_keys=True).encode()).hexdigest(),
    }


def _sample(source: FeatureSource) -> str:
    """What tells the features of files from others of the same shape; stores have a digest."""
    return source.sample(source.ids) if isinstance(source, SlideFiles) else ""


def _digests(known: Any) -> list[str]:
    """All digests in a provenance, however deep."""
    if isinstance(known, Mapping):
        own = [str(v) for k, v in sorted(known.items()) if "sha256" in k]
        return own + [d for k, v in sorted(known.items()) if "sha256" not in k for d in _digests(v)]
    return [d for v in known for d in _digests(v)] if isinstance(known, list | tuple) else []
