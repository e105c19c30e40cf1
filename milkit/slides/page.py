"""A page to look at: the slide, the outline of what was taken for tissue or ink, and the tiles that were kept."""

import html
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from milkit.slides.tiles import Tiles, write_beside
from milkit.slides.tissue import TissueMap

FOLDER = "qc"
LONGEST = 1600
"""Of the picture, in pixels; tiles of 128 um are then about 13 pixels wide on a slide of 16 mm."""
ENLARGED = 8
"""How much a small slide's thumbnail is enlarged at most."""
TISSUE, INK, FOLD, TILE = (0, 140, 0), (220, 0, 0), (230, 150, 0), (20, 60, 220)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 sans-serif;margin:2em auto;max-width:1640px;padding:0 1em}}
img{{max-width:100%;border:1px solid #bbb}}td{{padding:.1em 1.5em .1em 0;vertical-align:top}}
.key{{display:inline-block;width:1em;height:1em;
vertical-align:-.15em;margin:0 .3em 0 1em}}</style></head><body>
<h1>{title}</h1>
<p><strong>{verdict}</strong></p>
<p>{legend}</p>
<img src="{image}" alt="Thumbnail with the outline of tissue and the kept tiles">
<table>{rows}</table>
</body></html>
"""


def write_page(folder: Path, slide_id: str, tiles: Tiles, found: TissueMap) -> Path:
    """Write FOLDER/qc/NAME.png and NAME.html; returns the page."""
    from io import BytesIO

    from PIL import Image

    pages = folder / FOLDER
    pages.mkdir(parents=True, exist_ok=True)
    data = BytesIO()
    Image.fromarray(picture(tiles, found)).save(data, "PNG", compress_level=3)
    page = pages / f"{slide_id}.html"
    for path, content in [(pages / f"{slide_id}.png", data.getvalue()), (page, _text(slide_id, tiles, found).encode())]:
        os.replace(write_beside(path, content), path)
    return page


def picture(tiles: Tiles, found: TissueMap) -> UInt8[np.ndarray, "h w 3"]:
    """The thumbnail, at most `LONGEST` pixels, with outlines of tissue, ink and folds, and frames of tiles."""
    from PIL import Image, ImageDraw

    height, width = found.rgb.shape[:2]
    scale = min(LONGEST / max(height, width), ENLARGED)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(found.rgb).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image, "RGBA")
    px_um = np.array([found.px_um[0] * width / size[0], found.px_um[1] * height / size[1]])
    wide = float(tiles.facts["width_px"]) * float(tiles.facts["mpp"])
    for x, y in tiles.xy_um.tolist():
        x0, y0, x1, y1 = x / px_um[0], y / px_um[1], (x + wide) / px_um[0], (y + wide) / px_um[1]
        if x1 - x0 >= 4:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(*TILE, 255), fill=(*TILE, 28))
        else:  # frames would be all there is to see
            draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), fill=(*TILE, 60))
    out = np.array(image)
    for mask, colour in [(found.tissue, TISSUE), (found.fold, FOLD), (found.ink, INK)]:
        out[outline(mask, (size[1], size[0]))] = colour
    return out


def outline(mask: Bool[np.ndarray, "H W"], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The border of a mask, two pixels wide, at another size."""
    from milkit.slides.tissue import resampled

    scaled = resampled(mask, shape)
    return scaled & ~ndimage.binary_erosion(scaled, iterations=2, border_value=0)


def _text(slide_id: str, tiles: Tiles, found: TissueMap) -> str:
    facts = tiles.facts
    colours = [(TISSUE, "tissue"), (INK, "ink"), (FOLD, "fold"), (TILE, f"kept tiles ({len(tiles)})")]
    keys = (f'<span class="key" style="background:rgb{colour}"></span>{name}' for colour, name in colours)
    threshold = facts["saturation_threshold"]
    mask = facts["settings"]["mask"]
    rows = {
        "file": facts["slide"],
        "size": f"{facts['size_px'][0]} x {facts['size_px'][1]} pixels of {facts['mpp']:g} um",
        "tiles": f"{facts['tile_um']:g} um as {facts['tile_px']} pixels, overlap {facts['overlap_um']:g} um; "
        f"{facts['width_px']} pixels of level 0",
        "kept": f"{len(tiles)} with a share of tissue of {facts['settings']['tissue']:g} or more",
        "tissue": f"{found.tissue.mean():.1%} of the slide; ink {found.ink.mean():.1%}; folds {found.fold.mean():.1%}",
        "looked at": f"{found.px_um[0]:.2f} um a pixel",
        "tissue by": mask or "",
        "saturation above": "" if threshold is None else f"{threshold:g} of 255",
        "blur": _spread(tiles.blur),
        "notes": "; ".join(facts["notes"]),
    }
    cells = (f"<tr><td>{k}</td><td>{html.escape(v)}</td></tr>" for k, v in rows.items() if v)
    verdict = f"{len(tiles)} tiles kept." if len(tiles) else "No tile was kept: no tissue was found."
    return _PAGE.format(
        title=html.escape(slide_id), verdict=verdict, legend="".join(keys), image=quote(f"{slide_id}.png"),
        rows="".join(cells),
    )  # fmt: skip


def _spread(blur: np.ndarray) -> str:
    """Median and the middle nine tenths of the variance of the Laplacian."""
    known = blur[np.isfinite(blur)]
    if not len(known):
        return ""
    low, middle, high = np.percentile(known, [5, 50, 95])
    return f"variance of the Laplacian: median {middle:.1f}, 5th to 95th percentile {low:.1f} to {high:.1f}"
