"""Scores of a slide's tiles: of the right models, the right rows, the right class; and what is refused."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from milkit import api
from milkit.errors import ConfigError, DataError, ProtocolError, RunFolderError
from milkit.heatmaps.kinds import Target, _with_risk, answer, bags_of, target_of
from milkit.heatmaps.opened import Model, open_run
from milkit.heatmaps.scores import SEEN, slide_scores
from milkit.keep.members import members_of
from milkit.models import CLAMMB
from milkit.task import Binary, MultiClass, Survival, probabilities
from milkit.train.state import forward, graph_of, initial_arrays
from milkit.types import Bag, Output


@pytest.fixture(scope="module")
def opened(home):
    return open_run(home / "run")


def test_scores_are_those_of_the_models_that_held_the_slide_out(home, opened, made):
    found = slide_scores(opened, "s1", kind="instance")
    row, expected, names = opened.slides["s1"], [], []
    for member in members_of(api.replay(home / "run" / "config.json").experiment, home / "run"):
        if row in member.test:
            names.append(member.run)
            expected.append(np.asarray(member.module(member.bags([row])).instance_logits)[0, :, 0])
    assert found.models == tuple(names)
    assert len(names) == 2
    np.testing.assert_allclose(found.by_model, expected, rtol=1e-5)
    np.testing.assert_allclose(found.scores, np.mean(expected, 0), rtol=1e-5)
    assert found.held_out
    assert found.scores.argmax() == made.told
    np.testing.assert_array_equal(found.xy_px, made.corners())
    assert (found.width_px, found.mpp, found.notes) == (made.width, made.mpp, ())


def test_the_prediction_is_that_of_the_table(home, opened):
    found = slide_scores(opened, "s1", kind="instance")
    with open(home / "run" / "predictions.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["slide"] == "s1" and r["role"] == "test"]
    own = [float(r["prob_yes"]) for r in rows if r["selection"] == found.selection]
    assert len(own) == 2
    assert found.label == "yes"
    assert found.probability == pytest.approx(np.mean(own), abs=1e-12)
    assert found.interval == (min(own), max(own))


def test_the_negative_class_is_the_positive_one_turned_round(opened):
    yes, no = (slide_scores(opened, "s1", kind="gradient", label=label) for label in ("yes", "no"))
    np.testing.assert_array_equal(no.scores, -yes.scores)
    assert no.probability == pytest.approx(1 - yes.probability)
    assert "for no" in no.legend()


def test_gradients_of_max_pooling_are_of_the_highest_tile_alone(opened):
    highest = slide_scores(opened, "s1", kind="instance").by_model.argmax(1)
    for kind in ("gradient", "integrated"):
        model, tile = np.nonzero(slide_scores(opened, "s1", kind=kind).by_model)
        if kind == "gradient":
            assert (model.tolist(), tile.tolist()) == ([0, 1], highest.tolist())
        assert set(highest) <= set(tile.tolist())  # on the way from nothing another tile may have been the highest


@pytest.mark.parametrize(
    ("slide", "changes", "error", "match"),
    [
        ("s1", {"kind": "attention"}, ConfigError, "gives no attention.*instance, contributions, gradient, integrated"),
        ("s1", {"kind": "contributions"}, DataError, "do not add up"),
        ("s1", {"kind": "saliency"}, ConfigError, "no kind 'saliency'"),
        ("s1", {"kind": "instance", "label": "maybe"}, ConfigError, "no class 'maybe'; it has 'no', 'yes'"),
        ("s01", {"kind": "instance"}, DataError, r"no slide 's01' among its 13.*Did you mean"),
        ("s1", {"kind": "instance", "mpp": 0.25}, DataError, r"say mpp 0.5, but --mpp 0.25"),
    ],
)
def test_what_cannot_be_answered_is_said(opened, slide, changes, error, match):
    with pytest.raises(error, match=match):
        slide_scores(opened, slide, **changes)


def test_a_kept_model_knows_its_slides(home):
    with pytest.raises(ConfigError, match="--store"):
        open_run(home / "model")
    model = open_run(home / "model", store=home / "store.h5")
    with pytest.raises(ProtocolError, match="--seen"):
        slide_scores(model, "s1", kind="instance")
    found = slide_scores(model, "s1", kind="instance", seen=True)
    assert not found.held_out
    assert found.marks == (SEEN,)
    assert found.legend().startswith("SEEN IN TRAINING")
    assert len(found.models) == 6
    # the members are the run's models, so those that held the slide out say the same in both
    run = slide_scores(home / "run", "s1", kind="instance")
    own = [found.models.index(name) for name in run.models]
    np.testing.assert_allclose(found.by_model[own], run.by_model, rtol=1e-5)


def test_a_store_that_moved_is_asked_for(home, tmp_path):
    run = shutil.copytree(home / "run", tmp_path / "run")
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace(str(home / "store.h5"), str(tmp_path / "gone.h5")))
    with pytest.raises(DataError, match=r"gone\.h5.*--store"):
        open_run(run)
    assert open_run(run, store=home / "store.h5").slides["s3"] == 3


def test_a_store_that_changed_is_refused(home, tmp_path, made):
    from milkit.data.store import write_store

    other = write_store(tmp_path / "other.h5", made.bags(14, seed=1), dtype="float32", encoder="made-up")
    with pytest.raises(RunFolderError, match="data_digest differ"):
        open_run(home / "run", store=other)


def test_bags_in_memory_are_not_kept(tmp_path):
    stated = {"experiment": {"type": "Experiment", "data": {"type": "InMemory"}}}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(ConfigError, match="held in memory"):
        open_run(tmp_path)
    with pytest.raises(RunFolderError, match="neither a run folder"):
        open_run(tmp_path.parent)


def test_slides_of_one_bag_are_told_apart(home, opened, made):
    """Patient p0 has two slides; rows of the second come after those of the first, places are as on the slide."""
    first, second = (slide_scores(opened, name, kind="instance") for name in ("s0", "s12"))
    assert first.bag == second.bag == "p0"
    assert len(first) == len(second) == len(made.corners())
    np.testing.assert_array_equal(second.xy_px, made.corners())
    member = next(m for m in members_of(opened.experiment, home / "run") if m.run == second.models[0])
    whole = np.asarray(member.module(member.bags([opened.slides["s0"]])).instance_logits)[0, :, 0]
    np.testing.assert_allclose(np.concatenate([first.by_model[0], second.by_model[0]]), whole, rtol=1e-5)
    assert "holds 2 slides" in second.legend()
    with pytest.raises(DataError, match="a bag of 2 slides; name one of them: s0, s12"):
        slide_scores(opened, "p0", kind="instance")


def test_a_slide_beside_the_study_is_asked_of_all_models(home, opened, made):
    found = slide_scores(opened, "s13", kind="instance")
    assert len(found.models) == 6
    assert found.held_out
    assert "not in the study" in found.legend()
    assert found.scores.argmax() == made.told
    # a kept model is made of the same six, and did not see it either
    kept = slide_scores(home / "model", "s13", kind="instance", store=home / "store.h5")
    assert kept.held_out
    np.testing.assert_allclose(kept.scores, found.scores, rtol=1e-5)
    assert kept.probability == pytest.approx(found.probability, rel=1e-5)


def test_several_classes_need_a_name():
    names = ("a", "b", "c")
    assert target_of(MultiClass(), names, None) is None
    assert target_of(MultiClass(), names, "c") == Target("c", 2, 2)
    assert target_of(Binary(), ("no", "yes"), None) == Target("yes", 1, 0)
    assert target_of(Binary(), ("no", "yes"), "no") == Target("no", 0, 0, -1)
    assert target_of(Survival(), ("risk",), None) == Target("risk", 0, 0)


def test_the_risk_that_is_explained_is_the_one_that_is_reported():
    logits = np.array([[-1.0, 0.5, 2.0, -3.0]], np.float32)
    task = Survival(loss="nll")
    np.testing.assert_allclose(
        _with_risk(task, Output(jnp.asarray(logits))).logits, probabilities(task, logits), rtol=1e-6
    )


def test_covariates_are_scaled_as_in_training_and_a_missing_one_is_the_mean():
    model = Model("m", {}, covariates=(np.array([50.0, 1.0]), np.array([0.1, 2.0])))
    bags = bags_of(Bag("b", np.ones((2, 3), np.float32)), model, np.array([70.0, np.nan]), least=4)
    np.testing.assert_allclose(bags.covariates, [[2.0, 0.0]])
    assert bags.mask.tolist() == [[True, True, False, False]]


def test_clam_is_asked_for_the_branch_of_the_class():
    config, names = CLAMMB(encoder=(8,), attention=4), ("a", "b", "c")
    params, buffers = initial_arrays(config, 5, 3, jax.random.key(0))
    bag = Bag("b", np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32))
    model = Model("m", {"params": params, "buffers": buffers})
    graph, bags = graph_of(config, 5, 3), bags_of(bag, model, None, getattr(config, "min_instances", 1))
    heads = np.asarray(forward(graph, params, buffers, bags, None)[0].attention)[0, :7]
    assert heads.shape == (7, 3)
    own, every = (
        answer(graph, config, MultiClass(), model, bags, "attention", target_of(MultiClass(), names, label))
        for label in ("b", None)
    )
    np.testing.assert_allclose(own.scores, heads[:, 1], rtol=1e-5)
    np.testing.assert_allclose(every.scores, heads.mean(1), rtol=1e-5)
    assert (own.of_class, every.of_class) == (True, False)
