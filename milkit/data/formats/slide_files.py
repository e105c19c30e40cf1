"""Slides in files of one tool as a source of features: headers in memory, numbers from the disk when asked for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from milkit.bag import Bag
from milkit.data.bags import check_features
from milkit.data.formats.given import Given
from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout
from milkit.data.formats.scale import check_given, check_magnification, check_mpp, scale_of
from milkit.data.where import did_you_mean
from milkit.errors import DataError

NO_MPP = (
    "positions in micrometres are not known: {tool} files hold pixels of level 0 ({example}) but no mpp{why}; "
    "mpp=0.25 gives one for all slides, in a cohort mpp='column' or a column 'mpp' of the table one a slide. Models "
    "without positions need none"
)
NO_UNIT = (
    "positions are not used: {tool} files do not say their unit ({example}); unit='px' (of level 0), 'um' or 'grid' "
    "says it. Models without positions need none"
)
NO_STEP = "positions in micrometres are not known: {tool} files hold {step} ({example}); {needs} gives the step"
NO_CORNER = (
    "positions are not used: {tool} files hold the centres of tiles ({example}) and not their width; tile_um= gives "
    "it. Models without positions need none"
)
FARTHEST = 2.0**40
"""No position lies beyond this, in whatever unit: slides have some 100,000 pixels."""


@dataclass(frozen=True, eq=False)
class SlideFiles:
    """Slides in files of one tool.

    Attributes:
        layout: whose files they are.
        ids: of the slides, in the order of the file names.
        lengths: instances of each slide, int64 [B]; 0 for a slide without tissue.
        features: width d.
        provenance: `encoder`, `mpp`, `tile_um`, `tile_px` (None where unknown), `layout`, `tool`, and what the files
            say under the tool's own names; JSON-able. What the features are, `sample` says: that reads them.
        slides: header of each slide.
        mpp_level0: micrometres a pixel of level 0, by slide, where known.
        said: what a reader should know, of the files; `notes` adds what is said of positions.
        given: what the user said.
    """

    layout: Layout
    ids: tuple[str, ...]
    lengths: np.ndarray
    features: int
    provenance: Mapping[str, Any]
    slides: Mapping[str, Header] = field(repr=False)
    mpp_level0: Mapping[str, float] = field(default_factory=dict, repr=False)
    said: tuple[str, ...] = ()
    given: Given = field(default_factory=Given)

    def sample(self, ids: Sequence[str]) -> str:
        """sha256 over some rows of these slides: other features of the same shape are told apart."""
        made = self.layout.sample
        lines = [(s.id, s.sample if made is None else made(s)) for s in map(self._header, ids)]
        return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in lines).encode()).hexdigest()

    @cached_property
    def labels(self) -> dict[str, str]:
        """What the files themselves say of the slides' labels, where they do."""
        return {name: slide.label for name, slide in self.slides.items() if slide.label is not None}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        without = [s for s in self.slides.values() if s.length and s.positioned and self._factor(s) is None]
        if not without:
            return self.said
        if without[0].centred and without[0].id in self.mpp_level0:
            return (*self.said, NO_CORNER.format(tool=self.layout.tool, example=without[0].path))
        about = {"tool": self.layout.tool, "example": str(without[0].path)}
        magnification = self.provenance.get("level0_magnification")
        why = f", only a rounded level0_magnification of {_or(magnification)}" if magnification is not None else ""
        why += f" ({self.layout.lacks['mpp']})" if "mpp" in self.layout.lacks else ""
        note = {
            "px": NO_MPP.format(**about, why=why),
            "grid": NO_STEP.format(**about, step="columns and rows", needs="tile_um="),
            "tile_px": NO_STEP.format(
                **about, step="pixels of tiles", needs="tile_um= (of tiles whose pixels are known)"
            ),
        }.get(without[0].unit, NO_UNIT.format(**about) + self.layout.lacks.get("unit", ""))
        return (*self.said, note)

    def read(self, bag_id: str) -> Bag:
        """One slide, features in the precision of the file.

        Raises:
            DataError: no such slide; a file that cannot be read, or that holds NaN or infinity.
        """
        slide = self._header(bag_id)
        x = self.layout.features(slide)
        if x.shape != (slide.length, slide.width):
            raise DataError(
                f"{slide.path} changed since it was opened: {x.shape} instead of {(slide.length, slide.width)}."
            )
        try:
            check_features(bag_id, x)
        except DataError as error:
            raise DataError(f"{slide.path}: {error}") from None
        um, px = self._positions(slide)
        return Bag(bag_id, x, um, px, self.tile_um(bag_id), self.mpp_level0.get(bag_id))

    def coords(self, bag_id: str) -> np.ndarray | None:
        """Top-left corners of a slide's tiles, [n, 2] float32 micrometres, or None; without reading its features."""
        slide = self._header(bag_id)
        return None if self._factor(slide) is None else self._positions(slide)[0]

    def tile_um(self, bag_id: str) -> float | None:
        """Width of a slide's tiles in micrometres, or None."""
        slide, mpp = self._header(bag_id), self.mpp_level0.get(bag_id)
        if slide.tile_um is not None:
            return slide.tile_um
        return None if slide.tile_level0_px is None or mpp is None else slide.tile_level0_px * mpp

    def _factor(self, slide: Header) -> float | None:
        """Micrometres per unit of a slide's positions, None where unknown."""
        step = None if slide.tile_um is None or slide.tile_px is None else slide.tile_um / slide.tile_px
        if slide.centred and slide.tile_um is None and slide.tile_level0_px is None:
            return None
        known = {"px": self.mpp_level0.get(slide.id), "um": 1.0, "grid": slide.tile_um, "tile_px": step}
        return known.get(slide.unit)

    def _positions(self, slide: Header) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Positions [n, 2] in micrometres (float32) and in pixels of level 0 (int64), each None where unknown."""
        factor, mpp = self._factor(slide), self.mpp_level0.get(slide.id)
        if not slide.positioned or (factor is None and slide.unit != "px"):
            return None, None
        values = self.layout.positions(slide)
        if values is None:
            return None, None
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise DataError(f"{slide.path}: positions of slide {slide.id!r} hold NaN or infinity; make the file anew.")
        if np.abs(values).max(initial=0) > FARTHEST:
            raise DataError(
                f"{slide.path}: positions of slide {slide.id!r} reach {np.abs(values).max():.3g}, beyond any slide; "
                "make the file anew."
            )
        if slide.centred:
            width = slide.tile_level0_px or (slide.tile_um / mpp if slide.tile_um and mpp else None)
            if width is None:
                return None, None
            values = values - int(width) // 2
        um = None if factor is None else (values * factor).astype(np.float32)
        if slide.unit == "px":
            return um, np.rint(values).astype(np.int64)
        return um, None if mpp is None or factor is None else np.rint(values * factor / mpp).astype(np.int64)

    def placed(self) -> "SlideFiles":
        """The same files with what they and the user say of mpp."""
        own = {s.id: s.mpp_level0 for s in self.slides.values() if s.mpp_level0 is not None}
        if self.given.mpp is not None:
            return self.at_one(self.given.mpp)
        if own:
            return self.at(own, f"the mpp that {self.layout.tool} stored")
        return self._scaled({}, None)

    @property
    def needs_mpp(self) -> bool:
        """Whether there are pixels of level 0 of slides whose mpp is not known."""
        return any(s.unit == "px" and s.positioned and s.id not in self.mpp_level0 for s in self.slides.values())

    def at(self, mpp: Mapping[str, float], said: str = "") -> "SlideFiles":
        """The same files with positions.

        Args:
            mpp: micrometres per pixel at level 0, by slide id; what files say themselves is added.
            said: where it is from, for the notes.

        Raises:
            DataError: an mpp that is not that of level 0, or not the file's; tiles of two scales.
        """
        slides = list(self.slides.values())
        for name, value in mpp.items():
            check_mpp(value, f"{self.provenance['folders'][0]}, slide {name!r}")
        check_given(slides, mpp)
        check_magnification(slides, mpp)
        own = {s.id: s.mpp_level0 for s in slides if s.mpp_level0 is not None}
        return self._scaled({**own, **mpp}, said)

    def _scaled(self, mpp: Mapping[str, float], said: str | None) -> "SlideFiles":
        slides = list(self.slides.values())
        scale = scale_of(slides, mpp, self.given.allow)
        values = sorted({mpp[s] for s in self.ids if s in mpp})
        facts: dict[str, Any] = {**self.provenance, "mpp": scale.mpp, "tile_um": scale.tile_um}
        if values:
            facts["mpp_level0"] = values[0] if len(values) == 1 else [values[0], values[-1]]
            # a run is repeated on the same data only, and positions are data
            text = json.dumps([[s, mpp[s]] for s in self.ids if s in mpp])
            facts["mpp_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        if scale.range_um is not None and scale.note:
            facts["tile_um_range"] = list(scale.range_um)
        note = f"positions: pixels of level 0 x {said}" if said and any(s.unit == "px" for s in slides) else ""
        return replace(
            self,
            provenance=facts,
            mpp_level0=dict(mpp),
            said=(*self.said, *filter(None, [note, scale.note])),
        )

    def at_one(self, mpp: float) -> "SlideFiles":
        """The same files with positions, by one mpp at level 0 for all slides; see `at`."""
        check_mpp(mpp, str(self.provenance["folders"][0]))
        return self.at(dict.fromkeys(self.ids, mpp), f"mpp {mpp:g}, given for all slides")

    def _header(self, bag_id: str) -> Header:
        slide = self.slides.get(bag_id)
        if slide is None:
            raise DataError(f"No features of slide {bag_id!r}.{did_you_mean(bag_id, self.ids)}")
        return slide


def common(slides: Sequence[Header]) -> dict[str, Any]:
    """What the files say under the tool's names: one value, or a list of the distinct ones where slides differ."""
    names = dict.fromkeys(name for slide in slides for name in slide.said)
    result = {}
    for name in names:
        # by their text: a file may say anything, also lists, which cannot be hashed
        values = list(
            {json.dumps(slide.said.get(name), default=str): slide.said.get(name) for slide in slides}.values()
        )
        result[name] = values[0] if len(values) == 1 else sorted(values, key=_numbers_first)
    return result


def _numbers_first(value: Any) -> tuple[bool, float, str]:
    known = isinstance(value, int | float)
    return not known, float(value) if known else 0.0, str(value)


def _or(value: Any) -> str:
    return " or ".join(f"{v:g}" for v in (value if isinstance(value, list) else [value]) if v is not None)
