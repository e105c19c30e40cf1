"""What the user says of files of other tools where those do not say it themselves."""

from dataclasses import dataclass, replace

from milkit.data.formats.header import Header, Unit
from milkit.data.where import did_you_mean
from milkit.errors import DataError

MAY_DIFFER = ("encoder", "tile", "mpp")
"""What the slides of a cohort may be allowed to differ in; never the width of their features."""
SAME = 0.01
"""Relative difference below which two sizes are one: files and scanners round."""


@dataclass(frozen=True)
class Given:
    """Facts for all slides of a cohort. What a file says itself must agree with them.

    Attributes:
        mpp: micrometres per pixel of level 0.
        tile_um: width of a tile in micrometres.
        encoder: its name; "" says nothing.
        unit: of positions, for files that do not say it: "px" of level 0, "um", "grid" (columns and rows of tiles that
            touch), "tile_px" (pixels of the tiles as the encoder saw them), "" says nothing.
        allow: what slides may differ in: "encoder", "tile", "mpp".
    """

    mpp: float | None = None
    tile_um: float | None = None
    encoder: str = ""
    unit: Unit = ""
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in self.allow:
            if word not in MAY_DIFFER:
                raise DataError(
                    f"allow={word!r}: slides of a cohort may be allowed to differ in {', '.join(MAY_DIFFER)}."
                    f"{did_you_mean(word, MAY_DIFFER)}"
                )
        if self.unit not in ("px", "um", "grid", "tile_px", ""):
            raise DataError(f"unit={self.unit!r}: positions are in 'px' of level 0, 'um', 'grid' or 'tile_px'.")
        if self.tile_um is not None and not 0 < self.tile_um < 100_000:
            raise DataError(f"tile_um={self.tile_um}; expected the width of a tile in micrometres, such as 128.")

    def on(self, slide: Header) -> Header:
        """A slide's header with these facts.

        Raises:
            DataError: the file says something else.
        """
        if self.encoder and slide.encoder is not None and slide.encoder != self.encoder:
            raise DataError(
                f"{slide.path} says encoder {slide.encoder!r}, but encoder={self.encoder!r} is given; leave it out, or "
                "give the right folder."
            )
        if self.tile_um and slide.tile_um and abs(self.tile_um - slide.tile_um) > SAME * slide.tile_um:
            raise DataError(
                f"{slide.path} says tiles of {slide.tile_um:g} um, but tile_um={self.tile_um:g} is given; leave it out."
            )
        if self.unit and slide.unit and slide.unit_said and slide.unit != self.unit:
            raise DataError(
                f"{slide.path} holds positions in {slide.unit!r}, but unit={self.unit!r} is given; leave it out."
            )
        return replace(
            slide,
            encoder=self.encoder or slide.encoder,
            # where pixels of level 0 are known they are exact, slide by slide
            tile_um=slide.tile_um or (None if slide.tile_level0_px else self.tile_um),
            unit=slide.unit if slide.unit_said and slide.unit else self.unit or slide.unit,
        )
