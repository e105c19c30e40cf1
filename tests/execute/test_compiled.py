"""The cache of compiled programs: what a killed process left half-written goes, all else stays."""

import os
import zlib

from milkit.execute.compiled import WRITING_SECONDS, drop_damaged


def test_half_written_entries_go_and_others_stay(tmp_path):
    whole = zlib.compress(b"a program" * 100)
    for name, data in {"whole": whole, "cut": whole[:-5], "empty": b"", "other": b"\x28\xb5\x2f\xfdxyz"}.items():
        (tmp_path / f"{name}-cache").write_bytes(data)
        long_ago = (tmp_path / f"{name}-cache").stat().st_mtime - 2 * WRITING_SECONDS
        os.utime(tmp_path / f"{name}-cache", (long_ago, long_ago))
    (tmp_path / "now-cache").write_bytes(whole[:-5])  # somebody may be writing it
    drop_damaged(tmp_path)
    left = sorted(f.name for f in tmp_path.iterdir())
    assert left == ["checked", "now-cache", "other-cache", "whole-cache"]


def test_no_cache_yet_is_no_error(tmp_path):
    drop_damaged(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
