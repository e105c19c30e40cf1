"""A kept model of images: windows, masks, polygons that hold the mask, overlays, areas by hand, bad images."""

import csv
import itertools
import json
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from milkit import Binary, api
from milkit.cli import main
from milkit.errors import ConfigError, DataError, RunFolderError
from milkit.keep.folder import FORMAT, Kept, stacked_like, write_model
from milkit.keep.ids import digest_features
from milkit.keep.image_geojson import colour_of, feature_collection
from milkit.keep.image_layers import layer, split_maps
from milkit.keep.image_maps import Viewer, margin_of
from milkit.keep.image_overlay import overlay
from milkit.keep.image_predict import HEADER, Finding, predict_images
from milkit.pixel import CAM, ResNet
from milkit.task import MultiLabel

CANVAS = (96, 96)


def kept_of(seed=0, canvas=CANVAS, downsample=1, seen=(), members=2):
    """A small network that looks some 20 pixels around itself, with random weights, as if it had been finalized."""
    model = CAM(backbone=ResNet(18, width=4, stages=1))
    params, buffers = stacked_like(model, 3, 1, members)
    rng = np.random.default_rng(seed)

    def drawn(leaf):
        fan_in = max(1, np.prod(leaf.shape[1:-1]))
        return jax.numpy.asarray(rng.normal(0, 1.5 / np.sqrt(fan_in), leaf.shape) + 0.3 * (leaf.ndim == 2), leaf.dtype)

    params, buffers = jax.tree.map(drawn, params), jax.tree.map(lambda a: jax.numpy.ones(a.shape, a.dtype), buffers)
    facts = {
        "format": FORMAT, "name": "blobs", "how": "ensemble", "selection": "validation", "names": ["0", "1"],
        "model": {"type": "CAM", "backbone": {"type": "ResNet", "depth": 18, "width": 4, "stages": 1}},
        "task": {"type": "Binary"}, "in_features": 3, "out_features": 1, "scaled": True, "covariates": [],
        "members": [{"run": f"r{i}"} for i in range(members)], "marks": [], "digest": "d", "measured": "slide",
        "threshold": {"value": [0.5], "from": "here"}, "temperature": {"value": [1.0], "from": "here"},
        "risk_cut": None, "training": {"seen": {"patients": [], "slides": [], "features": list(seen)}},
        "images": {
            "reading": {"downsample": downsample, "white": 65535, "max_megapixels": 80.0}, "canvas": list(canvas),
            "map_threshold": {"value": 0.5, "from": "here"},
        },
    }  # fmt: skip
    shift = np.full((members, 3), 128.0, np.float32)
    scale = np.full((members, 3), 1 / 64, np.float32)
    return Kept(facts, model, Binary(), params, buffers, shift, scale)


@pytest.fixture(scope="module")
def kept():
    return kept_of()


@pytest.fixture(scope="module")
def viewer(kept):
    return Viewer.of(kept)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def rasterised(features, shape):
    """Polygons as a mask by even-odd crossings at the middle of each pixel; for each polygon once."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    total = np.zeros(shape, int)
    for feature in features:
        inside = np.zeros(shape, bool)
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            for (x0, y0), (_, y1) in itertools.pairwise(ring):
                if y0 != y1:
                    inside ^= (x > x0) & (min(y0, y1) < y) & (y < max(y0, y1))
        total += inside
    return total


def shoelace(ring):
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2


def test_windows_do_not_show(kept, viewer):
    """The map of an image in windows is that of the whole image at once, whatever the windows' size."""
    image = noise(152, 216)  # multiples of the poolings, or the whole map would be enlarged by another factor
    margin, exact = margin_of(viewer)
    assert exact
    assert 16 <= margin <= 48
    whole = Viewer.of(kept, 224).see(image, 0)
    assert whole.windows == 1
    parts = viewer.see(image, margin)
    assert parts.windows > 2
    np.testing.assert_allclose(parts.maps, whole.maps, atol=2e-6)
    assert np.abs(viewer.see(image, 0).maps - whole.maps).max() > 1e-3  # without a margin they would
    assert parts.maps.shape == (152, 216, 1)


def test_an_image_within_the_canvas_is_seen_as_in_training(kept, viewer):
    """By the module itself, on the image without padding."""
    from flax import nnx

    from milkit.types import Images

    image = noise(40, 52)
    module = nnx.eval_shape(lambda: kept.model.build(3, 1, rngs=nnx.Rngs(0)))
    graph, _, _ = nnx.split(module, nnx.Param, ...)
    x = (jax.numpy.asarray(image[None], jax.numpy.float32) - 128.0) / 64.0
    alone = jax.jit(lambda a: nnx.merge(graph, *a)(Images(x, jax.numpy.ones((1, 40, 52), bool))))
    expected = [alone(jax.tree.map(lambda a, m=m: a[m], (kept.params, kept.buffers))) for m in range(2)]
    seen = viewer.see(image, 0)
    maps = np.mean([np.asarray(o.extras["maps"]["fused"][0]) for o in expected], 0)
    np.testing.assert_allclose(seen.maps, maps, atol=1e-5)
    p = 1 / (1 + np.exp(-np.array([float(o.logits[0, 0]) for o in expected])))
    np.testing.assert_allclose(seen.members, np.stack([1 - p, p], 1), atol=1e-5)


@pytest.mark.parametrize("side", [1, 3])
def test_polygons_are_the_mask(side):
    rng = np.random.default_rng(side)
    shape = (29, 41)
    small = [-(-n // side) for n in shape]
    seen = rng.random(small).astype(np.float32)
    found = layer("gland", seen, shape, side, 0.45, 0)
    made = json.loads(feature_collection([found], 0.5))
    assert made["type"] == "FeatureCollection"
    np.testing.assert_array_equal(rasterised(made["features"], shape), found.full_mask.astype(int))
    holes = 0
    for feature in made["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"] == {"name": "gland", "color": list(colour_of(0))}
        outer, *inner = feature["geometry"]["coordinates"]
        area = shoelace(outer) + sum(shoelace(ring) for ring in inner)
        holes += len(inner)
        assert feature["properties"]["measurements"] == {"Area px": area, "Area µm^2": area * 0.25}
        assert area == rasterised([feature], shape).sum() > 0
        for ring in (outer, *inner):
            assert len({tuple(p) for p in ring}) == len(ring) - 1  # no corner twice
    assert holes > 0


def test_specks_are_dropped_everywhere():
    seen = np.zeros((20, 20), np.float32)
    seen[2:4, 2:4] = seen[10:13, 10:13] = 1.0  # 4 and 9 blocks of 2 x 2 px
    kept_all, larger = (layer("x", seen, (40, 39), 2, 0.5, n) for n in (16, 17))
    assert [o.pixels for o in kept_all.objects] == [4, 9]
    assert [o.pixels for o in larger.objects] == [9]
    assert larger.full_mask.sum() == 36
    assert kept_all.full_map.shape == (40, 39)


def test_overlays_show_lines_and_tint():
    pixels, mask = np.full((9, 9, 3), 200, np.uint8), np.zeros((9, 9), bool)
    mask[2:7, 2:9] = True  # goes on beyond the border: no line there
    both, line, tint = (overlay(pixels, [mask], [(0, 100, 0)], how) for how in ("both", "contour", "tint"))
    np.testing.assert_array_equal(tint[4, 4], [140, 170, 140])  # 0.7 * 200 + 0.3 * colour
    np.testing.assert_array_equal(both[2, 4], [0, 100, 0])
    np.testing.assert_array_equal(both[4, 8], tint[4, 8])
    np.testing.assert_array_equal(line[4, 4], pixels[4, 4])
    assert (both[~mask] == 200).all()
    assert (pixels == 200).all()


def test_foreground_is_its_share(kept):
    task = MultiLabel(("foreground", "background"))
    own = Kept(kept.facts | {"names": ["foreground", "background"]}, kept.model, task, None, None, None, None)
    (found,) = split_maps(own, np.array([[[0.2, 0.6], [0.0, 0.0]]], np.float32))
    np.testing.assert_allclose(found, [[0.25, 0.0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several sizes and kinds; one of them larger than the canvas."""
    home = tmp_path_factory.mktemp("slides")
    Image.fromarray(noise(60, 50, 1)).save(home / "a.png")
    Image.fromarray(noise(60, 50, 2)).convert("RGBA").save(home / "b.png")
    Image.fromarray(noise(90, 96, 3)).convert("L").save(home / "b.jpg")
    Image.fromarray(noise(101, 130, 4)).save(home / "large.tif")
    (home / "notes.txt").write_text("no image")
    return home


@pytest.fixture(scope="module")
def model(tmp_path_factory, folder):
    path = tmp_path_factory.mktemp("models") / "blobs"
    image = np.asarray(Image.open(folder / "a.png"))
    write_model(kept_of(seen=[digest_features(image.reshape(-1, 3))]), path, "card", {})
    return path


def test_a_folder_is_answered(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["predict", str(model), str(folder), "--out", str(out), "--mpp", "0.5", "--min-area", "5"]
    assert main([*asked, "--class", "blob"]) == 0
    assert "4 images looked at by 2 members" in capsys.readouterr().out
    names = ["a", "b.jpg", "b.png", "large"]  # two would be called b
    for kind, end in (("masks", "png"), ("maps", "png"), ("overlays", "png"), ("geojson", "geojson")):
        assert sorted(p.name for p in (out / kind).iterdir()) == [f"{name}.{end}" for name in names]
    with open(out / "areas.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(HEADER)
    for row, name, size in zip(rows, names, [(60, 50), (90, 96), (60, 50), (101, 130)], strict=True):
        mask, seen = (np.asarray(Image.open(out / k / f"{name}.png")) for k in ("masks", "maps"))
        shown = np.asarray(Image.open(out / "overlays" / f"{name}.png"))
        assert mask.shape == seen.shape == shown.shape[:2] == size
        assert set(np.unique(mask)) <= {0, 255}
        assert (seen[mask == 255] >= 127).all()
        features = json.loads((out / "geojson" / f"{name}.geojson").read_text())["features"]
        np.testing.assert_array_equal(rasterised(features, size), mask // 255)
        areas = [f["properties"]["measurements"]["Area px"] for f in features]
        assert min(areas) >= 5
        total = int((mask == 255).sum())
        assert int(row["foreground_px"]) == total == sum(areas)
        assert float(row["share"]) == total / mask.size
        assert (int(row["objects"]), int(row["largest_px"])) == (len(areas), max(areas))
        assert float(row["area_um2"]) == total * 0.25
        assert row["class"] == "blob"
        assert row["label"] == ("1" if float(row["probability"]) >= 0.5 else "0")
        assert (int(row["windows"]) > 1) == (name == "large")
        assert row["in_training"] == ("yes" if name == "a" else "no")
    assert json.loads((out / "prediction.json").read_text())["converted"]["b.png"] == ["transparent pixels on white"]


def test_what_is_there_is_not_lost(model, folder, tmp_path):
    out = tmp_path / "out"
    predict = partial(api.predict_images, model, out=out)
    predict(folder / "a.png", how=Finding(threshold=0.0))
    assert np.asarray(Image.open(out / "masks" / "a.png")).min() == 255
    with pytest.raises(RunFolderError, match=r"already holds predictions of images.*--force"):
        predict(folder / "b.png")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "whole.png").write_bytes((folder / "a.png").read_bytes())
    (bad / "cut.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut\.png cannot be read as an image"):
        predict(bad, force=True)
    assert [p.name for p in (out / "masks").iterdir()] == ["a.png"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not predictions of images"):
        api.predict_images(model, folder, tmp_path / "other", force=True)


def test_wrong_questions(model, folder, tmp_path, capsys, kept):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for given, message in (
        (tmp_path / "none", "There is no folder of images"),
        (tmp_path / "empty", "holds no image"),
        (folder / "notes.txt", "no image that can be read"),
    ):
        assert main(["predict", str(model), str(given), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    for option, message in (
        (["--cohort", "t.csv"], "--cohort is for models of slides' features"),
        (["--mpp", "column"], "give the micrometres a pixel"),
        (["--threshold", "2"], "threshold"),
        (["--window", "4"], "too small"),
    ):
        assert main(["predict", str(model), str(folder), "--out", str(out), *option]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="reads images"):
        api.predict(model, folder)
    assert not out.exists()
    regression = Kept(kept.facts, kept.model, __import__("milkit").Regression(), *[None] * 4)
    with pytest.raises(ConfigError, match="Regression"):
        predict_images(regression, folder, out)
