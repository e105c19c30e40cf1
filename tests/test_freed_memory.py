"""Freed memory is kept: the second use of as much memory has no page faults."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from threading import Thread
import numpy as np
from milkit.freed_memory import keep_freed_memory

def faults(found):
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(40 << 20, np.uint8)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

without, kept = [], []
faults(without)
took = keep_freed_memory()
thread = Thread(target=faults, args=(kept,))
thread.start()
thread.join()
print(took, without[-1], kept[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has the setting")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    said = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    took, without, kept = said.split()
    pages = (40 << 20) // 4096
    assert took == "True"
    assert int(kept) < int(without) / 10
    assert int(without) > pages / 600  # of 2 MiB, where the system has such
