"""The width that a device's memory holds: found by asking the compiler, remembered by the run folder."""

import json
from dataclasses import replace

import pytest

from milkit.execute.prepare import prepare
from milkit.execute.run import execute
from milkit.execute.width import SHARE, device_limit, fitted, program_bytes, remembered, widest


def held(each, fixed=1000):
    """Bytes of a program: what all runs share, and what each needs."""
    return lambda width: fixed + each * width


@pytest.mark.parametrize(
    ("budget", "runs", "expected"),
    [
        (10_000, 100, 50),  # (10000 - 1000) / 100 = 90 fit, which makes two programs, and 50 are enough for those
        (10_000, 90, 90),
        (10_000, 1000, 84),  # 90 fit: 12 programs, and 84 are enough for them
        (1_100, 50, 1),
        (0, 50, 1),  # nothing fits: it is tried one by one
        (10**9, 7, 7),
        (10**9, 10_000, 500),  # 512 at most: 20 programs
        (1_250, 3, 2),  # small studies are asked for as they are; 3 do not fit
    ],
)
def test_the_widest_program_that_fits_and_no_fillers(budget, runs, expected):
    assert widest(held(100), budget, runs) == expected


def test_a_program_that_grows_faster_than_a_line_is_cut_down():
    def curved(width):
        return 100 * width + width**3

    width = widest(curved, 50_000, 400)
    assert curved(width) <= 50_000


def test_each_run_needs_memory_by_the_compilers_account(experiment):
    small = program_bytes(prepare(replace(experiment, train=replace(experiment.train, width=1))))
    large = program_bytes(prepare(replace(experiment, train=replace(experiment.train, width=6))))
    # five more runs hold at least their parameters, and Adam's or the momentum's copy, twice (before and after)
    assert large > small > 0


@pytest.mark.slow
def test_a_limit_decides_the_width_unless_the_experiment_does(experiment):
    free = replace(experiment, train=replace(experiment.train, width=None))
    prepared = prepare(free)
    runs = len(prepared.runs)
    assert fitted(prepared, None) is prepared  # a CPU
    assert fitted(prepared, 1 << 40).width == runs
    assert fitted(prepared, 1).width == 1
    six = program_bytes(fitted(prepared, 1 << 40))
    assert fitted(prepared, int(six / SHARE) + 2).width == runs
    assert fitted(prepared, int(six / SHARE) - 2).width < runs
    fixed = prepare(experiment)
    assert fitted(fixed, 1 << 40) is fixed


def test_a_study_is_resumed_at_the_width_it_was_started_with(experiment, tmp_path, monkeypatch):
    free = replace(experiment, train=replace(experiment.train, width=None, epochs=1))
    monkeypatch.setattr("milkit.execute.run.device_limit", lambda: 1 << 40)
    execute(free, tmp_path / "run")
    width = json.loads((tmp_path / "run" / "config.json").read_text())["width"]
    assert width == 6
    monkeypatch.setattr("milkit.execute.run.device_limit", lambda: 1)
    assert remembered(free, tmp_path / "run").train.width == 6
    assert remembered(experiment, tmp_path / "run").train.width == 2
    execute(free, tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["width"] == 6


def test_a_cpu_has_no_limit():
    assert device_limit() is None
