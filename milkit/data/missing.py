"""Which facts some features lack, where they would stand, and which option supplies each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from milkit.data.features import FeatureSource, Joined
from milkit.data.formats.header import Header
from milkit.data.formats.slide_files import SlideFiles
from milkit.data.store import Store
from milkit.data.where import and_more


@dataclass(frozen=True)
class Missing:
    """A fact that features lack.

    Attributes:
        fact: "encoder", "mpp" (of level 0), "tile_um", "unit" (of positions) or "positions".
        where: whose, and where the tool keeps it.
        option: what supplies it on the command line; "" where nothing does.
    """

    fact: str
    where: str
    option: str

    @property
    def to_json(self) -> dict[str, str]:
        """As plain values."""
        return asdict(self)


BEGIN = {
    "encoder": ("the encoder is not known",),
    "mpp": ("positions in micrometres are not known",),
    "tile_um": ("the tile size of",),
    "unit": ("positions are not used",),
}
"""How the notes of a source begin that say the same."""


def other_notes(notes: Sequence[str], missing: Sequence[Missing]) -> list[str]:
    """The notes of a source that say more than which facts are missing."""
    said = tuple(start for fact in missing for start in BEGIN.get(fact.fact, ()))
    return [note for note in notes if not (said and note.startswith(said))]


def missing_facts(source: FeatureSource, encoder: str | None = None) -> tuple[Missing, ...]:
    """What is not known of some features.

    Args:
        source: of features.
        encoder: its name where the user said it of a store.
    """
    if isinstance(source, SlideFiles):
        return _of_files(source)
    stores = list({id(s): s for s in source.where.values()}.values()) if isinstance(source, Joined) else [source]
    found = [missing for store in stores if isinstance(store, Store) for missing in _of_store(store, encoder)]
    return tuple(found)


def _of_files(source: SlideFiles) -> tuple[Missing, ...]:
    tool, lacks = source.layout.tool, source.layout.lacks
    slides = [slide for slide in source.slides.values() if slide.length]
    found = []
    if source.provenance.get("encoder") is None and "encoder" not in source.provenance.get("mixed", {}):
        why = lacks.get("encoder", f"{tool}'s files do not name it")
        found.append(Missing("encoder", f"{_some(slides, slides)}: {why}", "--encoder NAME"))
    without = [s for s in slides if s.unit == "px" and s.id not in source.mpp_level0]
    if without:
        why = lacks.get("mpp", "positions are in pixels of level 0, without micrometres per pixel")
        option = "--mpp NUMBER, or a column mpp of the cohort table"
        found.append(Missing("mpp", f"{_some(without, slides)}: {why}", option))
    without = [s for s in slides if s.tile_level0_px is None and s.tile_um is None]
    if without:
        why = lacks.get("tile", f"{tool}'s files do not hold the size of a tile")
        option = "--patches FOLDER, or --tile-um NUMBER" if source.layout.placed is not None else "--tile-um NUMBER"
        found.append(Missing("tile_um", f"{_some(without, slides)}: {why}", option))
    without = [s for s in slides if s.unit == ""]
    if without and source.layout.positions(min(without, key=lambda s: s.length)) is not None:
        why = f"{tool}'s files do not say the unit of positions"
        found.append(Missing("unit", f"{_some(without, slides)}: {why}", "--unit px, um, grid or tile_px"))
    elif without:
        found.append(Missing("positions", f"{_some(without, slides)}: {tool}'s files hold none", ""))
    return tuple(found)


def _some(those: Sequence[Header], of: Sequence[Header]) -> str:
    """`3 of 20 slides (a.h5, b.h5 and 1 more)`."""
    files = list(dict.fromkeys(str(s.path) for s in those))
    return f"{len(those)} of {len(of)} slides ({and_more(files[:2], len(files))})"


def _of_store(store: Store, encoder: str | None) -> list[Missing]:
    found = []
    if store.provenance["encoder"] is None and not encoder:
        found.append(
            Missing("encoder", f"{store.path}: no attribute encoder", "--encoder NAME of milkit pack, into a new store")
        )
    if store.needs_mpp:
        lack = len(store) if store.mpp is None else int(np.isnan(store.mpp).sum())
        where = f"{store.path}: no slide_mpp of {lack} of {len(store)} slides, whose positions are in pixels"
        found.append(Missing("mpp", where, "--mpp NUMBER, or a column mpp of the cohort table"))
    tile = store.provenance["tile_um"] is not None or store.tile_um is not None or store.tile_level0_px is not None
    of_slides = "stacks" not in (store.provenance["extra"].get("tiling") or {})  # frames and slices have no width in um
    if not tile and of_slides:
        found.append(Missing("tile_um", f"{store.path}: no attribute tile_um", "--tile-um NUMBER"))
    if store.coords_um is None and store.coords_px is None:
        found.append(Missing("positions", f"{store.path}: it holds none", ""))
    return found
