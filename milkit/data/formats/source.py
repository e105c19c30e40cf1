"""The slides of one tool's files as a source of features: whether they belong together, and what they share."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milkit.data.agree import check_agree
from milkit.data.formats.find import Found, layout_named
from milkit.data.formats.given import Given
from milkit.data.formats.header import Header
from milkit.data.formats.layout import Layout
from milkit.data.formats.slide_files import SlideFiles, common
from milkit.data.where import and_more
from milkit.errors import DataError


def source_of(found: Found, given: Given = Given(), patches: str = "") -> SlideFiles:  # noqa: B008 - frozen
    """The files of one tool as a source of features.

    Args:
        found: what `find` found; not stores.
        given: what the user says where files do not.
        patches: CLAM's folder of patches, where it does not lie beside the features.

    Raises:
        DataError: a slide given twice; files of two widths, encoders or tilings that are not allowed; facts that the
            files contradict.
    """
    layout = layout_named(found.layout)
    slides = found.headers
    _check_once(slides)
    if layout.placed is not None:
        slides = tuple(layout.placed(slide, patches) for slide in slides)
    elif patches:
        raise DataError(f"patches={patches!r} is for CLAM's and soma's files; these are {layout.tool}'s. Leave it out.")
    slides = tuple(given.on(slide) for slide in slides)
    width = _one("features an instance", slides, lambda slide: slide.width)
    mixed = _Mixed(slides, given.allow)
    name = mixed.one(
        "encoder", "encoder", lambda slide: slide.encoder, "give that of files that do not say it: encoder=."
    )
    for fact in layout.same:
        mixed.one("tile", fact, _said(fact))
    tile_px = {slide.tile_px for slide in slides}
    notes = [*found.notes, *mixed.notes, *_without_size(slides, layout)]
    if len(slides) > 1 and all(slide.length == 1 for slide in slides):
        notes.append(
            f"every slide of {len(slides)} has one instance: if these are features of whole slides, no model of bags "
            "has anything to learn from; give the folder of the tiles' features"
        )
    if name is None and "encoder" not in mixed.found:
        notes.append(f"the encoder is not known: {layout.tool}'s files do not name it; encoder='...' does")
    provenance: dict[str, Any] = {
        "encoder": name,
        "mpp": None,
        "tile_um": None,
        "tile_px": tile_px.pop() if len(tile_px) == 1 else None,
        "tool": layout.tool,
        "layout": layout.name,
        "folders": list(found.folders),
        **({"mixed": mixed.found} if mixed.found else {}),
        **common(slides),
    }
    source = SlideFiles(
        layout=layout,
        ids=tuple(slide.id for slide in slides),
        lengths=np.array([slide.length for slide in slides], np.int64),
        features=width,
        provenance=provenance,
        slides={slide.id: slide for slide in slides},
        said=tuple(notes),
        given=given,
    )
    return source.placed()


def _said(fact: str) -> Callable[[Header], Any]:
    return lambda slide: slide.said.get(fact)


class _Mixed:
    """Facts that slides of a cohort must share, unless the user allows that they differ."""

    def __init__(self, slides: Sequence[Header], allow: Sequence[str]) -> None:
        self.slides, self.allow = slides, allow
        self.notes: list[str] = []
        self.found: dict[str, dict[str, int]] = {}

    def one(self, allowed_as: str, what: str, value: Callable[[Header], Any], do: str = "") -> Any:
        """The common value, or None where it differs and that is allowed."""
        if allowed_as in self.allow:
            values = Counter(str(value(slide)) for slide in self.slides)
            if len(values) > 1:
                self.found[what] = dict(values)
                said = ", ".join(f"{name} ({count} slides)" for name, count in values.most_common())
                self.notes.append(f"mixed {what}, as allowed: {said}")
                return None
        advice = do or "give the files of one kind"
        return _one(what, self.slides, value, f"{advice.rstrip('.')}, or say that you mean it: allow={allowed_as!r}.")


def _one(
    what: str, slides: Sequence[Header], value: Callable[[Header], Any], do: str = "give the files of one kind."
) -> Any:
    return check_agree(what, [(_name(slide), value(slide)) for slide in slides], do)


def _name(slide: Header) -> str:
    return f"{slide.path}, {slide.key}" if slide.key else str(slide.path)


def _check_once(slides: Sequence[Header]) -> None:
    first: dict[str, Path] = {}
    for slide in slides:
        if not slide.id.isprintable() or slide.id != slide.id.strip() or not slide.id:
            raise DataError(
                f"{str(slide.path)!r}: the slide's name {slide.id!r} has blanks around it or characters that cannot be "
                "shown, so no table can name it. Rename it."
            )
        if slide.id in first:
            raise DataError(
                f"Slide {slide.id!r} is in {first[slide.id]} and in {slide.path}; a cohort holds a slide once. Leave "
                "one out, or rename it."
            )
        first[slide.id] = slide.path


def _without_size(slides: Sequence[Header], layout: Layout) -> list[str]:
    """A note on the slides whose tile size is not known, and what would supply it."""
    lack = [slide.id for slide in slides if slide.tile_level0_px is None and slide.tile_um is None]
    if not lack:
        return []
    why = layout.lacks.get("tile", f"{layout.tool}'s files do not hold it; tile_um= gives it")
    return [
        f"the tile size of {len(lack)} of {len(slides)} slides is not known ({and_more(lack[:3], len(lack))}): {why}"
    ]
