"""Masks of others: GeoJSON as QuPath writes it, and PNG."""

import json

import numpy as np
import pytest
from PIL import Image

from milkit.errors import ConfigError, DataError
from milkit.slides.masks import MaskChoice, find_mask, mask_choice, rasterise, read_mask, read_outlines

SQUARE = [[2, 1], [8, 1], [8, 7], [2, 7], [2, 1]]
HOLE = [[4, 3], [6, 3], [6, 5], [4, 5], [4, 3]]
SIZE = (20, 10)


def feature(geometry, name=None, kind="name"):
    named = {} if name is None else {"classification": {kind: name, "color": [1, 2, 3]}}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **named}}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def write(tmp_path, value, name="a.geojson"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def shifted(ring, dx):
    return [[x + dx, y] for x, y in ring]


def test_a_square_with_a_hole_by_hand():
    (rows, columns), inside = rasterise([np.array(SQUARE, float), np.array(HOLE, float)], (10, 20))
    mask = np.zeros((10, 20), bool)
    mask[rows, columns] = inside
    expected = np.zeros((10, 20), bool)
    expected[1:7, 2:8] = True
    expected[3:5, 4:6] = False
    np.testing.assert_array_equal(mask, expected)


def test_pixels_are_those_whose_middle_lies_inside():
    rng = np.random.default_rng(2)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
    ring = np.stack([50 + 60 * np.cos(angle), 40 + 30 * np.sin(angle)], 1)  # reaches over the mask's border
    (rows, columns), inside = rasterise([ring], (80, 100))
    mask = np.zeros((80, 100), bool)
    mask[rows, columns] = inside
    y, x = np.mgrid[:80, :100] + 0.5
    turn = np.zeros((80, 100))
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, 0), strict=True):  # winding number by angles
        a, b = np.arctan2(ay - y, ax - x), np.arctan2(by - y, bx - x)
        turn += (b - a + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_array_equal(mask, abs(turn) > np.pi)


@pytest.mark.parametrize("shape", ["collection", "list", "feature", "geometry"])
def test_the_ways_to_write_it(tmp_path, shape):
    one = feature(polygon(SQUARE, HOLE), "Tumor")
    value = {
        "collection": {"type": "FeatureCollection", "features": [one]}, "list": [one], "feature": one,
        "geometry": polygon(SQUARE, HOLE),
    }[shape]  # fmt: skip
    mask, notes = read_mask(write(tmp_path, value), SIZE, (10, 20))
    assert mask.sum() == 36 - 4
    assert notes == ()


def test_classes_are_included_and_excluded(tmp_path):
    path = write(tmp_path, [
        feature({"type": "MultiPolygon", "coordinates": [[SQUARE], [shifted(SQUARE, 10)]]}, "Tumor"),
        feature(polygon([[0, 0], [1, 0], [1, 10], [0, 10]]), "Stroma"),
        feature(polygon(HOLE), "Ignore*"),
        feature(polygon([[19, 0], [20, 0], [20, 1], [19, 1]]), ["Tumor", "Positive"], "names"),
        feature({"type": "Point", "coordinates": [3, 3]}),
    ])  # fmt: skip

    def area(**choice):
        return int(read_mask(path, SIZE, (10, 20), MaskChoice(**choice))[0].sum())

    assert area() == 72 + 10 + 1 - 4
    assert area(exclude=()) == 72 + 10 + 1
    assert area(include=("Tumor",)) == 72 - 4
    assert area(include=("Tumor*",)) == 72 + 1 - 4
    assert area(exclude=("Tumor", "Ignore*")) == 10 + 1
    assert [o.name for o in read_outlines(path)[0]] == ["Tumor", "Tumor", "Stroma", "Ignore*", "Tumor: Positive"]
    notes = read_mask(path, SIZE, (10, 20), MaskChoice(include=("tumor",)))[1]
    assert "1 points or lines passed over" in notes[0]
    assert "no class 'tumor'" in notes[1]


def test_outlines_at_another_scale(tmp_path):
    assert read_mask(write(tmp_path, polygon(SQUARE)), SIZE, (20, 40))[0].sum() == 4 * 36


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100000, "is no JSON"),
        ('{"type": "Topology"}', "is no GeoJSON"),
        ("[1]", "is no GeoJSON"),
        ('{"type": "Polygon", "coordinates": 3}', "no lists of"),
        ('{"type": "Polygon", "coordinates": [["a"]]}', "no lists of"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "three points"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [NaN, 1]]]}', "not finite"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1000, 1], [5, 5]]]}', "mask of another slide"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, value, said):
    with pytest.raises(DataError, match=said):
        read_mask(write(tmp_path, value), SIZE, (10, 20))


def test_a_png_of_half_the_size_counts_where_it_is_not_0(tmp_path):
    labels = np.zeros((5, 10), np.uint8)
    labels[1:3, 2:5] = 1
    labels[4, 9] = 7
    path = tmp_path / "a.png"
    Image.fromarray(labels).save(path)
    mask, _ = read_mask(path, SIZE, (10, 20))
    np.testing.assert_array_equal(mask, np.kron(labels, np.ones((2, 2))) > 0)
    assert read_mask(path, SIZE, (10, 20), MaskChoice(include=("7",)))[0].sum() == 4
    with pytest.raises(DataError, match="another shape"):
        read_mask(path, (10, 20), (20, 10))


def test_a_png_in_colour_is_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 10, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="in colour"):
        read_mask(tmp_path / "a.png", SIZE, (10, 20))


def test_a_folder_has_one_mask_a_slide(tmp_path):
    with pytest.raises(DataError, match=r"none of a\.geojson"):
        find_mask(tmp_path, "a")
    path = write(tmp_path, polygon(SQUARE))
    assert find_mask(tmp_path, "a") == path
    write(tmp_path, polygon(SQUARE), "a.json")
    with pytest.raises(DataError, match=r"both a\.geojson and a\.json"):
        find_mask(tmp_path, "a")


def test_a_choice_of_the_command_line():
    assert mask_choice([], None, False).exclude == ("Ignore*",)
    assert mask_choice(["Ignore*"], None, False).exclude == ()
    with pytest.raises(ConfigError, match="both included and excluded"):
        mask_choice(["A"], ["A"], False)
