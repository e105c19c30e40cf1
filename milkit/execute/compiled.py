"""Compiled programs kept on disk between invocations: a study that is repeated or resumed starts without compiling."""

import os
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
    jax.config.update("jax_compilation_cache_dir", str(home / "milkit" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
