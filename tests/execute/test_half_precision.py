"""Computing in bfloat16: what stays float32, and that its effect is measured and said."""

import csv
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

from milkit import api
from milkit.data.protocol import KFold
from milkit.execute.precision import in_float32
from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.predictions import Predictions
from milkit.task import Regression
from milkit.train import checkpoint
from milkit.train.fit import start
from milkit.train.state import forward
from milkit.types import Bags


def half(experiment, **train):
    return replace(experiment, train=replace(experiment.train, precision="bfloat16", **train))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("half") / "run"
    execute(half(planted.experiment(width=4)), out)
    return out


@pytest.mark.slow
def test_parameters_optimiser_and_output_stay_float32(folder):
    prepared = prepare(half(planted.experiment(width=4)))
    group = prepared.group(0)
    state = start(prepared.engine, prepared.experiment.model, 6, 1, group)
    for leaf in jax.tree.leaves((state.params, state.optimizer, state.best_params)):
        assert leaf.dtype == jnp.float32
    params, buffers = jax.tree.map(lambda a: a[0], (state.params, state.buffers))
    bags = Bags.of(np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32))
    outputs = [forward(prepared.engine.setup.graph, params, buffers, bags, None, p)[0] for p in ("bfloat16", "float32")]
    assert outputs[0].logits.dtype == outputs[0].attention.dtype == jnp.float32
    # it was computed in bfloat16: some digits are gone, and not many
    gap = np.abs(np.asarray(outputs[0].logits - outputs[1].logits))
    assert 0 < gap.max() < 0.02 * (1 + np.abs(np.asarray(outputs[1].logits)).max())
    np.testing.assert_allclose(np.asarray(outputs[0].attention).sum(1), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_the_gradient_is_near_that_of_float32():
    """Of a mean cross-entropy: within 3 % of its length, and float32."""
    prepared = prepare(planted.experiment(width=4))
    group = prepared.group(0)
    state = start(prepared.engine, prepared.experiment.model, 6, 1, group)
    params, buffers = jax.tree.map(lambda a: a[1], (state.params, state.buffers))
    bags = Bags.of([prepared.study.read(i).x for i in range(6)])

    def loss(params, precision):
        logits = forward(prepared.engine.setup.graph, params, buffers, bags, None, precision)[0].logits[:, 0]
        return jnp.mean(jnp.logaddexp(0.0, logits) - logits * (jnp.arange(6) % 2))

    low, exact = (jax.grad(loss)(params, p) for p in ("bfloat16", "float32"))
    flat = lambda tree: np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])  # noqa: E731
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(low))
    assert 0 < np.linalg.norm(flat(low) - flat(exact)) < 0.03 * np.linalg.norm(flat(exact))


def test_its_effect_is_that_on_the_validation_part_and_is_in_runs_csv(folder):
    """The columns against predictions made here from the kept weights, one run by hand."""
    with open(folder / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["precision_part"] for row in rows] == ["validation"] * len(rows)
    for row in rows:
        assert int(row["precision_bags"]) == int(row["n_validation"])
        assert 0 < float(row["precision_median"]) <= float(row["precision_largest"]) < 0.05
        assert float(row["precision_largest"]) < float(row["precision_logit"])  # a sigmoid is flatter than a quarter
    prepared = prepare(half(planted.experiment(width=4)))
    group, runs = prepared.group(0), prepared.members(0)
    state = start(prepared.engine, prepared.experiment.model, 6, 1, group)
    like = {s: {"params": state.params, "buffers": state.buffers} for s in ("validation", "last")}
    kept = checkpoint.load(folder / "weights" / "0000.safetensors", like)[0]["validation"]
    exact = in_float32(prepared.engine)
    assert exact.setup.train.precision == "float32"
    part = prepared.engine.part(group.validation, [s.validation for s in prepared.plan.splits])
    said = exact.predict(group, kept["params"], kept["buffers"], part)[2]
    written = Predictions.read(folder / "predictions.csv")
    own = (written.run == runs[2].name) & (written.role == "validation") & (written.selection == "validation")
    bag = {str(b): z for b, z in zip(written.bag[own], written.logits[own], strict=True)}
    gaps = np.abs([bag[str(prepared.study.bag[row])] - out for row, out, _ in said])
    assert float(rows[2]["precision_logit"]) == pytest.approx(gaps.max(), rel=1e-4)


@pytest.mark.slow
def test_the_report_says_it(folder):
    api.report(folder)
    text = (folder / "report.md").read_text()
    assert "Models computed in bfloat16" in text
    assert "Computed in bfloat16" in text.split("How it was made")[0]  # a mark at the head
    results = json.loads((folder / "results.json").read_text())
    assert "computed in bfloat16" in results["marks"]
    assert "computed in bfloat16" in json.loads((folder / "config.json").read_text())["marks"]


def test_in_float32_nothing_is_said(tmp_path):
    execute(replace(planted.experiment(width=4), seeds=1), tmp_path / "run")
    assert "precision" not in (tmp_path / "run" / "runs.csv").read_text()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["marks"] == []


@pytest.mark.slow
def test_without_a_validation_part_the_training_part_is_asked(tmp_path):
    study = half(planted.experiment(width=4), select="last", epochs=1)
    execute(replace(study, protocol=KFold(folds=3, validation=0.0), seeds=1), tmp_path / "run")
    with open(tmp_path / "run" / "runs.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert row["precision_part"] == "train"
            assert row["precision_bags"] == row["n_train"]


@pytest.mark.slow
def test_differences_of_values_are_in_the_units_of_the_target(tmp_path):
    """Regression: targets have SD 10, so a value moves by more than its standardised logit."""
    study = half(planted.experiment(width=4), epochs=1, select="loss")
    execute(replace(study, data=planted.regression(), task=Regression(), seeds=1), tmp_path / "run")
    with open(tmp_path / "run" / "runs.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert 5 < float(row["precision_largest"]) / float(row["precision_logit"]) < 20
