"""Ctrl-C and SIGTERM: never lost, never half a file, and the study goes on to the same bits."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from safetensors import safe_open

from milkit.cli import main
from milkit.errors import Interrupted
from milkit.execute.interrupt import SIGNALS, interruptible
from milkit.execute.run import execute
from milkit.train.engine import Engine


@pytest.fixture(autouse=True)
def heard():
    """Signals as in a terminal: a shell starts its background jobs with Ctrl-C ignored, and tests may run in one."""
    before = {n: signal.getsignal(n) for n in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    execute(experiment, out)
    return out


def signal_at(monkeypatch, calls, number):
    """Let a signal arrive in the so-manieth epoch, inside a callback of the garbage collector (as XLA has one)."""
    whole, count = Engine.epoch, [0]

    def in_callback(phase, info):
        gc.callbacks.remove(in_callback)
        signal.raise_signal(number)

    def epoch(self, *args):
        count[0] += 1
        if count[0] == calls:
            gc.callbacks.append(in_callback)
            gc.collect()
        return whole(self, *args)

    monkeypatch.setattr(Engine, "epoch", epoch)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_python_would_drop_ends_the_study_after_the_epoch(
    experiment, finished, tmp_path, monkeypatch, number, status
):
    before = [signal.getsignal(n) for n in SIGNALS]
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, 6, number)
        with pytest.raises(Interrupted, match=r"after epoch 2 of program 2 of 3\..*--resume") as stop:
            execute(experiment, out)
    assert stop.value.status == status
    assert [signal.getsignal(n) for n in SIGNALS] == before
    # one program of four epochs was whole, two epochs of the second are in its checkpoint
    assert len((out / "runs.csv").read_text().splitlines()) == 1 + 2
    with safe_open(out / "programs" / "0001" / "checkpoint.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["milkit"])["epochs"] == 2
    execute(experiment, out, resume=True)
    for name in ("predictions.csv", "history.jsonl"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_a_study_that_watches_the_test_part_resumes_to_the_same_bytes(experiment, tmp_path, monkeypatch):
    watching = replace(experiment, optimistic="loss", seeds=1)
    execute(watching, tmp_path / "whole")
    with monkeypatch.context() as patch:
        signal_at(patch, 3, signal.SIGINT)
        with pytest.raises(Interrupted):
            execute(watching, tmp_path / "run")
    execute(watching, tmp_path / "run", resume=True)
    whole, resumed = (tmp_path / name / "predictions.csv" for name in ("whole", "run"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert b",optimistic," in whole.read_bytes()


def test_before_the_first_epoch_nothing_is_written(experiment, tmp_path, monkeypatch):
    def prepare(experiment):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("milkit.execute.run.prepare", prepare)
    with pytest.raises(Interrupted, match=r"^interrupted\. ") as stop:
        execute(experiment, tmp_path / "run")
    assert stop.value.status == 143
    assert not (tmp_path / "run").exists()


def test_the_second_ctrl_c_ends_at_once():
    code = (
        "import os, signal; from milkit.execute.interrupt import interruptible\n"
        "with interruptible() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT); assert stop(); print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('and still')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == -signal.SIGINT
    assert run.stdout == "still here\n"
    assert "Ctrl-C again ends at once" in run.stderr


def test_a_signal_that_is_ignored_stays_ignored_and_threads_are_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
            signal.raise_signal(signal.SIGTERM)  # the handler gives back what it took, and no other
            assert stop()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    seen = []

    def elsewhere():
        with interruptible() as stop:
            seen.append(stop())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]


def test_the_command_line_says_where_it_stopped(monkeypatch, capsys, tmp_path):
    def run(*args, **kwargs):
        raise Interrupted("after epoch 7 of program 1 of 2", 143)

    monkeypatch.setattr("milkit.api.run", run)
    assert main(["demo", "--out", str(tmp_path / "run")]) == 143
    error = capsys.readouterr().err
    assert "milkit demo: interrupted after epoch 7 of program 1 of 2. What had finished is readable" in error
    assert "--resume" in error
    assert not os.path.exists(tmp_path / "run")
