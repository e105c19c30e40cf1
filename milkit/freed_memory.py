"""Memory that was freed is kept for the next use, instead of going back to the operating system.

XLA on a CPU asks for the memory of a program's steps anew at each call. What is larger than 32 MiB glibc takes from
the operating system and gives back afterwards, so that each call begins with page faults: in the gradient of a bag of
10,000 instances they are a tenth of the time (benchmarks/zoo_speed.py).
"""

import ctypes
import sys

MOST = 1 << 30
"""Bytes: larger pieces go back at once."""
TOTAL = 1 << 30
"""Bytes that stay at most."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # numbers of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep freed memory. Only glibc has such settings.

    All threads share one heap then: one that a thread has for itself goes back as soon as it is empty. To be called
    before threads have begun.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, MOST), (_TRIM_THRESHOLD, TOTAL))
    return all(mallopt(name, value) for name, value in settings)
