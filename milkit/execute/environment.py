"""What a number depends on besides the experiment: versions, device, precision."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from milkit.cores import pool_size
from milkit.errors import ConfigError

PACKAGES = ("milkit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "h5py", "safetensors")


def environment() -> dict[str, Any]:
    """Versions, device and settings, as JSON-able values. No host name and no user name."""
    devices = jax.devices()
    settings: Any = jax.config  # its flags are attributes that type checkers cannot see
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "threads": pool_size() if jax.default_backend() == "cpu" else 0,
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "matmul_precision": str(settings.jax_default_matmul_precision or "default"),
        "x64": bool(settings.jax_enable_x64),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "command": " ".join(["milkit", *sys.argv[1:]]) if Path(sys.argv[0]).stem == "milkit" else "(from Python)",
        "git_commit": _git_commit(),
    }


def decides_bits(env: dict[str, Any]) -> dict[str, Any]:
    """The part of an environment that must agree before two runs can be expected to agree to the bit."""
    names = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "backend",
        "device",
        "devices",
        "threads",
        "matmul_precision",
        "x64",
        "xla_flags",
    )
    return {name: env.get(name) for name in names}


def seconds_from(variable: str, default: float) -> float:
    """A number of seconds that an environment variable may set.

    Raises:
        ConfigError: it holds something else.
    """
    said = os.environ.get(variable, "")
    try:
        seconds = float(said or default)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"The environment variable {variable} is {said!r}; give a number of seconds, or unset it.")
    return seconds


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str:
    """Commit of the folder that the study was started from, with `+` where files differ from it; "" without git."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
