"""A tree of arrays through a safetensors file."""

import jax.numpy as jnp
import numpy as np
import pytest

from milkit.errors import RunFolderError
from milkit.train.checkpoint import load, names, to_bytes

TREE = {"params": [jnp.arange(6.0).reshape(2, 3), jnp.array(2.5)], "count": jnp.array([3], jnp.int32), "none": None}


def test_round_trip_to_the_bit(tmp_path):
    file = tmp_path / "state.safetensors"
    file.write_bytes(to_bytes(TREE, {"epochs": 7}))
    back, note = load(file, TREE)
    assert note == {"epochs": 7}
    assert back["none"] is None
    for a, b in ((TREE["params"][0], back["params"][0]), (TREE["params"][1], back["params"][1])):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_names_are_paths():
    assert names(TREE) == ["count", "params/0", "params/1"]


def test_a_cut_file_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    file.write_bytes(to_bytes(TREE)[:-5])
    with pytest.raises(RunFolderError, match=r"state\.safetensors cannot be read"):
        load(file, TREE)


def test_another_experiments_file_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    file.write_bytes(to_bytes(TREE))
    with pytest.raises(RunFolderError, match="other arrays"):
        load(file, {"params": TREE["params"]})
