"""Cores of this machine, and how many threads XLA computes with on a CPU, which decides the last bits of a result.

XLA makes its pool as large as the cores that the process may use, unless `$NPROC` says otherwise, and cuts sums by its
size. How many cores really work on it changes no bit.
"""

import os

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
