"""Compiled programs kept on disk between invocations: a study that is repeated or resumed starts without compiling."""

import os
import time
import warnings
import zlib
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Let JAX keep what it compiles under `$XDG_CACHE_HOME/milkit` (default `~/.cache/milkit`).

    Entries are found by the program's content, so results do not change. A cache that the user has set up, or switched
    off by an empty `JAX_COMPILATION_CACHE_DIR`, is left alone.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "milkit" / "compiled"
    drop_damaged(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # of an entry that another process is writing at this moment: it is compiled anew, which is all there is to do
    warnings.filterwarnings("ignore", message="Error reading persistent compilation cache entry")


WRITING_SECONDS = 60.0


def drop_damaged(folder: Path) -> None:
    """Take away entries that a killed process left half-written; JAX would neither use them nor write them again.

    Only what was written since the last look is read, and what may still be being written is left alone.
    """
    stamp = folder / "checked"
    try:
        since, now = stamp.stat().st_mtime if stamp.exists() else 0.0, time.time()
        fresh = [f for f in folder.glob("*-cache") if since - WRITING_SECONDS < f.stat().st_mtime]
        for file in fresh:
            data = file.read_bytes()
            if now - file.stat().st_mtime > WRITING_SECONDS and not data.startswith(_ZSTANDARD) and not _whole(data):
                file.unlink()
        if folder.exists():
            stamp.touch()
    except OSError:  # a cache is a convenience: somebody else's process may take away a file meanwhile
        return


_ZSTANDARD = bytes.fromhex("28b52ffd")  # which JAX uses where it is installed; such entries check themselves


def _whole(data: bytes) -> bool:
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True
