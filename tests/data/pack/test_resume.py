"""A pack that was killed anywhere goes on to the same bytes; one that cannot go on says why and loses nothing."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from foreign_files import grid, trident

from milkit.data.pack import files, pack, packer
from milkit.data.store import open_store
from milkit.errors import DataError
from tests.data.pack.conftest import names, values

TWO = 64 / 2**30  # GiB of a shard: two of the slides


class Died(BaseException):
    """Stands for a kill: nothing in the code catches it."""


def dies_at(monkeypatch, place, name, call, after=False):
    """Let a function die at its call of that number, before or after its work."""
    real, calls = getattr(place, name), []

    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) == call and not after:
            raise Died
        result = real(*args, **kwargs)
        if len(calls) == call:
            raise Died
        return result

    monkeypatch.setattr(place, name, dying)


@pytest.fixture
def undisturbed(job, tmp_path):
    pack(job, "whole/s.h5", shard_gib=TWO, mpp=0.25)
    return {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


def written(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_killed_by_the_system_and_gone_on_with(job, tmp_path, undisturbed):
    """SIGKILL after the third of four slides; what was written then is not written again."""
    code = f"""
        import os, signal
        from milkit.data.pack import pack
        def kill(done, of):
            if done == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        pack({str(job.relative_to(tmp_path))!r}, "r/s.h5", shard_gib={TWO}, mpp=0.25, progress=kill)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path / "r") == [".s.h5.pack"]
    with pytest.raises(DataError, match="go on with --resume, or throw it away with --overwrite"):
        pack(job.relative_to(tmp_path), "r/s.h5", shard_gib=TWO, mpp=0.25)
    report = pack(job.relative_to(tmp_path), "r/s.h5", shard_gib=TWO, mpp=0.25, resume=True)
    assert report.resumed == 3
    pack(job.relative_to(tmp_path), "again/s.h5", shard_gib=TWO, mpp=0.25)
    assert written(tmp_path / "r") == written(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name", "call", "after"),
    [
        (files, "lay_out_features", 2, True),
        (packer, "convert_none", 0, False),
        (files, "write_rest", 1, False),
        (files, "write_rest", 2, True),
        (packer, "write_whole", 2, False),
        (packer.os, "replace", 5, False),
        (packer.os, "replace", 6, False),
        (packer.os, "replace", 6, True),
    ],
)
def test_died_anywhere(job, tmp_path, undisturbed, monkeypatch, place, name, call, after):
    """Laying out, completing, noting and naming the files: each may be the last thing that was done."""
    with monkeypatch.context() as patched:
        if name == "convert_none":
            patched.setattr(packer.Packer, "convert", lambda self: (_ for _ in ()).throw(Died))
        else:
            dies_at(patched, place, name, call, after)
        with pytest.raises(Died):
            pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25)
    assert ".s.h5.pack" in names(tmp_path / "r")
    pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25, resume=True)
    assert written(tmp_path / "r") == undisturbed


def died_after(job, slides, monkeypatch, **options):
    """A pack that died when so many slides were written; gives its work folder."""
    with monkeypatch.context() as patched:
        dies_at(patched, packer.Work, "note", slides, after=True)
        with pytest.raises(Died):
            pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25, **options)
    return job.parents[2] / "r" / ".s.h5.pack"


def test_what_the_disk_lost_is_written_again(job, tmp_path, undisturbed, monkeypatch):
    """A journal whose last line was cut short, and a slide whose bytes never reached the disk."""
    work = died_after(job, 3, monkeypatch)
    journal = work / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])
    with (work / "shard-00001.h5").open("r+b") as file:
        place = open_place(work / "shard-00001.h5")
        file.seek(place)
        file.write(b"\0\0")
    report = pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25, resume=True)
    assert report.resumed == 1
    assert written(tmp_path / "r") == undisturbed


def open_place(path):
    """Byte of a slide's first value."""
    first = np.float16(values(0, 1)[0, 0]).tobytes() + np.float16(values(0, 1)[0, 1]).tobytes()
    return path.read_bytes().index(first)


def test_other_features_or_options_are_not_gone_on_with(job, tmp_path, monkeypatch):
    work = died_after(job, 2, monkeypatch)
    with pytest.raises(DataError, match="options have changed since"):
        pack(job, "r/s.h5", shard_gib=TWO, mpp=0.26, resume=True)
    state = os.stat(job / "a.h5")
    os.utime(job / "a.h5", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(DataError, match="features, their files or the options have changed"):
        pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25, resume=True)
    assert len((work / "journal.jsonl").read_text().splitlines()) == 2  # a refusal loses nothing
    pack(job, "r/s.h5", shard_gib=TWO, mpp=0.26, overwrite=True)
    assert open_store(tmp_path / "r" / "s-00001-of-00002.h5").read("a").mpp == 0.26
    assert names(tmp_path / "r") == ["s-00001-of-00002.h5", "s-00002-of-00002.h5"]


def test_resume_without_a_pack_before_is_a_pack(job, tmp_path, undisturbed):
    assert pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25, resume=True).resumed == 0
    assert written(tmp_path / "r") == undisturbed


def test_one_pack_at_a_time(job, tmp_path):
    work = tmp_path / ".s.h5.pack"
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="Another milkit pack is writing"):
            pack(job, "s.h5")


def test_a_full_disk_keeps_what_was_done(job, tmp_path, undisturbed, monkeypatch):
    real, calls = os.pwrite, []

    def full(*args):
        calls.append(1)
        if len(calls) > 7:  # features and positions of two slides, and a part of the third
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(DataError, match="No space left on device; make room and give --resume"):
            pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25)
    assert pack(job, "r/s.h5", shard_gib=TWO, mpp=0.25, resume=True).resumed == 2
    assert written(tmp_path / "r") == undisturbed


def test_bytes_that_do_not_read_back_are_found(job, tmp_path, monkeypatch):
    real = files.sync

    def rots(path):
        real(path)
        if path.name == "shard-00001.h5":
            with path.open("r+b") as file:
                file.seek(open_place(path))
                file.write(b"\1")

    with monkeypatch.context() as patched:
        patched.setattr(files, "sync", rots)
        with pytest.raises(DataError, match="does not read back as it was written"):
            pack(job, "s.h5")
    assert names(tmp_path) == [".s.h5.pack", "job"]
    assert pack(job, "s.h5", resume=True).resumed == 3


def test_a_file_that_changes_meanwhile_is_refused(job, monkeypatch):
    real = packer.lay_out

    def changes(*args):
        trident(job.parents[1], "c", values(7, 5), grid(5))
        return real(*args)

    monkeypatch.setattr(packer, "lay_out", changes)
    with pytest.raises(DataError, match=r"c\.h5 has changed while it was packed"):
        pack(job, "s.h5")


def test_the_journal_is_readable(job, monkeypatch):
    work = died_after(job, 2, monkeypatch)
    entries = [json.loads(line) for line in (work / "journal.jsonl").read_text().splitlines()]
    assert [entry["index"] for entry in entries] == [0, 1]
    assert len(entries[0]["features"]) == 64
