"""Slides of a few hundred small tiles, tiled, and the command that embeds them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from slide_files import picture

from milkit.cli import main

HERE = Path(__file__).parent
TILING = ["--tile-um", "20", "--tile-px", "8", "--mpp", "2", "--tissue", "0", "--no-blur", "--no-page"]


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """Slides `a` (600 tiles) and `b ü` (300) in a folder, their tiles, a table, and `embed(...)`."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "slides"
    folder.mkdir()
    for name, width, seed in (("a", 300, 0), ("b ü", 150, 1)):
        Image.fromarray(picture(width, 200, seed)).save(folder / f"{name}.png")
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id\na\nb ü\n", "utf-8")
    tiles, out = tmp_path / "tiles", tmp_path / "store.h5"

    def tile(*arguments):
        return main(["tile", *map(str, arguments or [folder]), "--out", str(tiles), *TILING])

    def embed(*more, table=table, encoder="own_encoder:encode", out=out):
        arguments = ["embed", table, "--tiles", tiles, "--encoder", encoder, "--out", out, "--batch", "8", *more]
        return main([str(a) for a in arguments])

    assert tile() == 0
    yield SimpleNamespace(folder=folder, tiles=tiles, table=table, out=out, tile=tile, embed=embed, root=tmp_path)
    sys.modules.pop("own_encoder", None)


@pytest.fixture
def expected():
    """Features of a slide's tiles by a plain loop over its pixels: 10 x 10 pixels of the slide, made 8 x 8."""
    from own_encoder import encode

    from milkit.slides import open_slide

    def by_hand(path, xy_px):
        with open_slide(path, mpp=2.0) as slide:
            tiles = [slide.read((x * 2.0, y * 2.0), (8, 8), 2.5) for x, y in xy_px.tolist()]
        return np.concatenate([encode(tile[None]) for tile in tiles])

    return by_hand
