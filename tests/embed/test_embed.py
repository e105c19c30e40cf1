"""`milkit embed` from end to end: what a store holds, and what bad input comes to."""

import json
import os
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image
from slide_files import picture, write

from milkit.cli import main
from milkit.data.pack.journal import alone
from milkit.data.store import open_store
from milkit.slides.tiles import read_tiles


def test_a_store_of_two_slides(cohort, expected, capsys):
    capsys.readouterr()
    assert cohort.embed() == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["a: 600 tiles", "b ü: 300 tiles", f"{cohort.out}: 2 of 2 slides, 900 tiles x 9 features"]
    assert "the encoder was busy" in said[4]
    store = open_store(cohort.out)
    store.validate(deep=True)
    assert store.ids == ("a", "b ü")
    assert store.lengths.tolist() == [600, 300]
    for name in store.ids:
        bag, tiles = store.read(name), read_tiles(cohort.tiles, name)
        np.testing.assert_array_equal(bag.coords_px, tiles.xy_px)
        np.testing.assert_array_equal(bag.coords_um, (tiles.xy_px * 2).astype(np.float32))
        by_hand = expected(cohort.folder / f"{name}.png", tiles.xy_px)
        np.testing.assert_array_equal(bag.x, by_hand.astype(np.float16))
        assert (bag.mpp, bag.tile_um) == (2.0, 20.0)
    facts = store.provenance
    assert (facts["encoder"], facts["tile_um"], facts["tile_px"], facts["mpp"]) == ("own_encoder:encode", 20.0, 8, 2.5)
    assert facts["extra"]["encoder"]["width"] == 9
    assert facts["extra"]["tiling"]["overlap_um"] == 0
    assert store.tile_level0_px.tolist() == [10.0, 10.0]
    with h5py.File(cohort.out) as file:
        lines = [json.loads(line) for line in file["slides"].asstr()]
    manifest = json.loads((cohort.tiles / "b ü.json").read_text())
    assert lines[1] == {
        "slide": str(cohort.folder / "b ü.png"), "digest": manifest["digest"], "size_px": [150, 200], "width_px": 10,
        "mpp": 2.0, "tiles_sha256": manifest["sha256"],
    }  # fmt: skip
    assert not list(cohort.root.glob(".*"))


def test_the_table_decides_order_and_neighbours_decide_no_bits(cohort):
    cohort.embed()
    table = cohort.root / "other.csv"
    table.write_text("filename,label\nb ü.png,1\na.png,0\n", "utf-8")  # of paths: the names are the ids
    other = cohort.root / "other.h5"
    assert cohort.embed(table=table, out=other) == 0
    both, turned = open_store(cohort.out), open_store(other)
    assert turned.ids == ("b ü", "a")
    for name in both.ids:
        assert turned.read(name).x.tobytes() == both.read(name).x.tobytes()
    for dtype in ("float32", "bfloat16"):
        assert cohort.embed("--dtype", dtype, out=cohort.root / f"{dtype}.h5") == 0
        assert open_store(cohort.root / f"{dtype}.h5").dtype == dtype


def test_again_is_kept_and_otherwise_refused(cohort, capsys):
    cohort.embed()
    before, time = cohort.out.read_bytes(), cohort.out.stat().st_mtime_ns
    assert cohort.embed() == 0
    assert "was there already, as asked for" in capsys.readouterr().out
    assert cohort.embed("--dtype", "float32") == 2
    assert "is there already, and is not what this command makes" in capsys.readouterr().err
    assert (cohort.out.read_bytes(), cohort.out.stat().st_mtime_ns) == (before, time)
    assert cohort.embed("--dtype", "float32", "--overwrite") == 0
    assert open_store(cohort.out).dtype == np.float32
    cohort.out.write_bytes(b"something else")
    assert cohort.embed() == 2
    assert cohort.out.read_bytes() == b"something else"


def test_slides_that_cannot_be_are_named_and_mended_ones_come_in(cohort, capsys):
    cohort.embed()
    whole = cohort.out.read_bytes()
    cohort.out.unlink()
    away = cohort.root / "away"
    away.mkdir()
    shutil.move(cohort.folder / "a.png", away)  # a move keeps the time
    assert cohort.embed() == 1
    said = capsys.readouterr()
    assert "a: failed: Its file" in said.err
    assert "(--slides)" in said.err
    assert "1 of 2 slides, 300 tiles" in said.out
    assert open_store(cohort.out).ids == ("b ü",)
    assert open_store(cohort.out).provenance["extra"]["left_out"] == ["a"]
    assert cohort.embed() == 1  # again, and what is there is no hindrance
    shutil.move(cohort.folder / "b ü.png", away)
    capsys.readouterr()
    assert cohort.embed("--slides", away) == 0
    assert "b ü: 300 tiles (all of them encoded before)" in capsys.readouterr().out
    assert cohort.out.read_bytes() == whole
    assert not list(cohort.root.glob(".*"))


def test_files_that_are_not_those_that_were_tiled(cohort, capsys):
    os.utime(cohort.folder / "a.png", ns=(1, 1))
    cohort.table.write_text("slide_id,mpp\na,2\nb ü,0.5\nnone,\n", "utf-8")
    assert cohort.embed() == 2
    said = capsys.readouterr().err
    assert "a: failed: " in said
    assert "cp -p" in said
    assert "b ü: failed: It was tiled at an mpp of 2, and the table says 0.5" in said
    assert "none: failed: " in said
    assert "holds no tiles of it" in said
    assert "None of the 3 slides could be embedded" in said
    assert not cohort.out.exists()


def test_a_column_says_where_slides_are(cohort):
    shutil.move(cohort.folder, cohort.root / "moved")
    cohort.table.write_text("slide_id,slide_path\na,moved/a.png\nb ü,moved/b ü.png\n", "utf-8")
    assert cohort.embed() == 0


def test_no_tile_and_one_tile(cohort, capsys):
    Image.fromarray(np.full((200, 300, 3), 240, np.uint8)).save(cohort.folder / "blank.png")
    Image.fromarray(picture(7, 7)).save(cohort.folder / "one.png")
    cohort.tile(cohort.folder / "one.png")
    some = ["--tile-um", "20", "--tile-px", "8", "--mpp", "2"]
    main(["tile", str(cohort.folder / "blank.png"), "--out", str(cohort.tiles), *some])
    cohort.table.write_text("slide_id\none\nblank\n")
    assert cohort.embed() == 1
    assert "blank: failed: it has no tiles (no tissue was found)" in capsys.readouterr().err
    assert open_store(cohort.out).ids == ("one",)
    assert open_store(cohort.out).lengths.tolist() == [1]


def test_a_slide_that_is_damaged_in_its_middle(cohort, capsys):
    path = write(cohort.folder / "damaged.tif", picture(), compression="zlib")
    cohort.tile(path)
    stat, raw = path.stat(), bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 3000] = bytes(3000)
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # so that it seems to be the one that was tiled
    cohort.table.write_text("slide_id\ndamaged\na\n")
    assert cohort.embed() == 1
    assert "damaged: failed: " in capsys.readouterr().err
    assert open_store(cohort.out).ids == ("a",)


@pytest.mark.parametrize(
    ("encoder", "more", "status", "said"),
    [
        ("own_encoder:broken", [], 2, "ZeroDivisionError: of mine"),
        ("own_encoder:sided", [], 2, "--tile-px 32"),
        ("own_encoder:infinite", [], 2, "not finite"),
        ("own_encoder:huge", [], 2, "dtype='float32'"),
        ("own_encoder:encode", ["--workers", "0"], 2, "--workers is 0"),
        ("own_encoder:encode", ["--slides", "nowhere"], 2, "There is no folder nowhere"),
        ("own_encoder:encode", ["--tiles", "nowhere"], 2, "There is no folder nowhere of tiles"),
        ("own_encoder:encode", ["--tile-px", "8"], 2, "milkit embed --help"),
        ("efficientnet_lite0", [], 2, "--weights FILE"),
    ],
)
def test_mistakes_are_told(cohort, capsys, encoder, more, status, said):
    assert cohort.embed(*more, encoder=encoder) == status
    found = capsys.readouterr()
    assert said in found.err
    assert "Traceback" not in found.err
    assert not cohort.out.exists()
    assert not list(cohort.root.glob(".*"))  # nothing is left of what came to nothing


def test_a_slide_listed_twice(cohort, capsys):
    cohort.table.write_text("slide_id\na\nb ü\na\n", "utf-8")
    assert cohort.embed() == 2
    assert "line 4: slide 'a'" in capsys.readouterr().err


def test_a_slide_listed_with_and_without_its_ending(cohort, capsys):
    cohort.table.write_text("slide_id\na\na.png\n")
    assert cohort.embed() == 2
    assert "The slide 'a' is listed twice" in capsys.readouterr().err
    assert not cohort.out.exists()


def test_tiles_of_two_widths_are_refused(cohort, capsys):
    main(["tile", str(cohort.folder / "a.png"), "--out", str(cohort.tiles), "--mpp", "2", "--tile-um", "40",
          "--tile-px", "8", "--force", "--no-page"])  # fmt: skip
    assert cohort.embed() == 2
    assert "'b ü' has tile_um 20, and 'a' 40" in capsys.readouterr().err


def test_a_second_process_is_kept_out(cohort, capsys):
    with alone(cohort.root / ".store.h5.embed", ""):
        assert cohort.embed() == 2
    assert "Another milkit embed is writing" in capsys.readouterr().err
    assert cohort.embed() == 0


def test_the_real_slide_by_efficientnet_lite0(cohort, shared, capsys):
    from milkit.encoders import load_encoder
    from milkit.slides import open_slide

    slide = shared / "data" / "wsi" / "cmu-1-small-region.svs"
    weights = shared / "data" / "weights" / "efficientnet_lite0_imagenet_f16.npz"
    tiles, table = cohort.root / "real", cohort.root / "real.csv"
    some = ["--tile-um", "256", "--tile-px", "224", "--no-blur", "--no-page"]
    assert main(["tile", str(slide), "--out", str(tiles), *some]) == 0
    table.write_text("slide\ncmu-1-small-region.svs\n")
    arguments = ["embed", table, "--tiles", tiles, "--encoder", "efficientnet_lite0", "--weights", weights]
    assert main([str(a) for a in [*arguments, "--out", cohort.out, "--dtype", "float32", "--batch", "4"]]) == 0
    bag, facts = open_store(cohort.out).read("cmu-1-small-region"), read_tiles(tiles, "cmu-1-small-region").facts
    assert len(bag.x) > 4
    encoder = load_encoder("efficientnet_lite0", weights, batch=4)
    with open_slide(slide) as opened:
        for number in (0, 2, len(bag.x) - 1):  # to the bit, wherever in a batch of this size the tile was
            corner = tuple((bag.coords_px[number] * facts["mpp"]).tolist())
            tile = opened.read(corner, (224, 224), 256 / 224)
            np.testing.assert_array_equal(encoder.encode(tile[None])[0], bag.x[number])
