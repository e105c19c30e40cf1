"""The pool of threads that a study was started with, which every process that goes on with it takes.

A study records its size (see `milkit.cores`), so that a worker on one core, or a resume on another machine, gives the
same bits.
"""

import os
from collections.abc import Mapping
from typing import Any

from milkit.cores import VARIABLE, pool_size


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
