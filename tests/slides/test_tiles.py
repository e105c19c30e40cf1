"""The grid and the manifest: corners that published code gave, shares of polygons, what is written and read back."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from fake_slides import PINK, FakeSlide, glass

from milkit.errors import ConfigError, DataError
from milkit.slides import tiles as manifests
from milkit.slides.grid import context_corners, grid_of
from milkit.slides.masks import rasterise
from milkit.slides.tiles import read_tiles, table_of, write_tiles
from milkit.slides.tiling import Tiling, tiles_of
from milkit.slides.tissue import shares

SIZE, MPP = (2220, 2967), 0.499


@pytest.fixture(scope="module")
def trident(shared):
    return np.load(shared / "parity/pixel/trident_patching.npz", allow_pickle=False)


def all_corners(grid):
    row, column = np.divmod(np.arange(grid.rows * grid.columns), grid.columns)
    return grid.corners(row, column)


@pytest.mark.parametrize(
    ("case", "mpp", "tile_um", "overlap_um"),
    [
        ("grid_all", MPP, 256 * MPP, 0.0),
        ("grid_overlap", MPP, 256 * MPP, 64 * MPP),
        ("grid_mpp1", MPP, 256.0, 0.0),
        ("grid_mag10", 0.5, 100.0, 0.0),
        ("grid_odd", MPP, 224 * 0.7, 30 * 0.7),
    ],
)
def test_corners_are_those_of_published_code(trident, case, mpp, tile_um, overlap_um):
    np.testing.assert_array_equal(all_corners(grid_of(SIZE, mpp, tile_um, overlap_um)), trident[f"out/{case}/coords"])


@pytest.mark.parametrize(
    ("case", "tile_um", "overlap_px", "least"),
    [("polys_t0.1", 256 * MPP, 0, 0.1), ("polys_t0.5", 256 * MPP, 0, 0.5), ("polys_mpp1_t.25", 256.0, 0, 0.25),
     ("polys_overlap_t.5", 256 * MPP, 128, 0.5)],
)  # fmt: skip
def test_tiles_kept_within_polygons_are_those_of_published_code(trident, case, tile_um, overlap_px, least):
    mask = np.zeros((SIZE[1] // 2, SIZE[0] // 2), bool)  # of two pixels of level 0
    for i in (0, 1):
        rings = [trident[k] / 2 for k in trident.files if k.startswith(f"in/polys/{i}/")]
        where, inside = rasterise(rings, mask.shape)
        mask[where] |= inside
    grid = grid_of(SIZE, MPP, tile_um, overlap_px * MPP)
    x, y = (np.arange(n) * float(grid.step_px) for n in (grid.columns, grid.rows))
    found = shares(mask, (2.0, 2.0), x, y, float(grid.width_px))
    row, column = np.nonzero(found >= least)
    np.testing.assert_array_equal(grid.corners(row, column), trident[f"out/{case}/coords"])


def test_wider_tiles_have_the_same_centre():
    corners = np.array([[0, 0], [512, 256]])
    for scale in (2, 3, 4):
        wider = context_corners(corners, 256, scale)
        np.testing.assert_array_equal(wider + scale * 256 / 2, corners + 128)
    np.testing.assert_array_equal(context_corners(corners, 257, 2) + 257, corners + 128)  # of 128.5


def test_tiles_that_do_not_move_are_refused():
    with pytest.raises(ConfigError, match="move by 0 pixels"):
        grid_of(SIZE, 1.0, 100.0, 99.9)
    for wrong in [{"overlap_um": 128.0}, {"tile_um": 0.0}, {"tissue": 1.5}, {"tile_px": 0}, {"scales": (0,)}]:
        with pytest.raises(ConfigError, match="expected"):
            Tiling(**wrong)


def part(tiles, rows):
    names = ("xy_px", "xy_um", "tissue", "blur", "pen", "fold")
    return replace(tiles, **{name: getattr(tiles, name)[rows] for name in names}, context={})


def slide_with_tissue(tmp_path, name="a b é"):
    """1000 x 800 px of 1 um; tissue from (200, 100) to (600, 500), one thumbnail pixel 10 um."""
    rgb = glass(80, 100)
    rgb[10:50, 20:60] = PINK
    path = tmp_path / f"{name}.svs"
    path.write_bytes(b"pixels")
    return FakeSlide(path, rgb, (1000, 800), 1.0)


def test_the_tiles_of_a_slide_by_hand(tmp_path):
    tiles, found = tiles_of(slide_with_tissue(tmp_path), "a", Tiling(200.0, 100, tissue=0.49, scales=(1, 2)))
    # squares of 200 um: full from x 200 and 400, y 200; half at y 0 and y 400, where 100 of 200 rows are tissue
    expected = [[200, 0], [400, 0], [200, 200], [400, 200], [200, 400], [400, 400]]
    assert tiles.xy_px.tolist() == expected
    np.testing.assert_allclose(tiles.tissue, [0.5, 0.5, 1, 1, 0.5, 0.5], atol=0.01)  # smoothing rounds corners
    assert tiles.tissue[2] == 1
    np.testing.assert_array_equal(tiles.context[2], np.array(expected) - 100)
    assert found.px_um == (10.0, 10.0)
    assert np.isfinite(tiles.blur).all()
    full, _ = tiles_of(slide_with_tissue(tmp_path), "a", Tiling(200.0, 100, tissue=1.0))
    assert full.xy_px.tolist() == [[200, 200], [400, 200]]
    every, _ = tiles_of(slide_with_tissue(tmp_path), "a", Tiling(200.0, 100, tissue=0.0))
    assert len(every) == 5 * 4


def test_a_manifest_is_read_back_as_it_was(tmp_path):
    tiles, _ = tiles_of(slide_with_tissue(tmp_path), "a b é", Tiling(90.0, 64, overlap_um=30.0, scales=(1, 2, 4)))
    assert len(tiles) > 10
    write_tiles(tmp_path / "out", "a b é", tiles)
    again = read_tiles(tmp_path / "out", "a b é")
    np.testing.assert_array_equal(again.xy_px, tiles.xy_px)
    np.testing.assert_array_equal(again.xy_um, tiles.xy_um)
    for scale in (2, 4):
        np.testing.assert_array_equal(again.context[scale], tiles.context[scale])
    for name, places in [("tissue", 4), ("pen", 4), ("fold", 4), ("blur", 3)]:
        np.testing.assert_allclose(
            getattr(again, name), getattr(tiles, name), atol=0.5 * 10**-places + 1e-3 * (places == 3)
        )
    assert again.facts["step_px"] == 60
    assert (again.facts["slide_id"], again.facts["mpp"], again.facts["tiles"]) == ("a b é", 1.0, len(tiles))


def test_no_tile_is_a_manifest_too(tmp_path):
    slide = FakeSlide(tmp_path / "b.svs", glass(50, 50), (500, 500), 1.0)
    slide.path.write_bytes(b"x")
    tiles, _ = tiles_of(slide, "b", Tiling(100.0, 64, scales=(1, 2)))
    write_tiles(tmp_path, "b", tiles)
    again = read_tiles(tmp_path, "b")
    assert len(again) == 0
    assert again.context[2].shape == (0, 2)


def test_damaged_manifests_are_refused(tmp_path):
    tiles, _ = tiles_of(slide_with_tissue(tmp_path), "a", Tiling(100.0, 64))
    with pytest.raises(DataError, match="There is no manifest"):
        read_tiles(tmp_path, "a")
    write_tiles(tmp_path, "a", tiles)
    path, table = manifests.manifest_paths(tmp_path, "a")
    whole, facts = table.read_bytes(), json.loads(path.read_text())
    table.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="sha256 is another"):
        read_tiles(tmp_path, "a")
    table.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_tiles(tmp_path, "a")
    table.write_bytes(whole)
    for text, said in [
        ("{", "no manifest"),
        ("[]", "no manifest"),
        (json.dumps(facts | {"milkit_tiles": 9}), "version 9"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_tiles(tmp_path, "a")


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_stop_while_writing_leaves_no_half_manifest(tmp_path, monkeypatch, fails_at):
    tiles, _ = tiles_of(slide_with_tissue(tmp_path), "a", Tiling(100.0, 64))
    write_tiles(tmp_path, "a", tiles)
    fewer = part(tiles, slice(0, 1))
    calls, real = [], manifests.os.replace

    def full_disk(*names):
        calls.append(names)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")
        real(*names)

    monkeypatch.setattr(manifests.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_tiles(tmp_path, "a", fewer)
    with pytest.raises(DataError, match="There is no manifest"):
        read_tiles(tmp_path, "a")
    monkeypatch.undo()
    write_tiles(tmp_path, "a", fewer)
    assert len(read_tiles(tmp_path, "a")) == 1


def test_a_slide_of_a_million_tiles(tmp_path):
    rgb = glass(600, 600)
    rgb[:, 6:] = PINK
    slide = FakeSlide(tmp_path / "big.svs", rgb, (300_000, 300_000), 0.25)
    slide.path.write_bytes(b"x")
    tiles, _ = tiles_of(slide, "big", Tiling(75.0, 256, blur=False))
    assert len(tiles) == 1000 * 990  # the first 750 of 75,000 um are glass
    assert slide.reads == 0
    assert (np.diff(tiles.xy_px[:, 1]) >= 0).all()
    assert tiles.xy_px[-1].tolist() == [299_700, 299_700]
    few = part(tiles, slice(-2, None))
    assert table_of(few).splitlines()[-1] == "299700,299700,74925.0000,74925.0000,1.0000,nan,0.0000,0.0000"


def test_a_grid_of_more_tiles_than_can_be_held():
    with pytest.raises(ConfigError, match=r"10,000,000,000 tiles; 16,777,216 is the most"):
        grid_of((100_000, 100_000), 0.25, 0.25)


def write_glass(folder):
    """A manifest `a` of a slide of 400 x 400 pixels."""
    path = folder / "a.svs"
    path.touch()
    slide = FakeSlide(path, glass(40, 40), (400, 400), 1.0)
    write_tiles(folder, "a", tiles_of(slide, "a", Tiling(tissue=0.0, blur=False))[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mpp", "x"), ("mpp", 0), ("mpp", True), ("tile_px", 1e9), ("tile_um", -1), ("width_px", None),
        ("size_px", [10]), ("size_px", "ab"), ("tiles", "6"), ("slide", 3), ("settings", []),
    ],
)  # fmt: skip
def test_a_manifest_with_facts_of_other_kinds(tmp_path, name, value):
    write_glass(tmp_path)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(DataError, match=rf"a\.json is damaged: its {name} is .*--force"):
        read_tiles(tmp_path, "a")


@pytest.mark.parametrize("corner", ["-64,0", "0,64000", "nan,0", "1e300,0", "0.5,0"])
def test_a_table_with_corners_that_cannot_be(tmp_path, corner):
    write_glass(tmp_path)
    table, path = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_text(table.read_text().replace("\n0,0,", f"\n{corner},", 1))
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": digest}))
    with pytest.raises(DataError, match=r"line 2\); expected whole pixels within"):
        read_tiles(tmp_path, "a")
