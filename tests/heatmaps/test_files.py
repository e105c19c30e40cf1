"""The files of a heat map, read back by other readers: the telling tile lies where it was cut from, to the pixel."""

import csv
import json
import xml.etree.ElementTree as ElementTree

import h5py
import numpy as np
import pytest
import tifffile
from matplotlib.path import Path as Outline
from PIL import Image

from milkit import cli
from milkit.errors import ConfigError, DataError, RunFolderError
from milkit.heatmaps import draw
from milkit.heatmaps.draw import FORMATS, Drawing, heatmap
from milkit.heatmaps.pyramid import write_pyramid
from milkit.heatmaps.slide_file import opened_slide
from milkit.slides import open_slide
from milkit.slides.tiling import slide_digest

YELLOW = np.array((253, 231, 36))


@pytest.fixture(scope="module")
def maps(home):
    """All files of one slide, as the command writes them."""
    out = home / "maps"
    arguments = ["heatmap", str(home / "run"), str(home / "slides" / "s1.png"), "--out", str(out), "--mpp", "0.5"]
    assert cli.main([*arguments, "--kind", "instance", "--contours", "0.9", "--format", *FORMATS]) == 0
    return out


def box(found):
    """First and last-plus-one column and row of what is True: left, top, right, bottom."""
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def told(made):
    """The telling tile's square in pixels of level 0."""
    x, y = made.place().tolist()
    return x, y, x + made.width, y + made.width


def under_yellow(made):
    """The colour of the telling tile: the slide there is dark, the heat map highest."""
    return np.rint((np.array((120, 60, 130)) + YELLOW) / 2)


def test_polygons_are_the_tiles_to_the_pixel(home, maps, made):
    read = json.loads((maps / "s1.geojson").read_text())
    tiles = [f for f in read["features"] if f["properties"]["objectType"] == "tile"]
    with h5py.File(home / "store.h5") as store:
        at = store["bag_ids"].asstr()[:].tolist().index("s1")
        start, end = store["offsets"][at : at + 2]
        corners = store["coords_px"][start:end]
    assert len(tiles) == len(corners)
    for tile, (x, y) in zip(tiles, corners.tolist(), strict=True):
        (ring,) = tile["geometry"]["coordinates"]
        far = made.width
        assert ring == [[x, y], [x + far, y], [x + far, y + far], [x, y + far], [x, y]]
    best = max(tiles, key=lambda f: f["properties"]["measurements"]["score"])
    assert best["properties"]["measurements"]["rank"] == 1
    assert best["properties"]["color"] == YELLOW.tolist()
    # by another way: the pixels whose middle is within the polygon are the slide's dark ones
    pixels = np.asarray(Image.open(home / "slides" / "s1.png"))
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    inside = Outline(best["geometry"]["coordinates"][0]).contains_points(np.stack([x.ravel(), y.ravel()], 1))
    np.testing.assert_array_equal(inside.reshape(x.shape), pixels[..., 0] == 120)


def test_contours_hold_the_highest_tiles(maps, made):
    read = json.loads((maps / "s1.geojson").read_text())
    contours = [f for f in read["features"] if f["properties"]["objectType"] == "annotation"]
    scores = [f["properties"]["measurements"].get("score") for f in read["features"]]
    scores = np.array([s for s in scores if s is not None])
    area = sum(f["properties"]["measurements"]["area um^2"] for f in contours)
    chosen = int((scores >= np.quantile(scores, 0.9)).sum())
    assert area == pytest.approx(chosen * (made.width * made.mpp) ** 2)
    corner = made.place() + made.width / 2
    assert any(Outline(f["geometry"]["coordinates"][0]).contains_point(corner) for f in contours)


def test_the_picture_has_the_highest_tile_in_its_place(maps, made):
    image = Image.open(maps / "s1.png")
    facts = json.loads(image.text["milkit"])
    px = facts["level0_px_per_pixel"]
    assert px == 0.5  # a small slide is enlarged
    height = round(made.size[1] / px)
    shown = np.asarray(image)[:height, : round(made.size[0] / px)]
    assert tuple(v * px for v in box((shown == under_yellow(made)).all(-1))) == told(made)
    assert facts["models"] == [f"r0f{facts['models'][0][3]}s{i}" for i in range(2)]


def test_the_pyramid_has_the_highest_tile_in_its_place(maps, made):
    with tifffile.TiffFile(maps / "s1.ome.tif") as file:
        assert file.is_ome
        xml, pixels = file.ome_metadata, file.series[0].levels[0].asarray()
    held = next(e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("Pixels"))
    assert held.get("PhysicalSizeXUnit") == "µm"
    px = float(held.get("PhysicalSizeX")) / made.mpp
    assert tuple(v * px for v in box((pixels == under_yellow(made)).all(-1))) == told(made)
    assert (pixels.shape[1] * px, pixels.shape[0] * px) == made.size
    with open_slide(maps / "s1.ome.tif") as slide:  # by tiffslide or tifffile, which find the pixel's size themselves
        assert slide.mpp == pytest.approx(px * made.mpp)
        assert slide.size_um == pytest.approx((made.size[0] * made.mpp, made.size[1] * made.mpp))


def test_levels_are_means_of_the_finest(tmp_path, made):
    Image.fromarray(np.full((1100, 2300, 3), 255, np.uint8)).save(tmp_path / "wide.png")
    scores = made.scores([1, 2], [[0, 0], [2240, 1024]], kind="gradient", label='β<&>"]]>')
    with open_slide(tmp_path / "wide.png", mpp=made.mpp) as slide:
        for name in ("wide.ome.tif", "again.ome.tif"):
            assert write_pyramid(tmp_path / name, slide, scores, "rank", 1.0, scores.legend())
    assert (tmp_path / "wide.ome.tif").read_bytes() == (tmp_path / "again.ome.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "wide.ome.tif") as file:
        image = next(e for e in ElementTree.fromstring(file.ome_metadata).iter() if e.tag.endswith("Image"))
        assert image.get("Name") == f"s1: gradient times input, for {scores.label}"
        levels = [level.asarray() for level in file.series[0].levels]
        assert file.pages[0].is_tiled
    assert [level.shape for level in levels] == [(275, 575, 3), (138, 288, 3)]
    assert box((levels[0] == YELLOW).all(-1)) == (560, 256, 575, 272)  # it reaches over the slide's border
    even = levels[0][:274, :574].astype(float).reshape(137, 2, 287, 2, 3).mean((1, 3))
    assert np.abs(levels[1][:137, :287] - even).max() <= 0.5


def test_raw_scores_are_kept(maps, made):
    with h5py.File(maps / "s1.h5") as file:
        assert file["scores"][:].argmax() == made.told
        np.testing.assert_array_equal(file["coords_px"][:], made.corners())
        np.testing.assert_allclose(file["scores_by_model"][:].mean(0), file["scores"][:], rtol=1e-6)
        facts = json.loads(file.attrs["facts"])
        scores = file["scores"][:]
    assert facts["held_out"]
    assert facts["averaged"] == "mean of raw scores"
    with open(maps / "s1.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [np.float32(r["score"]) for r in rows] == scores.tolist()
    assert rows[made.told]["rank"] == "1"
    assert (int(rows[made.told]["x_px"]), int(rows[made.told]["y_px"])) == tuple(made.place())


def test_the_page_needs_nothing_else(maps):
    text = (maps / "s1.html").read_text()
    assert "http" not in text
    assert "<script" not in text
    assert text.count(">1 of 19<") == 1
    assert text.count("data:image/jpeg") == 2 + 19  # the slide, the overlay, ten tiles above and nine below


def test_marks_are_in_every_file(home, tmp_path):
    scores, files = heatmap(
        home / "model", "s1", tmp_path, Drawing(tuple(FORMATS), contours=(0.5,)), kind="instance", seen=True,
        store=home / "store.h5", slides=home / "slides", mpp=0.5,
    )  # fmt: skip
    assert not scores.held_out
    for file in files:
        marked = Image.open(file).text["milkit"] if file.suffix == ".png" else file.read_bytes().decode("latin-1")
        assert "seen in training" in marked.lower(), file.name


def test_nothing_is_replaced_without_force(home, maps, monkeypatch):
    arguments = (home / "run", str(home / "slides" / "s1.png"), maps)
    (maps / "mine.txt").write_text("mine")
    before = {f.name: f.read_bytes() for f in maps.iterdir()}
    with pytest.raises(RunFolderError, match=r"s1\.png is there already.*--force"):
        heatmap(*arguments, kind="instance", mpp=0.5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(draw, "write_hdf5", full)
    with pytest.raises(RunFolderError, match="No space left"):
        heatmap(*arguments, kind="instance", mpp=0.5, force=True)
    assert {f.name: f.read_bytes() for f in maps.iterdir()} == before
    with pytest.raises(RunFolderError, match="No space left"):
        heatmap(*arguments[:2], home / "fresh", kind="instance", mpp=0.5)
    assert not (home / "fresh").exists()


def test_other_slides_are_refused(home, tmp_path, made):
    path = made.picture(tmp_path / "s1.png")
    scores = made.scores([1, 2], [[32, 32], [96, 32]])
    kept = {"slide": "/old/s1.png", "digest": slide_digest(path), "size_px": list(made.size)}
    for changes, mpp, match in [
        ({"slide": kept | {"digest": "0"}}, 0.5, r"cut from /old/s1\.png, and .*s1\.png differs.*--other-file"),
        ({"slide": kept | {"size_px": [9, 9]}}, 0.5, "of 9 x 9"),
        ({"xy_px": np.array([[32, 32], [400, 0]])}, 0.5, r"1 of 2 tiles .* outside .*400 x 352"),
        ({"xy_px": np.array([[-1, 32], [0, 0]])}, 0.5, "outside"),
        ({}, 0.25, r"0.25 micrometres a pixel, but .* 0.5"),
    ]:
        other = made.scores(
            scores.scores, **({"xy": scores.xy_px} | {("xy" if k == "xy_px" else k): v for k, v in changes.items()})
        )
        with pytest.raises(DataError, match=match), opened_slide(path, other, mpp):
            pass
    with opened_slide(path, made.scores([1, 2], scores.xy_px, slide=kept | {"digest": "0"}), 0.5, True) as (_, noted):
        assert "differs in name, size or time" in noted.legend()
    with opened_slide(path, made.scores([1, 2], scores.xy_px, slide=kept)) as (slide, noted):
        assert slide.mpp == 0.5  # a PNG states none
        assert "states no mpp that" in noted.legend()


def test_one_tile_and_equal_scores_are_drawn(home, tmp_path, made):
    with open_slide(home / "slides" / "s1.png", mpp=made.mpp) as slide:
        for values, xy in [([2.0], [[0, 0]]), ([1, 1, float("nan")], [[0, 0], [64, 0], [200, 10]])]:
            scores = made.scores(values, xy, label="<b>x", of_class=True)
            drawn = draw.overlay(slide, scores, "raw", 0.5)
            for form in FORMATS:
                draw._write(form, tmp_path / f"s{FORMATS[form]}", slide, scores, Drawing(contours=(0.9,)), drawn)
            features = json.loads((tmp_path / "s.geojson").read_text())["features"]
            assert len(features) == 1 + len(values)
            assert "<b>x" not in (tmp_path / "s.html").read_text()
    assert features[-1]["properties"]["measurements"] == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s99"], "no slide 's99'"),
        (["s1"], "does not say which file"),
        (["s1", "--slides", "."], "no slide 's1'"),
        (["gone/s1.png"], "no slide file gone/s1.png"),
        (["s1", "--opacity", "2"], "--opacity is 2"),
        (["s1", "--contours", "95"], "--contours 95 is no quantile"),
        (["s1", "--kind", "heat"], "invalid choice: 'heat'"),
        (["s1", "--kind", "instance", "--name", "../x"], "--name '../x' is no name"),
    ],
)
def test_mistakes_on_the_command_line(home, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    kind = [] if "--kind" in arguments else ["--kind", "instance"]
    assert cli.main(["heatmap", str(home / "run"), *arguments, *kind, "--out", "maps"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def test_a_folder_of_slides_beside_a_slide_file(home, tmp_path, capsys):
    slide = str(home / "slides" / "s1.png")
    assert cli.main(["heatmap", str(home / "run"), slide, "--slides", str(tmp_path), "--out", str(tmp_path / "m")]) == 2
    assert "--slides is for a slide that is named by its id" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_drawings_that_cannot_be(home):
    with pytest.raises(ConfigError, match="--format svg"):
        Drawing(("svg",))
    with pytest.raises(ConfigError, match="--tiles"):
        Drawing(tiles=-1)
