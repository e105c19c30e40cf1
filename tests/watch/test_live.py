"""A study that is watched while it runs, on a terminal and off it, and read from its folder."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import jax
import planted
import pytest

from milkit.cli import main
from milkit.execute.run import execute
from milkit.watch.live import Live
from milkit.watch.standing import Reader

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "watched"
    jax.clear_caches()  # other tests of this process may have compiled the same study
    execute(planted.experiment(width=2), out)
    return out


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_program_tells_its_beginning_and_its_end(finished):
    for program in range(3):
        rows = lines(finished / "programs" / f"{program:04d}" / "progress.jsonl")
        assert [rows[0]["event"], rows[-2]["event"], rows[-1]["event"]] == ["start", "predict", "done"]
        assert (rows[-1]["epoch"], rows[-1]["runs"]) == (4, 2)
        # 12 bags train each of the two runs for 4 epochs
        assert (rows[-1]["bags"], rows[-1]["run_steps"]) == (96, 96)


def test_the_best_figures_are_those_of_the_history(finished):
    best = {}
    for row in lines(finished / "history.jsonl"):
        best[row["run"]] = min(best.get(row["run"], 9.0), row["validation_loss"])
    told = [v for p in range(3) for v in lines(finished / f"programs/{p:04d}/progress.jsonl")[-1]["best"]]
    assert sorted(told) == pytest.approx(sorted(best.values()), rel=1e-4)


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_program(finished):
    compiled = [lines(finished / f"programs/{p:04d}/progress.jsonl")[-1]["compiles"] for p in range(3)]
    assert compiled[0] > 0
    assert compiled[1:] == [0, 0]


def test_no_line_holds_a_test_figure(finished):
    rows = [row for path in finished.rglob("progress.jsonl") for row in lines(path)]
    assert rows
    assert not [name for row in rows for name in row if "test" in name or "optimistic" in name]


def test_the_study_ends_in_its_own_words(finished):
    rows = lines(finished / "progress.jsonl")
    assert rows[0]["event"] == "start"
    assert rows[-1] == {**rows[-1], "event": "end", "how": "finished"}
    standing = Reader(finished).read()
    assert (standing.state, standing.done, standing.epochs_done, standing.best_runs) == ("finished", 3, 12, 6)


def test_the_environment_says_where_the_time_went(finished):
    env = json.loads((finished / "environment.json").read_text())
    times = env["times"]
    assert {"import", "prepare", "compile", "train", "predict", "compiled", "compiled_cached"} <= times.keys()
    assert times["compiled"] > 0
    spent = sum(times[name] for name in ("prepare", "compile", "train", "predict"))
    assert 0.0 < spent <= env["seconds"] + 0.2


def test_what_goes_wrong_ends_the_table(tmp_path):
    with pytest.raises(ZeroDivisionError), Live(tmp_path, "s", 1, 1, 1):
        raise ZeroDivisionError
    assert lines(tmp_path / "progress.jsonl")[-1]["how"] == "stopped"


def test_watch_reads_the_folder(finished, tmp_path, capsys):
    assert main(["watch", str(finished)]) == 0
    said = capsys.readouterr().out
    assert "planted" in said
    assert "3 done, 0 running, 3 in all" in said
    assert main(["watch", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
    assert main(["watch", str(tmp_path)]) == 2
    assert "no study has run in it" in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "absent")]) == 2


def test_watching_needs_no_jax(finished):
    code = f"import sys; from milkit.cli import main; main(['watch', {str(finished)!r}]); print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_the_table_stands_on_a_terminal(tmp_path):
    """In a terminal of its own: the table is drawn, and drawn over."""
    code = (
        f"import sys, pathlib; sys.path.insert(0, {str(TESTS)!r})\n"
        "import planted; from milkit.execute.run import execute\n"
        f"execute(planted.experiment(width=2), pathlib.Path({str(tmp_path / 'run')!r}))"
    )
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    run = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=theirs, env=env)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert run.wait() == 0, shown.decode()
    os.close(ours)
    text = shown.decode()
    assert "3 done, 0 running, 3 in all" in text
    assert "best validation loss" in text
    assert "\x1b[" in text


def test_few_lines_where_there_is_no_terminal(tmp_path, capsys):
    execute(planted.experiment(width=2), tmp_path / "run")
    said = capsys.readouterr().err.splitlines()
    assert 1 <= len(said) <= 12
    assert said[-1].startswith("planted: 12 of 12 epochs; 3 of 3 programs done")
    assert said[-1].endswith("finished")
