"""Points of the colon images: as many as the file says, in the pixels of the image as it was read."""

import csv

import numpy as np
import pytest

from milkit.data.images import KnownImages
from milkit.data.images.points import points_of
from milkit.errors import ConfigError, DataError


def test_points_by_a_second_reading(shared, monkeypatch):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    found = points_of("colon")
    opened = KnownImages("colon").open()
    assert set(found) == set(opened.files)
    with (shared / "data" / "colon_crchisto" / "nuclei_classified.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["image"] == "img1"]
    np.testing.assert_array_equal(found["img1"].xy, [[float(r["x"]), float(r["y"])] for r in rows])
    assert found["img1"].positive.tolist() == [r["type"] == "epithelial" for r in rows]
    # an image's label is whether it has a positive point
    label = dict(zip(opened.table.slide.tolist(), opened.table.columns["label"].tolist(), strict=True))
    assert all(label[image] == str(int(points.positive.any())) for image, points in found.items())
    assert sum(len(p.xy) for p in found.values()) == 22444
    half = points_of("colon", kind="fibroblast", downsample=2)["img1"]
    np.testing.assert_array_equal(half.xy, found["img1"].xy / 2)
    assert half.positive.sum() == sum(r["type"] == "fibroblast" for r in rows)


def test_other_sets_and_kinds(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="only the set 'colon'"):
        points_of("glas")
    with pytest.raises(ConfigError, match="not 'tumour'"):
        points_of("colon", kind="tumour")
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    with pytest.raises(DataError):
        points_of("colon")
