"""What a store says of the files its bags were made of: read whole, or one bag's; refused where it is damaged."""

import json

import h5py
import numpy as np
import pytest

from milkit.bag import Bag
from milkit.data.slide_facts import slide_facts
from milkit.data.store import write_store
from milkit.errors import DataError

LINES = [{"slide": "a.svs", "mpp": 0.25, "size_px": [10, 20]}, {"slide": "b.svs"}]


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "s.h5"
    write_store(path, [Bag(name, np.ones((2, 3), np.float32)) for name in ("a", "b")])
    return path


def says(path, lines):
    with h5py.File(path, "a") as file:
        file.pop("slides", None)
        file.create_dataset("slides", data=lines, dtype=h5py.string_dtype())


def test_all_bags_in_the_store_s_order_or_one(store):
    assert slide_facts(store) == {}
    says(store, [json.dumps(line) for line in LINES])
    assert list(slide_facts(store).items()) == [("a", LINES[0]), ("b", LINES[1])]
    assert slide_facts(store, 1) == {"b": LINES[1]}


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "{}", '{"slide": 3}', '{"slide": "b", "mpp": "x"}', '{"slide": "b", "size_px": [1]}']
)
def test_damage_is_refused_with_store_and_bag(store, line):
    says(store, [json.dumps(LINES[0]), line])
    with pytest.raises(DataError, match=r"s\.h5: .*'b'"):
        slide_facts(store)
    assert slide_facts(store, 0) == {"a": LINES[0]}


def test_another_number_of_lines_than_bags_is_refused(store):
    says(store, [json.dumps(line) for line in [*LINES, LINES[0]]])
    with pytest.raises(DataError, match="another number"):
        slide_facts(store)
