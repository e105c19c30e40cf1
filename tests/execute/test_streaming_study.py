"""A whole study in streaming mode: files, sensible numbers, the same bits after a kill, and from its own folder."""

import csv
import json
from dataclasses import replace

import numpy as np
import planted
import pytest

from milkit import api
from milkit.data.cohort import Cohort
from milkit.errors import DataError, RunFolderError
from milkit.execute import memory
from milkit.execute import program as program_module
from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.predictions import Predictions
from milkit.train.config import Adam
from milkit.train.streaming import StreamEngine


@pytest.fixture(scope="module")
def streamed(experiment):
    return replace(experiment, train=replace(experiment.train, memory="stream"))


@pytest.fixture(scope="module")
def finished(streamed, tmp_path_factory):
    out = tmp_path_factory.mktemp("stream") / "whole"
    execute(streamed, out)
    return out


def settings(out):
    return json.loads((out / "config.json").read_text())


def predictions(out):
    return (out / "predictions.csv").read_bytes()


class Killed(BaseException):
    """Stands for a kill: nothing of ours may catch it."""


@pytest.mark.slow
@pytest.mark.parametrize("calls", [3, 6])
def test_a_killed_study_resumes_to_the_same_bits(streamed, finished, tmp_path, monkeypatch, calls):
    """Killed in mid-program: what was trained ahead is lost, and trained again."""
    monkeypatch.setattr(program_module, "CHECKPOINT_SECONDS", 0.0)
    whole, count = StreamEngine.epoch, [0]

    def epoch(self, *args):
        count[0] += 1
        if count[0] == calls:
            raise Killed
        return whole(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(StreamEngine, "epoch", epoch)
        with pytest.raises(Killed):
            execute(streamed, tmp_path / "run")
    execute(streamed, tmp_path / "run", resume=True)
    for name in ("predictions.csv", "runs.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 2 * 4


def test_what_is_planted_is_found(streamed, tmp_path):
    """Every instance of a positive bag is shifted: a trained model ranks nearly all bags rightly."""
    xs, _ = planted.bags(40)
    rows = [{"label": str(i % 2)} for i in range(40)]
    data = planted.cohort([x + 2.0 * (i % 2) for i, x in enumerate(xs)], rows)
    train = replace(streamed.train, optimizer=Adam(0.02), epochs=15, standardise=True, width=6)
    execute(replace(streamed, data=data, train=train), tmp_path / "run")
    p = Predictions.read(tmp_path / "run" / "predictions.csv")
    for selection in ("validation", "last"):
        rows = (p.role == "test") & (p.selection == selection)
        high, low = (p.logits[rows & (p.target[:, 0] == label), 0] for label in (1, 0))
        assert (high[:, None] > low).mean() > 0.95


def test_predictions_hold_every_patient_once_a_seed_on_the_test_part(finished):
    p = Predictions.read(finished / "predictions.csv")
    for selection in ("validation", "last"):
        for seed in (0, 1):
            rows = (p.role == "test") & (p.selection == selection) & (p.seed == seed)
            assert sorted(p.bag[rows].tolist()) == [f"p{i:03d}" for i in range(24)]


def test_the_mode_taken_is_recorded_and_kept_by_a_replay(experiment, tmp_path, monkeypatch):
    """A machine with little memory streams; elsewhere, the run's own folder still means streaming."""
    xs, _ = planted.bags(24)
    made = planted.stored(tmp_path, planted.cohort(xs, [{"label": str(i % 2)} for i in range(24)]), "cohort")
    stated = replace(experiment, data=Cohort(str(made[1]), str(made[0])), seeds=1)
    with monkeypatch.context() as patched:
        patched.setattr(memory, "machine_bytes", lambda: 100)
        execute(stated, tmp_path / "small")
    assert settings(tmp_path / "small")["memory"] == "stream"
    assert settings(tmp_path / "small")["experiment"]["train"]["memory"] == "auto"
    again = api.replay(tmp_path / "small" / "config.json")
    assert again.experiment.train.memory == "stream"
    execute(again.experiment, tmp_path / "again")
    assert predictions(tmp_path / "small") == predictions(tmp_path / "again")
    # nor does the file that stated it take another mode to go on, on a machine with other memory
    (tmp_path / "small" / "programs" / "0000" / "done.json").unlink()
    execute(stated, tmp_path / "small", resume=True)
    assert predictions(tmp_path / "small") == predictions(tmp_path / "again")
    with pytest.raises(RunFolderError, match="memory: 'stream' there, 'resident' now"):
        execute(replace(stated, train=replace(stated.train, memory="resident")), tmp_path / "small", resume=True)


def test_patients_of_several_slides_are_read_as_one_bag(experiment, tmp_path):
    """A bag of three slides has the instances of all three, one after the other."""
    xs, _ = planted.bags(36)
    rows = [{"label": str(i // 3 % 2), "patient_id": f"q{i // 3:02d}"} for i in range(36)]
    store, table = planted.stored(tmp_path, planted.cohort(xs, rows, coords=True), "slides", dtype="float16")
    data = Cohort(str(table), str(store), site="-")
    results = {}
    for mode in ("stream", "resident"):
        train = replace(experiment.train, memory=mode, epochs=1, width=2)
        prepared = prepare(replace(experiment, data=data, train=train, seeds=1))
        assert prepared.study.lengths[0] == sum(len(x) for x in xs[:3])
        group = prepared.group(0)
        state = prepared.first_state(0, group)
        part = prepared.engine.part(group.validation, [s.validation for s in prepared.plan.splits])
        results[mode] = prepared.engine.predict(group, state.params, state.buffers, part)
    for a, b in zip(results["stream"], results["resident"], strict=True):
        assert [row for row, _, _ in a] == [row for row, _, _ in b]
        for (_, x, _), (_, y, _) in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_the_optimistic_switch_leaves_the_trajectory_as_it_is(streamed, finished, tmp_path):
    execute(replace(streamed, optimistic="auroc"), tmp_path / "run")

    def rows(out):
        with open(out / "predictions.csv") as file:
            return [tuple(r.values()) for r in csv.DictReader(file) if r["selection"] != "optimistic"]

    assert rows(tmp_path / "run") == rows(finished)
    p = Predictions.read(tmp_path / "run" / "predictions.csv")
    assert "optimistic" in set(p.selection)


def test_a_cohort_beyond_memory_is_refused_where_it_was_to_be_resident(experiment, monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 100)
    with pytest.raises(DataError, match=r"GiB.*memory='stream'"):
        prepare(replace(experiment, train=replace(experiment.train, memory="resident")))
