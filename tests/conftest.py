"""Shared fixtures, and the switch that checks shapes in milkit's signatures while tests run."""

import os
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # writers of files and studies that several folders use
# Most of the suite's time is compilation. Workers, processes that tests start, and later sessions share what one of
# them compiled; entries are found by the program's content, so a changed program is compiled anew.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# So that runs are shared out over devices whatever machine tests run on.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

# Before anything of milkit is imported: signatures are checked in tests only, users pay nothing.
install_import_hook("milkit", "beartype.beartype")


MANY_MAPS = 20_000
"""Memory maps of a process, of which Linux allows 65,530; each compiled program takes some, and XLA crashes without."""


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
    """Let go of compiled programs before there are too many for one process."""
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        import jax

        jax.clear_caches()


def shared_folder() -> Path:
    """Where the reference arrays and data sets are: $MILKIT_SHARED, else `../shared` beside the project."""
    return Path(os.environ.get("MILKIT_SHARED", ROOT.parent / "shared")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; a test that asks for it is skipped where it is absent."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no shared reference folder at {folder}; set MILKIT_SHARED to run this test")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT
