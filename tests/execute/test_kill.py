"""`milkit run` killed for real, and gone on with elsewhere. `python -m benchmarks.kill_resume` does it twenty times."""

import signal
import time

import pytest


@pytest.fixture
def study(tmp_path, root, monkeypatch):
    """A file with a study of two programs, and the harness of the benchmark."""
    monkeypatch.syspath_prepend(str(root))
    from benchmarks import kill_resume

    file = tmp_path / "planted.py"
    file.write_text(kill_resume.STUDY.format(epochs=100, seeds=1))
    return file, kill_resume


@pytest.mark.slow
def test_a_study_killed_in_training_and_in_its_report_ends_with_the_same_bytes(study, tmp_path):
    """SIGKILL, workers first; then SIGKILL of one process while it writes its report; then the end, in a third way."""
    file, harness = study
    out, log = tmp_path / "killed", tmp_path / "log.txt"
    assert harness.start(file, tmp_path / "whole", ("local",), log).wait() == 0, log.read_text()

    process = harness.start(file, out, ("processes", "--workers", "2"), log)
    found = harness.kill_once(process, out, "programs/*/checkpoint.safetensors", 0)
    assert found == {"killed": "the study", "workers_gone": True}, log.read_text()

    process = harness.start(file, out, ("local",), log)
    found = harness.kill_once(process, out, "results.json", 0)
    assert found is not None, log.read_text()
    assert not (out / "report.html").exists()

    assert harness.start(file, out, ("processes", "--workers", "1"), log).wait() == 0, log.read_text()
    assert harness.digests(out) == harness.digests(tmp_path / "whole")
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_sigterm_ends_workers_with_checkpoints(study, tmp_path):
    file, harness = study
    out, log = tmp_path / "run", tmp_path / "log.txt"
    process = harness.start(file, out, ("processes", "--workers", "1"), log)
    while not list(out.glob("programs/*/checkpoint.safetensors")):
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    workers = harness.children(process.pid)
    for file in out.glob("programs/*/checkpoint.safetensors"):
        file.unlink(missing_ok=True)  # what is there afterwards was written because of the signal
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert harness.gone(workers, 1.0)
    assert "interrupted after epoch" in log.read_text()
    running = [f.parent for f in out.glob("programs/*/.claim") if not (f.parent / "done.json").exists()]
    assert running
    assert all((folder / "checkpoint.safetensors").exists() for folder in running)
