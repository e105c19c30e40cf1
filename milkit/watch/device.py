"""How much memory a study holds: the device's where it counts its own, else the process's."""

import os
import resource
import sys


def memory() -> tuple[int, int | None]:
    """Bytes in use, and the most there can be (None where the device does not say).

    An accelerator counts what it holds; on a CPU it is the resident size of this process.
    """
    import jax

    stats = [s for d in jax.local_devices() if (s := d.memory_stats())]
    if stats:
        limits = [int(s["bytes_limit"]) for s in stats if "bytes_limit" in s]
        return sum(int(s.get("bytes_in_use", 0)) for s in stats), sum(limits) or None
    return resident(), None


def resident() -> int:
    """Bytes of main memory that this process holds now (the most it held, where the system does not say)."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def since_start() -> float | None:
    """Seconds since this process was started; None where the system does not say."""
    try:
        with open("/proc/self/stat") as f:
            started = int(f.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        with open("/proc/uptime") as f:
            return float(f.read().split()[0]) - started
    except (OSError, ValueError, IndexError):
        return None


_imported: float | None = None


def note_import() -> None:
    """Call when a command has imported what it needs: the time since its process was started is then known."""
    global _imported
    _imported = since_start()


def take_import() -> float:
    """What was noted, for the first study that asks; 0.0 for others, which had nothing to import."""
    global _imported
    seconds, _imported = _imported or 0.0, None
    return seconds
