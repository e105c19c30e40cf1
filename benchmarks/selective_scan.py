"""The selective recurrence on a CPU: place by place, and by an associative scan with the gradient that JAX derives.

    python -m benchmarks.selective_scan --out benchmarks/results/selective_scan.json      # 1 minute

One chunk of 256 places, 512 channels and 16 states, float32: the forward pass, and the gradients to all arguments. Both
live in one process and take turns, so that a busy machine is busy for both; minima over turns are given, and the median
over turns of the ratio. Their results agree, or there are no figures.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine

PLACES, CHANNELS, STATES = 256, 512, 16


def arrays() -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, np.ndarray]]:
    """Arguments, and gradients to both results."""
    rng = np.random.default_rng(0)
    wide, narrow, state = (1, PLACES, CHANNELS), (1, PLACES, STATES), (1, CHANNELS, STATES)
    rate = np.broadcast_to(np.arange(1.0, STATES + 1), state[1:])
    given = (
        rng.uniform(0.001, 0.1, wide), rng.normal(size=wide), rng.normal(size=narrow), rng.normal(size=narrow), rate,
        rng.normal(size=state),
    )  # fmt: skip
    bars = rng.normal(size=wide), rng.normal(size=state)
    return tuple(a.astype(np.float32) for a in given), (bars[0].astype(np.float32), bars[1].astype(np.float32))


def contestants() -> dict[str, dict[str, Callable[[], Any]]]:
    """Compiled passes of each form."""
    import jax
    import jax.numpy as jnp

    from milkit.nn import linear_system as forms

    given, bars = jax.tree.map(jnp.asarray, arrays())

    def passes(forward: Any, backward: Any) -> dict[str, Callable[[], Any]]:
        states, gradients = jax.jit(forward), jax.jit(backward)
        return {
            "forward": lambda: jax.block_until_ready(states(*given)),
            "gradients": lambda: jax.block_until_ready(gradients(given, bars)),
        }

    return {
        "one_by_one": passes(forms.one_by_one, forms.one_by_one_backwards),
        "by_association": passes(forms.by_association, forms.by_association_backwards),
    }


def measure(turns: int) -> dict[str, Any]:
    """Milliseconds of each pass, and times the one by one."""
    both, result = contestants(), {}
    for what in ("forward", "gradients"):
        for a, b in zip(both["one_by_one"][what](), both["by_association"][what](), strict=True):
            if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max()):
                raise SystemExit(f"The two forms compute something else ({what}).")
        times: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(turns):
            for name, passes in both.items():
                began = time.perf_counter()
                passes[what]()
                times[name].append((time.perf_counter() - began) * 1e3)
        ratios = [a / b for a, b in zip(times["by_association"], times["one_by_one"], strict=True)]
        result[what] = {
            "ms": {name: round(min(t), 2) for name, t in times.items()},
            "association_times_one_by_one": round(statistics.median(ratios), 2),
        }
    return result


def main() -> None:
    """Time, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    command = f"python -m benchmarks.selective_scan --turns {options.turns}"
    shape = {"places": PLACES, "channels": CHANNELS, "states": STATES}
    result = {"command": command, **shape, **measure(options.turns), "machine": machine()}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
