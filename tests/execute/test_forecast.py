"""A dry run: what it says against what the study then is, and that it leaves nothing."""

import os
from dataclasses import replace

import jax
import numpy as np
import planted
import pytest

from milkit.cli import main
from milkit.commands.dry_run import words
from milkit.execute.forecast import forecast
from milkit.execute.prepare import prepare
from milkit.execute.run import execute


@pytest.fixture(scope="module")
def told(experiment):
    return forecast(experiment, seconds=0.2)


def test_it_says_what_the_study_is(experiment, told):
    prepared = prepare(experiment)
    assert (told.runs, told.programs, told.width) == (6, 3, 2)
    assert (told.splits, told.seeds, told.epochs) == (3, 2, 4)
    assert (told.bags, told.instances, told.features) == (24, int(prepared.study.lengths.sum()), 6)
    assert told.steps == prepared.engine.layout.total_steps
    state = prepared.first_state(0, prepared.group(0))
    assert told.parameters == sum(x[0].size for x in jax.tree.leaves(state.params))
    assert (told.memory, told.few_label_runs, told.trials) == ("resident", 0, 0)


def test_waste_is_counted_by_hand(experiment, told):
    lengths = prepare(experiment).study.lengths
    rungs = [r.length for r in told.rungs]
    padded = [min(r for r in rungs if r >= n) for n in lengths]
    assert told.waste == pytest.approx(1 - lengths.sum() / sum(padded))
    assert [r.bags for r in told.rungs] == [padded.count(r) for r in rungs]


def test_memory_holds_at_least_data_and_states(experiment, told):
    # parameters, their best copy, and momentum, of both runs
    assert told.bytes_held > 4 * told.instances * told.features + 2 * 3 * 4 * told.parameters


def test_the_time_is_that_of_its_parts(told):
    assert told.epoch_seconds > 0.0
    assert told.seconds == pytest.approx(told.compile_seconds + 3 * 4 * told.epoch_seconds)


def test_longer_studies_take_longer(experiment, told):
    longer = forecast(replace(experiment, seeds=4, train=replace(experiment.train, epochs=400)), seconds=0.2)
    assert longer.programs == 6
    assert longer.seconds > 10 * told.seconds - 9 * told.compile_seconds


def test_it_says_how_many_configurations_a_search_tries(experiment):
    from milkit.search import Choice, Grid

    search = Grid({"train.optimizer.learning_rate": Choice(1e-3, 1e-2, 1e-1)})
    told = forecast(replace(experiment, search=search), seconds=0.1)
    assert told.trials == 3
    assert "3 configurations" in words(told)


def test_it_says_how_many_runs_have_few_labels(experiment):
    from milkit import LabelBudget

    told = forecast(replace(experiment, labels=LabelBudget((2,), draws=2)), seconds=0.1)
    # 3 folds x 2 seeds x 2 draws
    assert (told.runs, told.few_label_runs) == (6, 12)


def test_streaming(experiment):
    streamed = replace(experiment, train=replace(experiment.train, memory="stream"))
    told = forecast(streamed, seconds=0.1)
    assert (told.memory, told.bytes_held) == ("stream", None)
    # each bag that some run of the program trains on is read once
    assert told.steps == len(np.unique(np.concatenate(prepare(streamed).group(0).train)))
    assert "instances are read while it trains" in words(told)


def test_no_bag_outside_a_runs_training_part_is_trained_on(experiment, monkeypatch):
    from milkit.train.engine import Engine

    prepared, whole, seen = prepare(experiment), Engine.epoch, []

    def epoch(self, group, state, number, validation):
        seen.append(group.train)
        return whole(self, group, state, number, validation)

    monkeypatch.setattr(Engine, "epoch", epoch)
    forecast(experiment, seconds=0.1)
    own = prepared.group(0).train
    assert seen
    for parts in seen:
        assert all(np.isin(part, allowed).all() for part, allowed in zip(parts, own, strict=True))


FILE = """
import sys; sys.path.insert(0, {tests!r})
import planted
study = planted.experiment(width=2)
"""


def test_the_command_leaves_nothing(tmp_path, monkeypatch, capsys, root):
    (tmp_path / "study.py").write_text(FILE.format(tests=str(root / "tests")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    before = sorted(p for p in tmp_path.rglob("*"))
    assert main(["run", "study.py:study", "--dry-run", "--train.epochs", "7"]) == 0
    said = capsys.readouterr().out
    assert "3 of 2 runs" in said
    assert "7 epochs at most" in said
    assert "an estimate" in said
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_its_bits_are_not_those_of_the_run(experiment, tmp_path):
    """A study that follows a dry run is what it would have been."""
    forecast(experiment, seconds=0.1)
    execute(experiment, tmp_path / "after")
    execute(planted.experiment(width=2), tmp_path / "other")
    assert (tmp_path / "after/predictions.csv").read_bytes() == (tmp_path / "other/predictions.csv").read_bytes()
