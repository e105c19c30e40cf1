"""What a timing was taken on: written into the JSON of every benchmark. No host name and no user name."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("milkit", "jax", "jaxlib", "flax", "numpy", "torch", "torchmil")


def machine() -> dict[str, Any]:
    """Processor, cores, load and versions, as JSON-able values."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
