"""How a study stands, against lines whose answer is worked by hand."""

import io
import json

import pytest

from milkit.watch.standing import Reader
from milkit.watch.table import clock, facts, line, size, table


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)


def start(t=1000.0, session="a", **more):
    return {
        "time": t,
        "event": "start",
        "session": session,
        "name": "s",
        "programs": 3,
        "runs": 6,
        "epochs": 10,
        **more,
    }


def row(t, event, epoch, bags, best=(), program=0, pid=7, **more):
    return {
        "time": t, "event": event, "program": program, "pid": pid, "runs": 2, "epochs": 10, "epoch": epoch,
        "learning": 2, "bags": bags, "run_steps": bags // 2, "criterion": "loss", "best": list(best), "compiles": 3,
        "compile_seconds": 1.5, "compiles_cached": 1, "memory_bytes": 100 * 2**20, "memory_limit": None, **more,
    }  # fmt: skip


def program(out, number, rows, done=False):
    write(out / "programs" / f"{number:04d}" / "progress.jsonl", rows)
    if done:
        (out / "programs" / f"{number:04d}" / "done.json").write_text("[]")


@pytest.fixture
def out(tmp_path):
    """The first program took 20 s, the second has 4 of 10 epochs behind it, the third has not begun."""
    write(tmp_path / "progress.jsonl", [start()])
    program(tmp_path, 0, [row(1000, "start", 0, 0), row(1020, "done", 10, 4000, (0.1, 0.3))], done=True)
    program(tmp_path, 1, [
        row(1020, "start", 0, 0, program=1), row(1021, "epoch", 1, 400, (0.9, 0.9), 1),
        row(1024, "epoch", 4, 1600, (0.2, 0.4), 1),
    ])  # fmt: skip
    return tmp_path


def test_counts_quartiles_and_speed(out):
    s = Reader(out).read()
    assert (s.name, s.state, s.programs, s.done, s.running) == ("s", "running", 3, 1, 1)
    assert (s.runs, s.runs_done, s.learning) == (6, 2, 2)
    assert (s.epoch, s.epochs_done, s.epochs_total) == ((4, 4), 14, 30)
    # of .1 .2 .3 .4
    assert s.best == pytest.approx((0.175, 0.25, 0.325))
    assert s.best_runs == 4
    # since the first line after the start: 1200 bags in 3 s
    assert s.bags_per_second == pytest.approx(400)
    assert s.run_steps_per_second == pytest.approx(200)
    assert (s.compiled, s.compile_seconds, s.compiled_cached) == (6, 3.0, 2)
    # 14 epochs took 24 s, 16 are left
    assert s.seconds_left == pytest.approx(16 * 24 / 14, abs=0.1)


def test_speed_is_that_of_the_last_twenty_seconds(out):
    reader = Reader(out)
    reader.read()
    program(out, 1, [row(1024 + 5 * i, "epoch", 5, 1600 + 100 * i, program=1) for i in range(1, 9)])
    # a hundred bags every five seconds by now
    assert reader.read().bags_per_second == pytest.approx(20)


def test_lines_that_come_later_are_taken_up(out):
    reader = Reader(out)
    assert reader.read().epoch == (4, 4)
    program(out, 2, [row(1024, "start", 0, 0, program=2, pid=8)])
    program(out, 1, [row(1030, "epoch", 7, 2800, (0.2, 0.4), 1)])
    s = reader.read()
    assert (s.running, s.epoch, s.memory_bytes) == (2, (0, 7), 200 * 2**20)  # two processes


def test_what_an_earlier_session_left_is_not_running_and_a_new_attempt_is(out):
    write(out / "progress.jsonl", [{"time": 1025, "event": "end", "session": "a", "how": "stopped"}])
    reader = Reader(out)
    s = reader.read()
    assert (s.state, s.running, s.seconds_left) == ("stopped", 0, None)
    assert "stopped" in line(s)
    write(out / "progress.jsonl", [start(2000, "b")])
    assert (reader.read().state, reader.read().running) == ("running", 0)
    program(out, 1, [row(2001, "start", 3, 0, program=1), row(2003, "epoch", 5, 800, program=1)])
    s = reader.read()
    assert (s.running, s.epoch, s.epochs_done, s.seconds) == (1, (5, 5), 15, 3.0)
    # both attempts compiled
    assert s.compiled == 9
    # one epoch a second now; 15 are left
    assert s.seconds_left == pytest.approx(15)


def test_a_process_that_was_killed_does_not_count_beside_one_that_speaks(out):
    write(out / "progress.jsonl", [start(1200, "b")])
    s = Reader(out).read()
    assert (s.state, s.running, s.seconds) == ("running", 0, 0.0)


def test_two_processes_share_a_folder(out):
    write(out / "progress.jsonl", [start(1010, "b"), {"time": 1024, "event": "study", "session": "a"}])
    program(out, 2, [row(1012, "start", 0, 0, program=2, pid=8), row(1013, "epoch", 1, 100, program=2, pid=8)])
    s = Reader(out).read()
    assert (s.running, s.epoch, s.seconds) == (2, (1, 4), 24.0)


def test_no_study_no_standing(tmp_path):
    assert Reader(tmp_path).read() is None


def test_the_table_says_it_in_words(out):
    s = Reader(out).read()
    told = dict(facts(s))
    assert told["programs"] == "1 done, 1 running, 3 in all"
    assert told["epoch"] == "4 of 10"
    assert told["best validation loss"] == "median 0.250, quartiles 0.175 and 0.325, over 4 runs"
    assert told["speed"] == "400 bags/s, 200 run-steps/s"
    assert told["memory"] == "100 MiB"
    assert told["compiled"] == "6 functions in 3.0 s, 2 from the cache"
    assert line(s).startswith("s: 14 of 30 epochs; 1 of 3 programs done; best validation loss 0.250 (median)")
    assert not [text for pair in told.items() for text in pair if "test" in text]

    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(s))
    shown = console.export_text()
    assert "47 %" in shown
    assert "median 0.250" in shown


def test_times_and_sizes_that_a_person_reads():
    assert [clock(v) for v in (8.2, 185.0, 9600.0)] == ["8 s", "3 min 05 s", "2 h 40 min"]
    assert [size(v) for v in (5 * 2**20, 3 * 2**29)] == ["5 MiB", "1.5 GiB"]
