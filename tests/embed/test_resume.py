"""Going on after a stop: the same bytes in the end, and little encoded twice."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from milkit.data.store import open_store
from milkit.embed.part import FEATURES, JOURNAL, part_folder

BLOCK = 64
"""Tiles of a block where tiles are small."""


@pytest.fixture
def whole(cohort):
    """The bytes of an undisturbed store, which is taken away again."""
    cohort.embed()
    whole = cohort.out.read_bytes()
    cohort.out.unlink()
    return whole


def command(cohort):
    return [
        sys.executable, "-m", "milkit", "embed", str(cohort.table), "--tiles", str(cohort.tiles), "--encoder",
        "own_encoder:encode", "--out", str(cohort.out), "--batch", "8",
    ]  # fmt: skip


def test_kill_minus_9_and_the_same_command_again(cohort, whole, monkeypatch, root):
    """Killed in the second block of the first slide, and in the second slide; then the end, in this process."""
    paths = os.pathsep.join(map(str, [root, Path(__file__).parent]))
    logs = []
    for until in (300, 450):
        log = cohort.root / f"log{until}"
        log.touch()
        environment = {**os.environ, "PYTHONPATH": paths, "EMBED_LOG": str(log), "EMBED_SLEEP": "0.005"}
        process = subprocess.Popen(command(cohort), env=environment, cwd=cohort.root)
        try:
            while log.stat().st_size < until:
                assert process.poll() is None, "ended before it was killed"
                time.sleep(0.002)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not cohort.out.exists()
        logs.append(log.stat().st_size)
    monkeypatch.setenv("EMBED_LOG", str(cohort.root / "last"))
    assert cohort.embed() == 0
    assert cohort.out.read_bytes() == whole
    assert not list(cohort.root.glob(".*"))
    logs.append((cohort.root / "last").stat().st_size)
    # no stop costs more than the block that was computed and the one that was written
    assert 900 <= sum(logs) <= 900 + 2 * 2 * BLOCK
    assert logs[2] <= 300  # the first slide, and what the second kill left of it, was not encoded again


def interrupted(cohort, monkeypatch, after=300):
    """Stopped by an encoder that raises after some tiles; the folder of the first slide."""
    import own_encoder

    encode, seen = own_encoder.encode, []

    def stops(tiles):
        seen.extend(tiles)
        if len(seen) > after:
            raise ValueError("enough")
        return encode(tiles)

    with monkeypatch.context() as patch:
        patch.setattr(own_encoder, "encode", stops)
        assert cohort.embed() == 2
    return part_folder(cohort.root / ".store.h5.embed", "a")


def test_what_was_torn_is_encoded_again(cohort, whole, monkeypatch, capsys):
    """Rows that nobody noted, half a line, a byte of the second block, a line that claims too much."""

    def tear(part, what):
        features, journal = part / FEATURES, part / JOURNAL
        if what == "rows":
            features.write_bytes(features.read_bytes() + b"half a row")
        elif what == "line":
            journal.write_text(journal.read_text()[:-9])
        elif what == "byte":
            raw = bytearray(features.read_bytes())
            raw[(BLOCK + 3) * 9 * 2] ^= 1
            features.write_bytes(raw)
        else:
            line = {**json.loads(journal.read_text().splitlines()[0]), "width": 10**12}
            journal.write_text(json.dumps(line) + "\n")

    for what, kept in (("rows", 256), ("line", 192), ("byte", 64), ("claim", 0)):
        part = interrupted(cohort, monkeypatch)
        tear(part, what)
        capsys.readouterr()
        assert cohort.embed() == 0
        assert f"a: 600 tiles{f' ({kept} of them encoded before)' if kept else ''}\n" in capsys.readouterr().out
        assert cohort.out.read_bytes() == whole
        cohort.out.unlink()


def test_other_settings_are_refused(cohort, whole, monkeypatch, capsys):
    interrupted(cohort, monkeypatch)
    capsys.readouterr()
    assert cohort.embed("--batch", "16") == 2
    said = capsys.readouterr().err
    assert "batch was 8, now 16" in said
    assert "--anew" in said
    assert cohort.embed("--dtype", "float32") == 2
    assert "dtype was 'float16', now 'float32'" in capsys.readouterr().err
    assert cohort.embed("--dtype", "float32", "--anew") == 0
    assert open_store(cohort.out).dtype == "float32"
    assert cohort.embed("--overwrite") == 0
    assert cohort.out.read_bytes() == whole


def test_a_slide_that_was_tiled_again_begins_anew(cohort, whole, monkeypatch, capsys):
    interrupted(cohort, monkeypatch)
    os.utime(cohort.folder / "a.png", ns=(1, 1))
    cohort.tile(cohort.folder / "a.png", "--force")
    capsys.readouterr()
    assert cohort.embed() == 0
    assert "a: 600 tiles\n" in capsys.readouterr().out
    assert open_store(cohort.out).read("a").x.tobytes() in whole


def test_a_part_that_changed_on_the_disk_is_no_part_of_a_store(cohort, whole, monkeypatch, capsys):
    part = interrupted(cohort, monkeypatch, after=700)  # the first slide is finished
    raw = bytearray((part / FEATURES).read_bytes())
    raw[-1] ^= 1
    (part / FEATURES).write_bytes(raw)
    assert cohort.embed() == 2
    assert "does not read back" in capsys.readouterr().err
    assert not cohort.out.exists()
    assert cohort.embed() == 0
    assert cohort.out.read_bytes() == whole


@pytest.mark.parametrize("bytes_", [3000, 20000])  # in the first slide; in the store, when all is encoded
def test_a_disk_that_is_full(cohort, whole, capsys, bytes_):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        status = cohort.embed()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert status == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert "repeat the command" in said
    assert not cohort.out.exists()
    assert cohort.embed() == 0
    assert cohort.out.read_bytes() == whole


def test_stopped_in_the_last_moment_and_while_another_store_is_half_made(cohort, whole, monkeypatch, capsys):
    from milkit.embed import run

    def stopped(work):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_remove", stopped)
        assert cohort.embed() == 130
    assert cohort.out.read_bytes() == whole
    assert list(cohort.root.glob(".*"))
    assert cohort.embed() == 0
    assert not list(cohort.root.glob(".*"))
    # a replacement that is half made is not swept away with it
    import own_encoder

    encode, seen = own_encoder.encode, []

    def stops(tiles):
        seen.extend(tiles)
        if len(seen) > 300:
            raise KeyboardInterrupt
        return encode(tiles)

    with monkeypatch.context() as patch:
        patch.setattr(own_encoder, "encode", stops)
        assert cohort.embed("--dtype", "float32", "--overwrite") == 130
    assert cohort.embed() == 0
    assert cohort.out.read_bytes() == whole
    capsys.readouterr()
    assert cohort.embed("--dtype", "float32", "--overwrite") == 0
    assert "a: 600 tiles (256 of them encoded before)" in capsys.readouterr().out
