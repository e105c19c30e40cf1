"""`milkit tile` from end to end: images as slides, broken ones among them."""

import json
import os

import numpy as np
import pytest
from fake_slides import PINK, glass
from PIL import Image

from milkit.cli import main
from milkit.slides.tile_slides import slide_id_of
from milkit.slides.tiles import read_tiles

OPTIONS = ["--tile-um", "100", "--tile-px", "64", "--mpp", "2"]


def slide(path, tissue=(slice(50, 150), slice(50, 200)), size=(200, 300)):
    """A PNG of 300 x 200 pixels (of 2 um: 600 x 400 um), tissue from (100, 100) to (400, 300) um."""
    rgb = glass(*size)
    rgb[tissue] = PINK
    Image.fromarray(rgb).save(path)
    return path


@pytest.fixture
def slides(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    slide(folder / "a.png")
    slide(folder / "b ü.png", (slice(0, 200), slice(0, 300)))
    return folder


def tile(*arguments):
    return main(["tile", *map(str, arguments), *OPTIONS])


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_a_folder_of_slides(slides, tmp_path, capsys):
    out = tmp_path / "out"
    assert tile(slides, "--out", out) == 0
    assert capsys.readouterr().out.splitlines() == ["a: 6 tiles", "b ü: 24 tiles", f"{out}: 2 of 2 slides, 30 tiles"]
    a = read_tiles(out, "a")
    assert a.xy_px.tolist() == [[50, 50], [100, 50], [150, 50], [50, 100], [100, 100], [150, 100]]
    assert a.xy_um.tolist() == (a.xy_px * 2).tolist()
    assert (a.facts["width_px"], a.facts["tile_px"], a.facts["size_px"]) == (50, 64, [300, 200])
    assert (out / "a.csv").read_text().splitlines()[0] == "x_px,y_px,x_um,y_um,tissue,blur,pen,fold"
    page = (out / "qc" / "b ü.html").read_text()
    assert "24 tiles kept" in page
    assert 'src="b%20%C3%BC.png"' in page
    picture = np.array(Image.open(out / "qc" / "a.png"))
    assert picture.shape == (400, 600, 3)
    assert (picture == (20, 60, 220)).all(2).sum() > 500  # frames of tiles


def test_again_is_kept_and_otherwise_refused(slides, tmp_path, capsys):
    out = tmp_path / "out"
    tile(slides, "--out", out)
    before, times = contents(out), [p.stat().st_mtime_ns for p in sorted(out.iterdir())]
    assert tile(slides, "--out", out) == 0
    assert "a: 6 tiles (kept as they were)" in capsys.readouterr().out
    assert [p.stat().st_mtime_ns for p in sorted(out.iterdir())] == times
    assert tile(slides, "--out", out, "--tissue", "0.1") == 2
    assert "tissue was 0.5, now 0.1" in capsys.readouterr().err
    assert contents(out) == before
    assert tile(slides, "--out", out, "--tissue", "0.1", "--force") == 0
    assert len(read_tiles(out, "a")) == 6
    tile(slides, "--out", out, "--force")
    assert contents(out) == before  # the same bytes
    assert main(["tile", str(slides), "--out", str(out), *OPTIONS[:4]]) == 0  # the mpp is known by now
    assert main(["tile", str(slides), "--out", str(out), *OPTIONS[:4], "--mpp", "1.5"]) == 2
    assert "mpp was 2.0, now 1.5" in capsys.readouterr().err
    os.utime(slides / "a.png", ns=(1, 1))
    assert tile(slides, "--out", out) == 2
    assert "is of another file" in capsys.readouterr().err


def test_a_damaged_table_is_made_again(slides, tmp_path):
    out = tmp_path / "out"
    tile(slides, "--out", out)
    before = contents(out)
    (out / "a.csv").write_text("x_px")
    (out / "b ü.json").unlink()
    assert tile(slides, "--out", out) == 0
    assert contents(out) == before


def test_broken_slides_are_named_and_the_others_go_on(slides, tmp_path, capsys):
    whole = (slides / "a.png").read_bytes()
    (slides / "empty.svs").write_bytes(b"")
    (slides / "half.png").write_bytes(whole[: len(whole) // 2])
    (slides / "text.tif").write_bytes(b"no slide" * 100)
    out = tmp_path / "out"
    assert tile(slides, "--out", out) == 1
    said = capsys.readouterr()
    for name in ("empty", "half", "text"):
        assert f"{name}: failed: " in said.err
        assert not (out / f"{name}.json").exists()
        assert not (out / f"{name}.csv").exists()
    assert "2 of 5 slides, 30 tiles" in said.out
    assert len(read_tiles(out, "b ü")) == 24


def test_links_that_lead_nowhere_are_named_and_hidden_files_are_not(slides, tmp_path, capsys):
    (slides / "gone.svs").symlink_to(tmp_path / "not mounted.svs")
    (slides / "loop.svs").symlink_to(slides / "loop.svs")
    (slides / "._a.png").write_bytes(b"\0\5\x16\7")  # macOS writes such files beside others
    assert tile(slides, "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "gone: failed" in said.err
    assert "loop: failed" in said.err
    assert "2 of 4 slides, 30 tiles" in said.out


def test_tiles_that_cannot_be_written(slides, tmp_path, capsys, monkeypatch):
    """The slide is not blamed, what was finished is kept, and there is no half of a manifest."""
    out = tmp_path / "out"
    (tmp_path / "file").touch()
    assert tile(slides, "--out", tmp_path / "file", "--force") == 2
    assert "cannot be written to: File exists" in capsys.readouterr().err
    from milkit.slides import tiles as of_tiles

    real, full = of_tiles.write_beside, []

    def write_beside(path, data):
        if path.name == "b ü.csv" and full:
            raise OSError(28, "No space left on device")
        return real(path, data)

    full.append(True)
    monkeypatch.setattr(of_tiles, "write_beside", write_beside)
    assert tile(slides, "--out", out) == 2
    assert f"{out} cannot be written to: No space left" in capsys.readouterr().err
    assert sorted(contents(out)) == ["a.csv", "a.json"]
    full.clear()
    assert tile(slides, "--out", out) == 0


def test_a_name_that_is_too_long_for_a_manifest(slides, tmp_path, capsys):
    slide(slides / f"{'x' * 250}.png")
    assert tile(slides, "--out", tmp_path / "out", "--no-page") == 1
    said = capsys.readouterr()
    assert "File name too long; rename it" in said.err
    assert "2 of 3 slides" in said.out


def test_without_mpp_it_is_asked_for(slides, tmp_path, capsys):
    assert main(["tile", str(slides / "a.png"), "--out", str(tmp_path / "o"), *OPTIONS[:4]]) == 1
    assert "--mpp" in capsys.readouterr().err
    assert not list((tmp_path / "o").iterdir())


def test_a_cohort_table_says_which_slides_and_their_mpp(slides, tmp_path, capsys):
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,label,mpp\nb ü.png,1,4\na,0,2\nlost,1,2\n")
    slide(slides / "c.png")
    command = ["tile", slides, "--cohort", table, "--out", tmp_path / "o", *OPTIONS[:4]]
    for tiles in ("a: 6 tiles", "a: 6 tiles (kept as they were)"):
        assert main([*map(str, command)]) == 1
        said = capsys.readouterr()
        assert said.out.splitlines()[1:] == [tiles, f"{tmp_path / 'o'}: 2 of 3 slides, 102 tiles"]
        assert "lost: failed" in said.err
    assert [read_tiles(tmp_path / "o", name).facts["mpp"] for name in ("a", "b ü")] == [2, 4]
    table.write_text("slide_id,mpp\na,\nc,2\n")
    assert main([*map(str, [*command[:-5], tmp_path / "p", *OPTIONS[:4]])]) == 1
    assert "a: failed" in capsys.readouterr().err  # an empty cell: as the file says, and a PNG says nothing


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png", "a.png"], "listed twice"),
        ([".", "a.png"], "listed twice"),
        (["a.png", "other/a.jpg"], "Two slides are named 'a'"),
        (["none.svs"], "There is no slide"),
        (["other/empty"], "holds no slide"),
        (["a.png", "--overlap-um", "100"], "--overlap-um is 100.0"),
        (["a.png", "--workers", "0"], "--workers is 0"),
        (["a.png", "--include", "Tumor"], "give --mask too"),
        ([".", "--mask", "m.geojson"], "one file, but there are 2 slides"),
        (["a.png", "--mask", "m.geojson"], "There is no mask"),
        (["a.png", "--tiles", "3"], "milkit tile --help"),
        (["a.png", "--least-blur", "nan"], "--least-blur is nan"),
        (["a.png", "--most-fold", "nan"], "--most-fold is nan"),
        (["a.png", "--most-fold", "1.5"], "from 0 to 1"),
        (["a.png", "--saturation", "nan"], "--saturation is nan"),
        (["a.png", "--saturation", "300"], "0 to 255"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(slides, tmp_path, capsys, monkeypatch, arguments, said):
    (slides / "other" / "empty").mkdir(parents=True)
    slide(slides / "other" / "a.jpg")
    monkeypatch.chdir(slides)
    assert tile(*arguments, "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_tissue_and_one_tile(tmp_path, capsys):
    slide(tmp_path / "glass.png", (slice(0, 0), slice(0, 0)))
    slide(tmp_path / "tiny.png", (slice(0, 40), slice(0, 40)), (40, 40))  # 80 um: 0.64 of a tile
    assert tile(tmp_path / "glass.png", tmp_path / "tiny.png", "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "warning: no tile of glass" in said.err
    assert len(read_tiles(tmp_path / "out", "glass")) == 0
    assert "No tile was kept" in (tmp_path / "out" / "qc" / "glass.html").read_text()
    # less tissue than counts as a piece; with a mask that covers it, it is one tile
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(tmp_path / "mask.png")
    mask = ["--mask", tmp_path / "mask.png", "--no-blur"]
    assert tile(tmp_path / "tiny.png", "--out", tmp_path / "one", *mask) == 0
    one = read_tiles(tmp_path / "one", "tiny")
    assert one.xy_px.tolist() == [[0, 0]]
    np.testing.assert_allclose(one.tissue, [0.64], atol=1e-4)
    assert np.isnan(one.blur).all()


def test_a_mask_says_what_is_tissue(slides, tmp_path, capsys):
    square = {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]}
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps(square))
    out = tmp_path / "out"
    assert tile(slides, "--out", out, "--mask", tmp_path / "masks") == 1
    assert "b ü: failed: The folder of masks" in capsys.readouterr().err
    assert read_tiles(out, "a").xy_px.tolist() == [[0, 0], [50, 0], [0, 50], [50, 50]]
    both = tmp_path / "both"
    tile(slides / "a.png", "--out", both, "--mask", tmp_path / "masks", "--and-tissue")
    assert read_tiles(both, "a").xy_px.tolist() == [[50, 50]]


def test_names_of_slides(tmp_path):
    names = ["a.svs", "a.ome.tif", "TCGA-1.2.svs", "b", "c.OME.TIFF", "d.ome"]
    assert [slide_id_of(tmp_path / n) for n in names] == ["a", "a", "TCGA-1.2", "b", "c", "d"]


@pytest.mark.slow
def test_several_processes_write_the_same(slides, tmp_path):
    assert tile(slides, "--out", tmp_path / "one") == 0
    assert tile(slides, "--out", tmp_path / "two", "--workers", "2") == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_two_real_slides(shared, tmp_path, capsys):
    folder = shared / "data" / "wsi"
    arguments = ["tile", str(folder), "--out", str(tmp_path), "--tile-um", "128", "--tile-px", "256", "--no-blur"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "tcga-cr-7395-01a-01-ts1: failed" in said.err
    assert "--mpp" in said.err
    tiles = read_tiles(tmp_path, "cmu-1-small-region")
    assert tiles.facts["mpp"] == 0.499
    assert 28 <= len(tiles) <= 36  # 32 when looked at
    assert tiles.pen.max() == 0
