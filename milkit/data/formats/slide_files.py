"""A folder of one file a slide as a source of features: headers in memory, features from the disk when asked for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from milkit.data.bags import check_features
from milkit.data.formats.header import Header, opened, values_of
from milkit.data.formats.scale import check_magnification, check_mpp, scale_of
from milkit.data.where import did_you_mean
from milkit.errors import DataError

NO_MPP = (
    "positions are not known: {tool} files hold pixels of level 0 ({example}) but no mpp{why}; Cohort(mpp=0.25) gives "
    "one for all slides, mpp='column' or a column 'mpp' of the table one a slide. Models without positions need none"
)


@dataclass(frozen=True, eq=False)
class SlideFiles:
    """One HDF5 file a slide, of one tool.

    Attributes:
        ids: of the slides, in the order of the file names.
        lengths: instances of each slide, int64 [B]; 0 for a slide without tissue.
        features: width d.
        provenance: `encoder`, `mpp`, `tile_um`, `tile_px` (None where unknown), `layout`, `tool`, and what the files
            say under the tool's own names; JSON-able.
        slides: header of each slide.
        mpp_level0: micrometres a pixel of level 0, by slide; slides without one have no positions.
        notes: what a reader should know.
        kept_coords: positions already read; small beside the features.
    """

    ids: tuple[str, ...]
    lengths: np.ndarray
    features: int
    provenance: Mapping[str, Any]
    slides: Mapping[str, Header] = field(repr=False)
    mpp_level0: Mapping[str, float] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    kept_coords: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def read(self, bag_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Features [n, d] as stored, and coords_um [n, 2] float32 or None, of a slide.

        Raises:
            DataError: no such slide; a file that cannot be read, or that holds NaN or infinity.
        """
        slide = self._header(bag_id)
        with opened(slide.path) as file:
            x = values_of(file["features"])
        if x.shape != (slide.length, slide.width):
            raise DataError(
                f"{slide.path} changed since it was opened: {x.shape} instead of {(slide.length, slide.width)}."
            )
        try:
            check_features(bag_id, x)
        except DataError as error:
            raise DataError(f"{slide.path}: {error}") from None
        return x, self.coords(bag_id)

    def coords(self, bag_id: str) -> np.ndarray | None:
        """Top-left corners of a slide's tiles, [n, 2] float32 micrometres, or None; without reading its features."""
        slide = self._header(bag_id)
        if bag_id not in self.mpp_level0:
            return None
        if bag_id not in self.kept_coords:
            with opened(slide.path) as file:
                if "coords" not in file:
                    raise DataError(f"{slide.path}: no dataset 'coords', so positions are not known; set mpp='-'.")
                pixels = file["coords"][:].astype(np.float64)
            self.kept_coords[bag_id] = (pixels * self.mpp_level0[bag_id]).astype(np.float32)
        return self.kept_coords[bag_id]

    def at(self, mpp: Mapping[str, float], said: str) -> "SlideFiles":
        """The same files with positions.

        Args:
            mpp: micrometres per pixel at level 0, by slide id.
            said: where it is from, for the notes.

        Raises:
            DataError: an mpp that is not that of level 0; tiles of two scales.
        """
        slides = list(self.slides.values())
        check_magnification(slides, mpp)
        scale = scale_of(slides, mpp)
        values = sorted({mpp[s] for s in self.ids if s in mpp})
        given = {"mpp_level0": values[0] if len(values) == 1 else [values[0], values[-1]]} if values else {}
        text = json.dumps([[s, mpp[s]] for s in self.ids if s in mpp])
        sizes: dict[str, Any] = {"mpp": scale.mpp, "tile_um": scale.tile_um}
        if scale.range_um is not None and scale.note:
            sizes["tile_um_range"] = list(scale.range_um)
        note = f"positions: pixels of level 0 x {said}"
        return replace(
            self,
            # a run is repeated on the same data only, and positions are data
            provenance={**self.provenance, **sizes, **given, "mpp_sha256": hashlib.sha256(text.encode()).hexdigest()},
            mpp_level0=dict(mpp),
            notes=(*self.notes, note, *filter(None, [scale.note])),
            kept_coords={},
        )

    def at_one(self, mpp: float) -> "SlideFiles":
        """The same files with positions, by one mpp at level 0 for all slides; see `at`."""
        check_mpp(mpp, str(self.provenance["folders"][0]))
        return self.at(dict.fromkeys(self.ids, mpp), f"mpp {mpp:g}, given for all slides")

    def without_positions(self) -> "SlideFiles":
        """The same files, with a note that says what is missing and which option supplies it."""
        magnification = self.provenance.get("level0_magnification")
        why = f", only a rounded level0_magnification of {_said(magnification)}" if magnification is not None else ""
        example = self.slides[self.ids[0]].path
        note = NO_MPP.format(tool=self.provenance["tool"], example=example, why=why)
        return replace(self, notes=(*self.notes, note))

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


def _said(value: Any) -> str:
    return " or ".join(f"{v:g}" for v in (value if isinstance(value, list) else [value]) if v is not None)
