"""A run folder from start to end: what is in it, that it can be repeated, and that nothing finished is lost."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import planted
import pytest

from milkit.data.protocol import KFold
from milkit.errors import ConfigError, NonFiniteError, RunFolderError
from milkit.execute import program as program_module
from milkit.execute.folder import locked
from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.predictions import Predictions
from milkit.train.config import Sgd
from milkit.train.engine import Engine


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    execute(experiment, out)
    return out


def predictions(out):
    return (out / "predictions.csv").read_bytes()


def test_every_file_of_the_run_folder_is_there(finished):
    there = {p.name for p in finished.iterdir()}
    assert {
        "config.json", "environment.json", "cohort.json", "folds.csv", "runs.csv", "history.jsonl", "predictions.csv",
        "top_instances.csv", "attention.json", "weights",
    } <= there  # fmt: skip
    assert not list(finished.rglob("*.tmp"))


def test_each_patient_is_tested_once_a_seed_and_selection(finished):
    p = Predictions.read(finished / "predictions.csv")
    test = p.role == "test"
    assert set(p.selection) == {"validation", "last"}
    for selection in ("validation", "last"):
        for seed in (0, 1):
            rows = test & (p.selection == selection) & (p.seed == seed)
            assert sorted(p.bag[rows].tolist()) == [f"p{i:03d}" for i in range(24)]
    assert (p.selected_epoch[p.selection == "last"] == 4).all()
    assert ((p.selected_epoch >= 1) & (p.selected_epoch <= 4)).all()


def test_roles_in_predictions_are_those_of_the_folds_file(finished):
    import csv

    with open(finished / "folds.csv") as f:
        folds = {(r["fold"], r["bag"]): r["role"] for r in csv.DictReader(f)}
    p = Predictions.read(finished / "predictions.csv")
    for fold, bag, role in zip(p.fold, p.bag, p.role, strict=True):
        assert folds[(str(fold), str(bag))] == role


def test_history_tells_of_training_and_validation_only(finished):
    lines = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 2 * 4
    for line in lines:
        assert not [k for k in line if "test" in k or "optimistic" in k]
        assert line["fit"] == "validation"


def test_the_selected_epoch_is_the_one_of_least_validation_loss(finished):
    best = {}
    for line in map(json.loads, (finished / "history.jsonl").read_text().splitlines()):
        best.setdefault(line["run"], []).append((line["validation_loss"], line["epoch"]))
    p = Predictions.read(finished / "predictions.csv")
    for run, losses in best.items():
        rows = (p.run == run) & (p.selection == "validation")
        assert set(p.selected_epoch[rows].tolist()) == {min(losses)[1]}


def test_the_same_experiment_gives_the_same_bits(experiment, finished, tmp_path):
    execute(experiment, tmp_path / "again")
    assert predictions(tmp_path / "again") == predictions(finished)


class Killed(BaseException):
    """Stands for a kill: nothing of ours may catch it."""


def kill_at(monkeypatch, calls):
    """Raise at the so-manieth epoch from now on."""
    whole, count = Engine.epoch, [0]

    def epoch(self, *args):
        count[0] += 1
        if count[0] == calls:
            raise Killed
        return whole(self, *args)

    monkeypatch.setattr(Engine, "epoch", epoch)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [3, 7])
def test_a_killed_run_resumes_to_the_same_bits(experiment, finished, tmp_path, monkeypatch, calls):
    """Killed in mid-program, before and after a whole program; checkpoints are written every epoch here."""
    monkeypatch.setattr(program_module, "CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_at(patch, calls)
        with pytest.raises(Killed):
            execute(experiment, out)
    if calls > 4:  # one program of two runs had finished, and is readable
        assert set(Predictions.read(out / "predictions.csv").run) == {"r0f0s0", "r0f0s1"}
    execute(experiment, out, resume=True)
    assert predictions(out) == predictions(finished)
    assert (out / "history.jsonl").read_bytes() == (finished / "history.jsonl").read_bytes()


@pytest.mark.slow
def test_a_really_killed_process_resumes_to_the_same_bits(finished, tmp_path, root):
    """SIGKILL from inside at the seventh epoch, then the same command with resume, in fresh processes."""
    script = f"""
import os, sys
sys.path[:0] = [{str(root / "tests")!r}]
import planted
from milkit.data.protocol import KFold
from milkit.experiment import Experiment
from milkit.models import ABMIL
from milkit.train.config import Sgd, Train
from milkit.train.engine import Engine
from milkit.execute.run import execute
from pathlib import Path
experiment = Experiment(name="planted", data=planted.binary(), protocol=KFold(folds=3, validation=0.25),
    model=ABMIL(encoder=(8,), attention=4), train=Train(Sgd(0.05, momentum=0.9), epochs=4, width=2, buckets=2), seeds=2)
whole, count = Engine.epoch, [0]
def epoch(self, *args):
    count[0] += 1
    if count[0] == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return whole(self, *args)
Engine.epoch = epoch
execute(experiment, Path(sys.argv[1]), resume=len(sys.argv) > 3)
"""
    out = str(tmp_path / "killed")
    first = subprocess.run([sys.executable, "-c", script, out, "7"], capture_output=True)
    assert first.returncode == -9
    second = subprocess.run([sys.executable, "-c", script, out, "-1", "resume"], capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert predictions(tmp_path / "killed") == predictions(finished)


def test_a_full_disk_keeps_what_was_finished(experiment, finished, tmp_path, monkeypatch):
    out = tmp_path / "full"
    whole, written = os.fsync, [0]

    def fsync(handle):
        written[0] += 1
        if (out / "programs" / "0000" / "done.json").exists() and written[0] < 1000:
            written[0] += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(RunFolderError, match=r"could not be written \(No space left on device\)"):
            execute(experiment, out)
    assert (out / "programs" / "0000" / "predictions.csv").exists()
    execute(experiment, out, resume=True)
    assert predictions(out) == predictions(finished)


def test_a_folder_with_a_run_is_not_touched(experiment, finished):
    before = predictions(finished)
    with pytest.raises(RunFolderError, match=r"already holds a run.*--resume.*--force"):
        execute(experiment, finished)
    assert predictions(finished) == before


def test_a_folder_with_other_files_is_not_touched(experiment, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(RunFolderError, match="no run folder"):
            execute(experiment, tmp_path, force=force)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_resume_refuses_another_experiment(experiment, finished):
    with pytest.raises(RunFolderError, match=r"experiment\.train\.epochs: 4 there, 5 now"):
        execute(replace(experiment, train=replace(experiment.train, epochs=5)), finished, resume=True)


def test_force_replaces(experiment, tmp_path):
    small = replace(experiment, seeds=1, train=replace(experiment.train, epochs=1))
    execute(experiment, tmp_path / "run")
    execute(small, tmp_path / "run", force=True)
    assert set(Predictions.read(tmp_path / "run" / "predictions.csv").seed) == {0}


def test_two_writers_are_kept_apart(experiment, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(RunFolderError, match="Another process is writing"):
        execute(experiment, tmp_path / "run")


@pytest.mark.slow
def test_a_diverging_run_is_named_and_what_it_had_is_kept(experiment, tmp_path):
    wild = replace(experiment, train=replace(experiment.train, optimizer=Sgd(1e30, momentum=0.0)))
    out = tmp_path / "wild"
    with pytest.raises(NonFiniteError, match=r"Run r0f\ds\d .*finite in epoch \d+.*learning rate"):
        execute(wild, out)
    assert list((out / "programs" / "0000").glob("checkpoint.safetensors"))
    assert (out / "history.jsonl").exists()


def test_selection_without_a_validation_part_is_refused_when_the_experiment_is_written(experiment):
    with pytest.raises(ConfigError, match="validation=0"):
        replace(experiment, protocol=KFold(folds=3, validation=0.0))


def test_without_validation_the_last_epoch_is_kept(experiment, tmp_path):
    out = tmp_path / "last"
    train = replace(experiment.train, select="last")
    execute(replace(experiment, protocol=KFold(folds=3, validation=0.0), train=train, seeds=1), out)
    p = Predictions.read(out / "predictions.csv")
    assert set(p.selection) == {"last"}
    assert set(p.role) == {"test"}
    assert np.isnan(p.threshold).all()


@pytest.mark.slow
def test_optimistic_selection_watches_the_honest_trajectory_and_leaves_it_alone(experiment, finished, tmp_path):
    out = tmp_path / "optimistic"
    execute(replace(experiment, optimistic="accuracy"), out)
    p = Predictions.read(out / "predictions.csv")
    honest = Predictions.read(finished / "predictions.csv")
    rows = p.selection != "optimistic"
    assert np.array_equal(p.logits[rows], honest.logits)
    assert (p.selection == "optimistic").sum() == (honest.selection == "last").sum()
    # the epoch is the one of best accuracy on the test part of the same trajectory: no worse than any other pick
    right = (p.logits[:, 0] > 0) == (p.target[:, 0] > 0)
    test = p.role == "test"
    for run in set(p.run):
        best, last = (right[test & (p.run == run) & (p.selection == s)].mean() for s in ("optimistic", "last"))
        assert best >= last
    assert "optimistic" not in (out / "history.jsonl").read_text()


@pytest.mark.slow
def test_optimistic_selection_is_the_best_epoch_of_studies_that_stop_at_each_epoch(experiment, tmp_path):
    """Also without a validation part, as papers that select on test have none."""
    bare = replace(
        experiment, protocol=KFold(folds=2, validation=0.0), seeds=1, train=replace(experiment.train, select="last")
    )

    def accuracy(e, selection, name):
        execute(e, tmp_path / name)
        p = Predictions.read(tmp_path / name / "predictions.csv")
        p = p.take(p.selection == selection)
        return {str(r): float((((p.logits > 0) == (p.target > 0))[p.run == r]).mean()) for r in set(p.run)}

    watched = accuracy(replace(bare, optimistic="accuracy"), "optimistic", "watched")
    each = [
        accuracy(replace(bare, train=replace(bare.train, epochs=n)), "last", f"epochs{n}")
        for n in range(1, bare.train.epochs + 1)
    ]
    assert watched == {run: max(found[run] for found in each) for run in watched}


def test_optimism_is_measured_without_a_validation_part(experiment, tmp_path):
    out = tmp_path / "run"
    last = replace(experiment.train, select="last")
    paper = replace(experiment, protocol=KFold(folds=3, validation=0.0), train=last, optimistic="accuracy", seeds=1)
    execute(paper, out)
    p = Predictions.read(out / "predictions.csv")
    assert set(p.selection) == {"last", "optimistic"}
    assert set(p.role) == {"test"}


def test_top_instances_are_the_largest_attention_weights(finished):
    shown = json.loads((finished / "attention.json").read_text())["bags"]
    assert {b["target"] for b in shown} == {"0", "1"}
    for bag in shown:
        assert sum(bag["attention"]) == pytest.approx(1.0, abs=1e-4)
        assert len(bag["attention"]) == bag["n"]


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["patient", "slide"])
def test_both_units_of_analysis(experiment, tmp_path, unit):
    """Twelve patients with two slides each."""
    xs, _ = planted.bags(24)
    rows = [{"label": str((i // 2) % 2)} for i in range(24)]
    for i, row in enumerate(rows):
        xs[i][0, 0] += 3.0 * int(row["label"])
    data = planted.cohort(xs, [r | {"patient_id": f"q{i // 2}"} for i, r in enumerate(rows)])
    out = tmp_path / unit
    execute(replace(experiment, data=data, unit=unit, protocol=KFold(folds=3, validation=0.25)), out)
    p = Predictions.read(out / "predictions.csv")
    test = (p.role == "test") & (p.selection == "last") & (p.seed == 0)
    assert test.sum() == (12 if unit == "patient" else 24)
    assert len(set(p.patient[test])) == 12
    if unit == "patient":
        assert set(p.slide[test].tolist()) == {f"b{2 * i:03d};b{2 * i + 1:03d}" for i in range(12)}


def test_resume_refuses_other_features(experiment, tmp_path, monkeypatch):
    """The table and the settings are the same; the features were made anew with other numbers."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            execute(experiment, out)
    with pytest.raises(RunFolderError, match="data_digest"):
        execute(replace(experiment, data=planted.binary(shift=2.0)), out, resume=True)


@pytest.mark.slow
def test_a_start_that_was_killed_before_its_config_can_be_started_again(experiment, finished, tmp_path):
    out = tmp_path / "run"
    (out / "programs").mkdir(parents=True)
    (out / "environment.json").write_text("{}")
    execute(experiment, out)
    assert predictions(out) == predictions(finished)


def test_force_takes_away_what_milkit_wrote_and_nothing_else(experiment, tmp_path):
    out = tmp_path / "run"
    small = replace(experiment, seeds=1, train=replace(experiment.train, epochs=1))
    execute(small, out)
    (out / "notes.md").write_text("my notes")
    execute(small, out, force=True)
    assert (out / "notes.md").read_text() == "my notes"
    foreign = tmp_path / "other"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"architectures": ["ViT"]}')
    with pytest.raises(RunFolderError, match="not written by milkit"):
        execute(small, foreign, force=True)


@pytest.mark.slow
def test_a_failed_run_fails_again_on_resume(experiment, tmp_path):
    """Also when the failure came in the last epoch, where nothing is left to train."""
    wild = replace(experiment, train=replace(experiment.train, optimizer=Sgd(1e30, momentum=0.0), epochs=1))
    for resume in (False, True):
        with pytest.raises(NonFiniteError, match="not finite"):
            execute(wild, tmp_path / "wild", resume=resume)


@pytest.mark.slow
def test_a_validation_loss_that_is_not_finite_names_its_bag(experiment, tmp_path):
    from milkit.data.protocol import Holdout
    from milkit.models import BagStatistics

    one = replace(experiment, protocol=Holdout(test=0.25, validation=0.25), model=BagStatistics(), seeds=1)
    held = int(prepare(one).plan.splits[0].validation[0])
    xs, _ = planted.bags(24)
    xs[held][:] = 3e38
    data = planted.cohort(xs, [{"label": str(i % 2)} for i in range(24)])
    with pytest.raises(NonFiniteError, match=f"on validation, bag 'p{held:03d}'"):
        execute(replace(one, data=data), tmp_path / "run")


@pytest.mark.slow
def test_the_last_epoch_of_a_run_that_stopped_early_is_its_own(experiment, tmp_path):
    train = replace(experiment.train, optimizer=Sgd(0.5, momentum=0.9), epochs=12, patience=2)
    execute(replace(experiment, train=train), tmp_path / "run")
    last: dict[str, int] = {}
    for line in map(json.loads, (tmp_path / "run" / "history.jsonl").read_text().splitlines()):
        last[line["run"]] = max(last.get(line["run"], 0), line["epoch"])
    assert len(set(last.values())) > 1  # runs stopped at different epochs
    p = Predictions.read(tmp_path / "run" / "predictions.csv")
    for run, epoch in last.items():
        assert set(p.selected_epoch[(p.run == run) & (p.selection == "last")].tolist()) == {epoch}


def test_a_kill_between_history_and_checkpoint_leaves_no_epoch_twice(experiment, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(program_module, "CHECKPOINT_SECONDS", 0.0)
    whole, written = program_module.write_bytes, [0]

    def write_bytes(path, data):
        written[0] += path.name.startswith("checkpoint")
        if written[0] == 3:
            raise Killed
        whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(program_module, "write_bytes", write_bytes)
        with pytest.raises(Killed):
            execute(experiment, tmp_path / "run")
    execute(experiment, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == (finished / "history.jsonl").read_bytes()
