"""Neighbours of tiles, found once for a study in memory: the ones that a model would find itself, or none."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

from milkit.data.memory import in_memory
from milkit.data.neighbours import Nearest
from milkit.execute.graphs import nearest_wanted
from milkit.execute.prepare import prepare
from milkit.models import ABMIL, PatchGCN, WiKG
from milkit.nn.graph import neighbours_of
from milkit.search import Choice, Grid
from milkit.train.config import Train
from milkit.train.step import gather
from milkit.types import Bag, Bags

MODEL = PatchGCN(width=8, neighbours=3, radius_um=700.0)


@pytest.fixture(scope="module")
def study():
    """Tiles on a grid with holes, of bags of several lengths."""
    xs, rng = planted.bags(24)
    cells = [rng.permutation(25)[: len(x)] for x in xs]
    places = [256 * np.stack([c % 5, c // 5], 1).astype(np.float32) for c in cells]
    made = tuple(Bag(f"b{i}", x, xy) for i, (x, xy) in enumerate(zip(xs, places, strict=True)))
    rows = [{"slide_id": f"b{i}", "patient_id": f"p{i}", "label": str(i % 2)} for i in range(24)]
    return in_memory(made, rows, name="tiles")


@pytest.fixture(scope="module")
def prepared(study):
    return prepare(replace(planted.experiment(width=2), data=study, model=MODEL))


def handed(prepared, train=None):
    """Bags 0, 5 and a filler, as a step of one run sees them."""
    lengths = np.asarray(prepared.engine.data.lengths)
    length = int(lengths.max()) + 2
    key = None if train is None else jax.random.key(0)
    index, weight = jnp.array([0, 5, 1]), jnp.array([1.0, 1.0, 0.0])
    return gather(prepared.engine.data, prepared.hyper[0], index, weight, length, key, train)


@pytest.mark.parametrize("train", [None, Train()], ids=["predicting", "training"])
def test_steps_are_handed_what_the_model_would_find(prepared, train):
    bags = handed(prepared, train)
    assert bags.neighbours is not None
    found, exists = neighbours_of(Bags(bags.x, bags.mask, bags.coords_um), 3, 700.0)
    np.testing.assert_array_equal(bags.neighbours, found)
    assert exists[:2].any(1).any(1).all()
    assert (np.asarray(bags.neighbours[2]) == -1).all()  # a filler has none


@pytest.mark.parametrize("train", [Train(max_instances=100), Train(instance_dropout=0.5)], ids=["some", "dropout"])
def test_parts_of_bags_are_handed_none(prepared, train):
    assert handed(prepared, train).neighbours is None


def test_who_asks_for_a_graph():
    experiment = replace(planted.experiment(width=2), model=MODEL)
    other = replace(experiment, model=replace(MODEL, neighbours=4))
    plain = [replace(experiment, model=model) for model in (ABMIL(), WiKG())]
    assert nearest_wanted([experiment, *plain]) == Nearest(3, 700.0)
    assert nearest_wanted([experiment, other]) is None
    assert nearest_wanted(plain) is None


def test_a_search_over_graphs_packs_none(study):
    searched = replace(
        planted.experiment(width=2), data=study, model=MODEL, search=Grid({"model.neighbours": Choice(2, 3)})
    )
    assert prepare(searched).engine.data.neighbours is None


def test_bags_without_places_are_handed_none():
    @dataclass(frozen=True)
    class Asks(ABMIL):
        neighbours: int = 3

    experiment = replace(planted.experiment(width=2), model=Asks(encoder=(8,), attention=8))
    assert prepare(experiment).engine.data.neighbours is None
