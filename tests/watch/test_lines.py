"""Lines that one process appends and another reads."""

import json
import subprocess
import sys

from milkit.watch.lines import Tail, append


def test_each_line_is_read_once(tmp_path):
    path = tmp_path / "p.jsonl"
    tail = Tail(path)
    assert tail.new() == []  # not there yet
    append(path, {"a": 1})
    append(path, {"a": 2})
    assert tail.new() == [{"a": 1}, {"a": 2}]
    assert tail.new() == []
    append(path, {"a": 3})
    assert tail.new() == [{"a": 3}]


def test_a_line_that_is_not_whole_yet_waits(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"a": 1}\n{"a"')
    tail = Tail(path)
    assert tail.new() == [{"a": 1}]
    with open(path, "a") as f:
        f.write(": 2}\n")
    assert tail.new() == [{"a": 2}]


def test_a_line_cut_by_a_kill_spoils_no_other(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"a": 1}\n{"a": 22')
    append(path, {"a": 3})
    assert Tail(path).new() == [{"a": 1}, {"a": 3}]


def test_two_writers_never_mix_their_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    code = (
        "import sys, pathlib; from milkit.watch.lines import append\n"
        "for i in range(200): append(pathlib.Path(sys.argv[1]), dict(writer=int(sys.argv[2]), i=i, fill='x' * 300))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), str(writer)]) for writer in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((r["writer"], r["i"]) for r in rows) == [(w, i) for w in range(2) for i in range(200)]


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path):
    append(tmp_path / "absent" / "p.jsonl", {"a": 1})
    assert Tail(tmp_path / "absent" / "p.jsonl").new() == []
