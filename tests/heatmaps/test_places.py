"""Squares of tiles from what features say of them, by hand."""

import json

import h5py
import numpy as np
import pytest

from milkit.data.store import open_store, write_store
from milkit.errors import DataError
from milkit.heatmaps.places import places_of
from milkit.types import Bag

X, PX = np.ones((2, 3), np.float32), np.array([[0, 0], [128, 256]])
UM = (PX * 0.25).astype(np.float32)


@pytest.mark.parametrize(
    ("bag", "mpp", "width", "notes"),
    [
        (Bag("s", X, UM, PX, 32.0, 0.25), None, 128, ()),
        (Bag("s", X, None, PX, 32.0), 0.25, 128, ()),
        (Bag("s", X, UM, None, 32.0, 0.25), None, 128, ("corners were worked out from micrometres",)),
        (Bag("s", X, UM, PX, 32.1, 0.25), None, 128, ("a tile of 32.1 um was taken for 128 whole pixels of 0.25 um",)),
        (
            Bag("s", X, UM + np.float32(0.1), None, 32.0, 0.25), None, 128,
            ("corners were worked out from micrometres and rounded by up to 0.40 pixels",),
        ),
    ],
)  # fmt: skip
def test_squares(bag, mpp, width, notes):
    found = places_of(bag, None, mpp)
    np.testing.assert_array_equal(found.xy_px, PX)
    assert (found.width_px, found.mpp, found.notes) == (width, 0.25, notes)


@pytest.mark.parametrize(
    ("bag", "mpp", "match"),
    [
        (Bag("s", X), None, "hold no positions"),
        (Bag("s", X, None, PX, 32.0), None, r"slide_mpp.*--mpp"),
        (Bag("s", X, UM, PX, None, 0.25), None, "how wide a tile is"),
        (Bag("s", X, UM, PX, 32.0, 0.25), 0.5, r"say mpp 0\.25, but --mpp 0\.5"),
    ],
)
def test_what_is_not_known_is_asked_for(bag, mpp, match):
    with pytest.raises(DataError, match=match):
        places_of(bag, None, mpp)


def test_what_a_store_says_of_the_file(tmp_path):
    bags = [Bag(name, X, UM, PX, 32.0, 0.25) for name in ("a", "b")]
    store = open_store(write_store(tmp_path / "s.h5", bags))
    assert places_of(store.read("b"), store).slide == {}
    for second, expected in [('{"slide": "b.svs"}', {"slide": "b.svs"}), ("[]", None), ("{", None)]:
        with h5py.File(tmp_path / "s.h5", "a") as file:
            file.pop("slides", None)
            file.create_dataset("slides", data=[json.dumps({}), second], dtype=h5py.string_dtype())
        if expected is None:
            with pytest.raises(DataError, match=r"s\.h5"):
                places_of(store.read("b"), store)
        else:
            assert places_of(store.read("b"), store).slide == expected
