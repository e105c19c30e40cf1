"""Memory that was freed is kept for the next use, instead of going back to the operating system.

XLA on a CPU asks for the memory of a program's steps anew at each call. What is larger than 32 MiB glibc takes from
the operating system and gives back afterwards, so that each call begins with page faults: in the gradient of a bag of
10,000 instances they are a tenth of the time (benchmarks/zoo_speed.py).
"""

import ctypes
import sys

MOST = 1 << 28
"""Bytes: larger pieces go back at once."""
TOTAL = 1 << 30
"""Bytes that stay at most."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep freed memory. Only glibc has such a setting.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, MOST)) and bool(mallopt(_TRIM_THRESHOLD, TOTAL))
