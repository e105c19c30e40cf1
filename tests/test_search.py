"""Stating a search: what varies, over what values, and what is refused before anything is trained."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError

from milkit import config
from milkit.data.protocol import KFold, LabelBudget
from milkit.errors import ConfigError
from milkit.experiment import allowed_types
from milkit.search import Choice, Grid, LogUniform, Random, Tpe, Uniform, space_of, stated, variants, with_values
from milkit.train.config import Adam, AdamW, Sgd

sys.path.insert(0, str(Path(__file__).parent))

import planted

RATE = "train.optimizer.learning_rate"


def test_a_grid_is_every_combination_the_last_field_fastest():
    grid = Grid({"model.attention": Choice(4, 8), "model.gated": Choice(True, False)})
    assert grid.trials == 4
    assert [tuple(v.values()) for v in stated(grid)] == [(4, True), (4, False), (8, True), (8, False)]


def test_a_draw_does_not_depend_on_how_many_there_are_nor_on_other_fields():
    space = {RATE: LogUniform(1e-4, 1e-1), "model.dropout": Uniform(0.1, 0.5)}
    few, many = stated(Random(space, 3)), stated(Random(space, 50))
    assert many[:3] == few
    assert stated(Random({RATE: space[RATE]}, 3)) == [{RATE: v[RATE]} for v in few]
    assert stated(Random(space, 3, seed=1)) != few
    assert len({v[RATE] for v in many}) == 50


def test_draws_are_uniform_on_their_scale():
    assert LogUniform(1e-4, 1e-2).at(0.5) == pytest.approx(1e-3)
    assert (Uniform(2.0, 4.0).at(0.0), Uniform(2.0, 4.0).at(0.75)) == (2.0, 3.5)
    assert [Choice("a", "b", "c").at(u) for u in (0.0, 0.33, 0.34, 0.99)] == ["a", "a", "b", "c"]
    drawn = [v[RATE] for v in stated(Random({RATE: LogUniform(1e-4, 1e-2)}, 400))]
    below = sum(v < 1e-3 for v in drawn) / len(drawn)
    assert abs(below - 0.5) < 4 * math.sqrt(0.25 / 400)


def test_values_are_set_all_at_once_and_checked_as_if_written():
    e = planted.experiment(2)
    # encoder=() with a dropout is refused, so one by one would fail
    made = with_values(replace(e, model=replace(e.model, encoder=())), {"model.dropout": 0.3, "model.encoder": (4,)})
    assert (made.model.dropout, made.model.encoder) == (0.3, (4,))
    made = with_values(e, {RATE: 0.5, "train.optimizer": AdamW(weight_decay=0.1)})
    assert made.train.optimizer == AdamW(0.5, weight_decay=0.1)


@pytest.mark.parametrize(
    "search",
    [
        Grid({RATE: Choice(0.1, 0.2), "train.optimizer": Choice(Adam(0.1), Sgd(0.1))}),
        Random({RATE: LogUniform(1e-4, 1e-2), "model.encoder": Choice((4,), (8, 4))}, 7, seed=3),
        Tpe({"model.dropout": Uniform(0.1, 0.4), "train.clip": Choice(None, 1.0)}, 12, batch=5),
    ],
)
def test_a_search_survives_its_config_file(search):
    e = replace(planted.experiment(2), search=search)
    back = config.from_json(config.to_json(search), allowed_types())
    assert back == e.search
    assert hash(back) == hash(search)
    assert stated_or_ends(back) == stated_or_ends(search)


def stated_or_ends(search):
    return stated(search) if not isinstance(search, Tpe) else space_of(search)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.optimizer.learning_rte": Choice(0.1)}, "'train.optimizer.learning_rte'; did you mean 'learning_rate'"),
        ({"train.optimizer.momentum.x": Choice(0.1)}, "'train.optimizer.momentum' is 0.9, which has no field 'x'"),
        ({"model.dropout": Choice(0.1, 1.5)}, r"cannot be built \(model.dropout=1.5\).*\[0, 1\)"),
        ({"train.select": Choice("loss")}, "compared by this criterion"),
        ({"train.width": Choice(1, 2)}, "one width only"),
        ({"data.name": Choice("a")}, "fields of the model and of training"),
        ({"seeds": Choice(1, 2)}, "fields of the model and of training"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_when_the_experiment_is_written(space, message):
    with pytest.raises(ConfigError, match=message):
        replace(planted.experiment(2), search=Random(space, 9))


def test_the_ends_of_what_tpe_draws_from_are_tried_when_the_experiment_is_written():
    with pytest.raises(ConfigError, match=r"model\.dropout=1\.2"):
        replace(
            planted.experiment(2), search=Tpe({RATE: LogUniform(1e-3, 1e-1), "model.dropout": Uniform(0.1, 1.2)}, 4)
        )


def test_a_search_needs_a_criterion_on_a_validation_part():
    e = planted.experiment(2)
    search = Grid({RATE: Choice(0.1, 0.2)})
    last = replace(e, protocol=KFold(folds=3, validation=0.25), train=replace(e.train, select="last"))
    with pytest.raises(ConfigError, match=r"train\.select is 'last'"):
        replace(last, search=search)
    with pytest.raises(ConfigError, match="validation=0"):
        replace(e, protocol=KFold(folds=3, validation=0.0), search=search)
    with pytest.raises(ConfigError, match="label-budget"):
        replace(e, labels=LabelBudget(patients_per_class=(2, 4)), search=search)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid({RATE: LogUniform(1e-3, 1e-1)}), "Choice"),
        (lambda: Grid({}), "expected field names"),
        (lambda: Grid((("a", Choice(1)), ("a", Choice(2)))), "twice"),
        (lambda: Grid({f"f{i}": Choice(*range(10)) for i in range(5)}), "100,000 combinations"),
        (lambda: Random({RATE: Choice(1)}, 0), "trials is 0"),
        (lambda: LogUniform(0.0, 1.0), "above 0"),
        (lambda: Uniform(2.0, 1.0), "low must be below high"),
        (lambda: Choice(), "at least one value"),
        (lambda: Choice(1, 1), "none twice"),
        (lambda: Choice([8]), "tuples, not lists"),
        (lambda: Random("model.dropout", 3), "expected field names"),
    ],
)
def test_a_search_that_is_none_is_refused(make, message):
    with pytest.raises((ConfigError, TypeCheckError)) as caught:
        make()
    assert not isinstance(caught.value, ConfigError) or message in str(caught.value)


def test_variants_are_what_the_width_has_to_hold():
    e = planted.experiment(2)
    assert variants(e) == [e]
    bags = Tpe({"train.batch_bags": Choice(1, 8), RATE: LogUniform(1e-3, 1e-1)}, 50)
    assert {v.train.batch_bags for v in variants(replace(e, search=bags))} == {1, 8}
