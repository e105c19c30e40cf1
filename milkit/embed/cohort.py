"""Which slides of a cohort can be embedded: rows of its table, manifests of their tiles, and their files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.matching import hint, without_extensions
from milkit.data.mpp import level0_mpp, mpp_column
from milkit.data.table import PATHS, CohortTable
from milkit.data.targets import is_missing
from milkit.embed.slides import TiledSlide
from milkit.embed.source import Listed
from milkit.errors import ConfigError, DataError
from milkit.slides.tile_slides import SUFFIXES, slide_id_of

SAME_MPP = 0.01
"""Relative difference from which two mpp are not one."""
COMMON = ("tile_um", "tile_px")
"""What all slides of a store agree in."""


@dataclass(frozen=True)
class Chosen:
    """Slides of a cohort.

    Attributes:
        ids: of all its rows, as their manifests name them where there are any.
        slides: of the rows that can be embedded, in the order of the table.
        failed: why others cannot, by id.
        tiling: the settings of the tiles that all slides have in common.
    """

    ids: tuple[str, ...]
    slides: tuple[Listed, ...]
    failed: Mapping[str, str]
    tiling: Mapping[str, Any]

    @property
    def tiles(self) -> int:
        """How many tiles the slides have; 0 where that is not known yet."""
        return sum(s.count for s in self.slides)


def choose(cohort: CohortTable | Sequence[str], tiles: Path, slides: Path | None = None) -> Chosen:
    """Find manifests and files of the slides of a cohort.

    A slide's file is looked for in `slides`, if given; else at the path of the table's column `slide_path` (`path`,
    `filename`), if it has one; else where it was when it was tiled.

    Args:
        cohort: a table, or ids.
        tiles: what `milkit tile --out` wrote.
        slides: folder of the slides, where they were moved.

    Raises:
        DataError: no folder of manifests, or none of the slides is there.
        ConfigError: slides that were tiled at different widths.
    """
    if not tiles.is_dir():
        raise DataError(f"There is no folder {tiles} of tiles; `milkit tile SLIDES --out {tiles}` makes it.")
    if slides is not None and not slides.is_dir():
        raise DataError(f"There is no folder {slides} (--slides).")
    rows = cohort.slide.tolist() if isinstance(cohort, CohortTable) else list(cohort)
    there = {p.name[: -len(".json")] for p in tiles.glob("*.json")}
    same = without_extensions(rows, sorted(there))
    ids = [same.get(name, name) for name in rows]
    plain = Counter(name if name in there else _without_suffix(name) for name in ids)  # `a` and `a.svs` are one slide
    twice = next((name for name, count in plain.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"The slide {twice!r} is listed twice; name it once.")
    given = _mpps(cohort) if isinstance(cohort, CohortTable) else {}
    paths = _paths(cohort) if isinstance(cohort, CohortTable) else {}
    found: list[TiledSlide] = []
    failed: dict[str, str] = {}
    for row, name in zip(rows, ids, strict=True):
        if name not in there:
            failed[name] = f"{tiles} holds no tiles of it; `milkit tile SLIDE --out {tiles}` makes them"
            continue
        try:
            slide = _located(TiledSlide(tiles, name), slides, paths.get(row))
            _check_mpp(slide, given.get(row))
            found.append(slide)
        except DataError as error:
            failed[name] = str(error)
    if not found:
        others = hint(rows, sorted(there))
        first = next(iter(failed.items()), ("", ""))
        raise DataError(
            f"None of the {len(rows)} slides can be embedded; {first[0]!r}: {first[1]}"
            f"{f' ({others})' if others and not set(ids) & there else ''}."
        )
    return Chosen(tuple(ids), tuple(found), failed, _tiling(found))


def _without_suffix(name: str) -> str:
    path = Path(name)
    return slide_id_of(path) if path.suffix.lower() in SUFFIXES else name


def _located(slide: TiledSlide, folder: Path | None, path: Path | None) -> TiledSlide:
    """The slide with the place of its file; whether it is there is looked at when it is needed."""
    try:
        name = Path(slide.manifest["slide"]).name
        _ = slide.facts, slide.manifest["digest"], int(slide.manifest["tiles"]), *map(slide.manifest.get, COMMON)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"Its manifest lacks {error}; tile it again (milkit tile --force).") from None
    return TiledSlide(slide.tiles, slide.id, folder / name if folder else path)


def _check_mpp(slide: TiledSlide, given: float | None) -> None:
    own = float(slide.manifest["mpp"])
    if given is not None and abs(given - own) > SAME_MPP * own:
        raise DataError(
            f"It was tiled at an mpp of {own:g}, and the table says {given:g}; mend the table, or tile it again."
        )


def _mpps(table: CohortTable) -> dict[str, float]:
    """The mpp of rows that give one."""
    column = mpp_column(table, "")
    if not column:
        return {}
    return level0_mpp(table, column, np.flatnonzero(~is_missing(table.columns[column])).tolist())


def _paths(table: CohortTable) -> dict[str, Path]:
    """Files of slides, by the rows' ids: of a column of paths, seen from the working folder or from the table's."""
    column = next((c for c in table.columns if c.lower().replace(" ", "_") in PATHS), None)
    if column is None:
        return {}
    places = {}
    for name, cell in zip(table.slide.tolist(), table.columns[column].tolist(), strict=True):
        options = [Path(cell), Path(table.file).parent / cell]
        at = next((p for p in options if p.is_file()), None)
        if cell and at is not None:  # a column of other files says nothing
            places[name] = at
    return places


def _tiling(slides: Sequence[TiledSlide]) -> dict[str, Any]:
    """The settings that all slides were tiled with.

    Raises:
        ConfigError: their tiles differ in width.
    """
    first = slides[0].manifest
    for slide in slides:
        for name in COMMON:
            if slide.manifest[name] != first[name]:
                raise ConfigError(
                    f"{slide.id!r} has {name} {slide.manifest[name]:g}, and {slides[0].id!r} {first[name]:g}; the "
                    "tiles of a store have one width. Tile them in the same way (milkit tile --force)."
                )
    settings = [dict(slide.manifest.get("settings") or {}) for slide in slides]
    common = {k: v for k, v in settings[0].items() if all(k in s and s[k] == v for s in settings)}
    return {**common, **{name: first[name] for name in COMMON}}
