"""One page of a slide's heat map that needs nothing else: what was said, where, and the tiles at both ends."""

import base64
import html
from io import BytesIO

import numpy as np
from jaxtyping import Int, UInt8

from milkit.heatmaps.picture import Overlay, bar_ends, nice
from milkit.heatmaps.scores import SlideScores
from milkit.heatmaps.shown import SCALES, Scale, colour_bar, ranks
from milkit.report.css import CSS
from milkit.slides.slide import Slide

TILE_PX = 160
"""Side of a tile's picture."""
SHOWN = 12
"""Tiles of each end."""
_STYLE = """
main { max-width: 90rem; }
.map { position: relative; line-height: 0; margin: .6rem 0; }
.map img { width: 100%; height: auto; }
.map .over { position: absolute; inset: 0; }
#heat:not(:checked) ~ .map .over { display: none; }
.bar { display: flex; align-items: center; gap: .6rem; font-size: .86rem; margin: .6rem 0; }
.bar img { height: 14px; width: 16rem; }
.scale { border-bottom: 4px solid var(--ink); margin-left: auto; text-align: right; line-height: 1.3; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; }
.tiles figure { width: 160px; } .tiles img { width: 160px; height: 160px; display: block; }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title} · milkit heat map</title>
<style>
{css}</style></head><body><main>
<h1>{title}</h1>
{marks}
<p class="lead">{answer}</p>
<p>{what}. {scale}.</p>
<input type="checkbox" id="heat" checked><label for="heat"> heat map</label>
<div class="map"><img src="{plain}" alt="The slide"><img class="over" src="{over}" alt="The slide under the heat map">
</div>
<div class="bar"><span>{low}</span><img src="{bar}" alt="Colours from low to high"><span>{high}</span>
<span class="scale" style="width:{share:.3%}">{um}</span></div>
{ends}
<h2>What this is</h2>
<dl>{facts}</dl>
</main></body></html>
"""


def page(slide: Slide, scores: SlideScores, made: Overlay, scale: Scale, shown: int = SHOWN) -> str:
    """The page as text.

    Args:
        slide: that the tiles were cut from.
        scores: of its tiles.
        made: the overlay.
        scale: how scores became colours.
        shown: tiles of each end.
    """
    low, high = bar_ends(scores, scale)
    um = nice(slide.size_um[0] / 5)
    marks = "".join(
        f'<div class="notice" role="note"><strong>{html.escape(mark.capitalize())}</strong>: the models were trained '
        "or validated on this slide, so what they say of it is no prediction.</div>"
        for mark in scores.marks
    )
    facts = {**_facts(slide, scores), **{f"note {i}": note for i, note in enumerate(scores.notes, 1)}}
    return _PAGE.format(
        title=html.escape(scores.slide_id), css=CSS + _STYLE, marks=marks, answer=html.escape(_sentence(scores.answer)),
        what=html.escape(_sentence(scores.what)), scale=_sentence(SCALES[scale]), plain=_jpeg(made.plain),
        over=_jpeg(made.over), low=low, high=high, bar=_png(colour_bar()[None, :, :3].repeat(8, 0)),
        share=um / slide.size_um[0],
        um=f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} um", ends=_ends(slide, scores, shown),
        facts="".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items()),
    )  # fmt: skip


def ends_of(scores: SlideScores, shown: int) -> tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]:
    """Rows of the highest tiles, highest first, and of the lowest, lowest first; none is in both.

    Equal scores stand in the order of the features; where tiles are few, the upper end gets the odd one.
    """
    known = np.flatnonzero(np.isfinite(scores.scores))
    order = known[np.argsort(-scores.scores[known].astype(np.float64), kind="stable")]
    top = min(shown, (len(order) + 1) // 2)
    bottom = min(shown, len(order) - top)
    return order[:top], order[len(order) - bottom :][::-1]


def _ends(slide: Slide, scores: SlideScores, shown: int) -> str:
    place, out = ranks(scores), []
    for title, rows in zip(("Highest tiles", "Lowest tiles"), ends_of(scores, shown), strict=True):
        figures = []
        for row in rows.tolist():
            x, y = scores.xy_px[row].tolist()
            side = min(TILE_PX, scores.width_px)
            pixels = slide.read((x * slide.mpp, y * slide.mpp), (side, side), slide.mpp * scores.width_px / side)
            score = f"{scores.scores[row]:.4g}"
            figures.append(
                f'<figure><img src="{_jpeg(pixels)}" alt="Tile at {x}, {y}"><figcaption>{place[row]} of {len(scores)}'
                f"<br>score {score}<br>x {x}, y {y} px</figcaption></figure>"
            )
        if figures:
            out.append(f'<h2>{title}</h2>\n<div class="tiles">\n' + "\n".join(figures) + "\n</div>")
    return "\n".join(out)


def _facts(slide: Slide, scores: SlideScores) -> dict[str, str]:
    known = scores.scores[np.isfinite(scores.scores)]
    models = ", ".join(scores.models)
    return {
        "scores": scores.what + (", mean of the models' raw scores" if len(scores.models) > 1 else ""),
        "range of raw scores": f"{known.min():.6g} to {known.max():.6g}" if len(known) else "none is known",
        "models": f"{models} ({'held the slide out' if scores.held_out else 'seen in training'})",
        "of": str(scores.run) + (f", weights of selection {scores.selection}" if scores.selection else ""),
        "bag": scores.bag + (f" ({len(scores.bag_slides)} slides)" if len(scores.bag_slides) > 1 else ""),
        "tiles": f"{len(scores)} of {scores.width_px} x {scores.width_px} pixels of level 0 "
        f"({scores.width_px * scores.mpp:.4g} um)",
        "slide": f"{slide.path}, {slide.size_px[0]} x {slide.size_px[1]} pixels of {slide.mpp:.4g} um",
    }


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    return _data(pixels, "JPEG", quality=88)


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    return _data(pixels, "PNG")


def _data(pixels: UInt8[np.ndarray, "h w 3"], form: str, **how: int) -> str:
    """A picture as an address that holds it."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, form, **how)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
