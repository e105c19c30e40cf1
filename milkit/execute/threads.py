"""How many threads XLA computes with on a CPU, which decides how it cuts sums and so the last bits of a result.

XLA makes its pool as large as the cores that the process may use, unless `$NPROC` says otherwise. A study therefore
records the size it was started with, and every process that goes on with it (a worker on one core, a resume on another
machine) makes a pool of that size. How many cores really work on it changes no bit.
"""

import os
from collections.abc import Mapping
from typing import Any

VARIABLE = "NPROC"


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pool_size() -> int:
    """Threads of the pool that XLA has, or will make."""
    said = os.environ.get(VARIABLE, "")
    return int(said) if said.isdecimal() else len(usable_cores())


def same_pool(environment: Mapping[str, Any]) -> None:
    """Take the pool of a study's `environment.json`; without effect once JAX has started its device.

    And as many devices, which decide bits for another reason (`milkit.execute.spreading`).
    """
    threads, devices = environment.get("threads"), environment.get("devices")
    if environment.get("backend") == "cpu" and isinstance(devices, int) and not _started():
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
    if isinstance(threads, int) and threads != pool_size() and not _started():
        os.environ[VARIABLE] = str(threads)


def _started() -> bool:
    """Whether the device is made; asking JAX itself would make it."""
    from jax._src import xla_bridge  # there is no public way to ask

    return bool(xla_bridge.backends_are_initialized())
