"""Covariates through the engines: scaled by each run's own training part, seen by no other run, the same in both."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

from milkit import config
from milkit.data.covariates import Categorical, Numeric
from milkit.data.memory import in_memory
from milkit.errors import ConfigError
from milkit.execute.digest import data_digest
from milkit.execute.executors.handover import bags_from, bags_to_bytes
from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.experiment import allowed_types
from milkit.models import ABMIL, BagStatistics
from milkit.predictions import Predictions
from milkit.train.config import Adam, Train
from milkit.train.fit import fit
from milkit.train.state import initial_state
from milkit.train.step import gather, train_step
from milkit.train.stream_step import Read, shown, stream_step

LATE = ABMIL(encoder=(8,), attention=4, covariates="late", fusion_layers=(6,))
JOINT = replace(LATE, covariates="concatenate")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def cohort(change=lambda i, row: row, covariates=("age", "sex"), n=24):
    """Bags of noise; the label is in the age (one of them unknown), not in the bags."""
    made = planted.binary(n, shift=0.0)
    extra = [{"age": f"{50 + 20 * (i % 2) + i % 7}", "sex": "fm"[i % 3 == 0]} for i in range(n)]
    extra[4]["age"] = ""
    rows = [change(i, {**row, **e}) for i, (row, e) in enumerate(zip(made.rows, extra, strict=True))]
    return in_memory(made.bags, rows, "planted", covariates)


def study(model=LATE, data=None, **train):
    base = planted.experiment(width=4)
    return replace(base, data=data or cohort(), model=model, train=replace(base.train, **train))


def trained(prepared):
    group = prepared.group(0)
    parts = [s.validation for s in prepared.plan.splits]
    part = prepared.engine.part(group.validation, parts)
    return group, fit(prepared.engine, group, prepared.first_state(0, group), part, lambda *_: None)


def test_each_run_scales_by_its_own_training_part():
    """Mean and SD of the known ages of a split's training bags, by hand with NumPy on the table's own cells."""
    prepared = prepare(study())
    ages = np.array([float(row["age"] or "nan") for row in prepared.experiment.data.rows])
    assert prepared.study.covariates.names == ("age", "age missing", "sex=f", "sex=m")
    means = set()
    for split, hyper in zip(prepared.plan.splits, prepared.hyper, strict=True):
        known = ages[split.train][~np.isnan(ages[split.train])]
        assert len(known) >= len(split.train) - 1
        np.testing.assert_allclose(hyper.covariate_shift, [known.mean(), 0, 0, 0], rtol=1e-6)
        gone = float(4 in split.train)  # the indicator can be learned only where training has seen it
        np.testing.assert_allclose(hyper.covariate_inverse, [1 / known.std(), gone, 1, 1], rtol=1e-6)
        means.add(float(hyper.covariate_shift[0]))
    assert len(means) == 3


def test_what_a_model_sees_by_hand():
    """Age 60 at mean 50 and SD 20 is .5; a missing one is 0; a filler is all zeros."""
    prepared = prepare(study())
    data, hyper = prepared.engine.data, prepared.hyper[0]
    values = np.array([[60, 0, 1, 0], [np.nan, 1, 0, 1], [60, 0, 1, 0]], np.float32)
    hyper = hyper._replace(
        covariate_shift=np.array([50, 0, 0, 0], np.float32), covariate_inverse=np.array([0.05, 1, 1, 0], np.float32)
    )
    data = data._replace(covariates=data.covariates.at[:3].set(values))
    weight = jnp.array([1.0, 1.0, 0.0])
    expected = [[0.5, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    bags = gather(data, hyper, jnp.arange(3), weight, 9)
    np.testing.assert_allclose(bags.covariates, expected, rtol=1e-6)
    rows = jnp.arange(3, dtype=jnp.int32)
    read = Read(jnp.zeros((3, 4, 6)), None, jnp.array([4, 2, 3], jnp.int32), rows, jnp.asarray(values))
    for train in (Train(), Train(instances_at_once=2)):
        np.testing.assert_allclose(shown(train, hyper, read, weight, None).covariates, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_a_test_patients_covariate_changes_nothing_of_training(memory):
    """To the bit, in the run that tests the patient; the runs that train on them do change."""
    before = prepare(study(JOINT, memory=memory))
    patient = int(before.plan.splits[0].test[0])
    other = cohort(lambda i, row: {**row, "age": "99999", "sex": "f"} if i == patient else row)
    after = prepare(study(JOINT, other, memory=memory))
    roles = [next(r for r in ("train", "validation", "test") if patient in getattr(before.split(run), r))
             for run in before.members(0)]  # fmt: skip
    assert {"test"} < set(roles)
    (_, a), (_, b) = trained(before), trained(after)
    for i, role in enumerate(roles):
        same = all(
            (np.asarray(x)[i] == np.asarray(y)[i]).all()
            for x, y in zip(jax.tree.leaves(a.best_params), jax.tree.leaves(b.best_params), strict=True)
        )
        assert same == (role == "test") or role == "validation"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "train"),
    [(LATE, {}), (JOINT, {"standardise": True, "instances_at_once": 4})],
    ids=["late, whole", "concatenate, in chunks"],
)
def test_a_streamed_step_is_the_resident_one_in_float64(model, train):
    experiment = study(model, **train)
    with jax.enable_x64(True):
        data = prepare(experiment)
        group, setup = data.group(0), data.engine.setup
        double = partial(
            jax.tree.map,
            lambda a: jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a),
        )
        packed, hyper = double(data.engine.data), double(group.hyper)
        begin = partial(initial_state, model, 6, 1, setup.train, covariates=4)
        states = double(jax.vmap(lambda k: begin(key=k))(group.keys))
        moving = jax.tree.map(jnp.copy, states._replace(best_params=(), best_buffers=()))
        bag, length, position = 4, 9, (jnp.array(2), jnp.array(7))  # the bag whose age is not known
        weight = np.array([[1.0], [0.0], [1.0], [1.0]])
        x = np.full((1, length, 6), np.nan)
        own = data.study.read(bag).x
        x[0, : len(own)] = own
        rows = jnp.array([bag], jnp.int32)
        read = Read(jnp.asarray(x), None, jnp.array([len(own)], jnp.int32), rows, packed.covariates[rows])
        zeros = jnp.zeros(4)
        (after, total, _), _ = stream_step(
            setup, hyper, group.keys, jax.random.key(0), (moving, zeros, jnp.copy(zeros)), position, read,
            packed.target, weight, np.ones(4, bool),
        )  # fmt: skip
        resident = jax.jit(partial(train_step, setup, length))
        for i in (0, 3):
            one = lambda tree, i=i: jax.tree.map(lambda a: a[i], tree)  # noqa: B023, E731
            key = jax.random.fold_in(group.keys[i], 1)
            expected, (loss, _) = resident(
                packed, one(hyper), key, position, one(states), rows, jnp.ones(1), jnp.array(True)
            )
            np.testing.assert_allclose(total[i], loss, rtol=1e-12)
            for a, b in zip(jax.tree.leaves(one(after.params)), jax.tree.leaves(expected.params), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_both_engines_predict_the_same():
    resident, stream = prepare(study(JOINT)), prepare(study(JOINT, memory="stream"))
    group = resident.group(0)
    state = resident.first_state(0, group)
    parts = [s.test for s in resident.plan.splits]
    tests = [resident.split(r).test for r in resident.members(0)]
    a, b = (
        p.engine.predict(group, state.params, state.buffers, p.engine.part(tests, parts)) for p in (resident, stream)
    )
    for one, other in zip(a, b, strict=True):
        assert [p[0] for p in one] == [p[0] for p in other]
        np.testing.assert_allclose([p[1] for p in one], [p[1] for p in other], rtol=2e-6, atol=1e-7)


@pytest.mark.slow
def test_a_run_beside_others_is_that_run_alone():
    """Four runs side by side and one at a time: the same numbers up to rounding."""
    wide, narrow = prepare(study(JOINT)), prepare(study(JOINT, width=1))
    _, together = trained(wide)
    _, alone = trained(narrow)
    for a, b in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(np.asarray(a)[0], np.asarray(b)[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study whose label is in the age alone, and its run folder."""
    out = tmp_path_factory.mktemp("covariates") / "run"
    execute(study(LATE, optimizer=Adam(0.02), epochs=30), out)
    return out


@pytest.mark.slow
def test_what_only_the_age_says_is_learned(folder):
    rows = Predictions.read(folder / "predictions.csv")
    tested = rows.take((rows.role == "test") & (rows.selection == "validation"))
    right = (np.asarray(tested.score)[:, 1] > 0.5) == (np.asarray(tested.target).ravel() == 1)
    known = np.array([b != "b004" for b in tested.patient.tolist()])
    assert right[known].mean() > 0.9


def test_the_folder_says_what_was_read_and_can_be_repeated(folder, tmp_path):
    settings = json.loads((folder / "config.json").read_text())
    assert settings["experiment"]["data"]["covariates"] == ["age", "sex"]
    cohort_said = json.loads((folder / "cohort.json").read_text())
    assert "covariate 'age' is read as numbers, missing in 1 bag(s)" in json.dumps(cohort_said)
    again = tmp_path / "again"
    execute(study(LATE, optimizer=Adam(0.02), epochs=30), again)
    assert (again / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()


def test_a_changed_cell_changes_the_datas_digest():
    base = data_digest(prepare(study()).study)
    changed = cohort(lambda i, row: {**row, "age": "51.5"} if i == 2 else row)
    values = prepare(study(data=changed)).study
    assert data_digest(values) != base
    # not by the digest of the rows, which a table on disk does not have
    same = replace(values, covariates=prepare(study()).study.covariates)
    assert data_digest(replace(same, provenance=prepare(study()).study.provenance)) == base
    assert data_digest(replace(values, provenance=prepare(study()).study.provenance)) != base


def test_other_processes_get_the_covariates_too(tmp_path):
    data = cohort(covariates=(Numeric("age"), Categorical("sex", levels=("m", "f")), "label2"))
    (tmp_path / "bags").write_bytes(bags_to_bytes(data))
    assert bags_from(tmp_path / "bags").covariates == data.covariates


def test_choices_survive_json():
    said = config.to_json((Numeric("age"), Categorical("sex", levels=("m", "f")), "x"))
    assert config.from_json(json.loads(json.dumps(said)), allowed_types()) == (
        Numeric("age"), Categorical("sex", levels=("m", "f")), "x",
    )  # fmt: skip


def test_a_model_and_data_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError, match=r"gives covariates \(age, sex\), but BagStatistics .* does not read them.*late"
    ):
        prepare(study(BagStatistics()))
    with pytest.raises(ConfigError, match=r"gives covariates \(age, sex\), but ABMIL"):
        prepare(study(ABMIL()))
    with pytest.raises(ConfigError, match=r"ABMIL .* reads covariates, but 'planted' gives none. Name columns"):
        prepare(study(LATE, cohort(covariates=())))
