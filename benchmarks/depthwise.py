"""Depthwise convolution on a CPU: a sum of shifted products, XLA's grouped convolution, and PyTorch.

    python -m benchmarks.depthwise --out benchmarks/results/depthwise.json      # 2 minutes; needs torch

A 5x5 kernel on 16 images of 28 x 28 pixels and 240 channels, float32, stride 1: the forward pass, and the forward pass
with the gradients of image and kernel. PyTorch has its images channels last or first, whichever is faster. All
contestants live in one process and take turns, so that a busy machine is busy for all; minima over turns are given, and
the median over turns of each ratio to the shifted sum. Their results agree, or there are no figures.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine

SHAPE, SIZE, PADDING = (16, 28, 28, 240), 5, (2, 2)
CONTESTANTS = ("shifted_sum", "grouped", "torch_channels_last", "torch_channels_first")


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """An image batch and a kernel, NHWC and HWIO."""
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal(SHAPE, dtype=np.float32),
        rng.standard_normal((SIZE, SIZE, 1, SHAPE[-1]), dtype=np.float32),
    )


def of_jax(name: str) -> dict[str, Callable[[], Any]]:
    """Forward pass, and with gradients."""
    import jax
    import jax.numpy as jnp

    from milkit.nn import depthwise

    f = partial(getattr(depthwise, name), stride=1, padding=PADDING)
    x, kernel = map(jnp.asarray, arrays())
    forward = jax.jit(f)
    both = jax.jit(jax.value_and_grad(lambda x, k: jnp.square(f(x, k)).sum(), (0, 1)))
    return {
        "forward": lambda: np.asarray(forward(x, kernel).block_until_ready()),
        "with_gradients": lambda: [np.asarray(g) for g in jax.block_until_ready(both(x, kernel))[1]],
    }


def of_torch(name: str) -> dict[str, Callable[[], Any]]:
    """The same; images come and go channels last in the comparison of results only."""
    import torch

    memory = torch.channels_last if name == "torch_channels_last" else torch.contiguous_format
    image, taps = arrays()
    x = torch.tensor(image.transpose(0, 3, 1, 2)).contiguous(memory_format=memory).requires_grad_()
    kernel = torch.tensor(taps.transpose(3, 2, 0, 1)).contiguous().requires_grad_()
    conv = partial(torch.nn.functional.conv2d, padding=PADDING, groups=SHAPE[-1])

    def forward() -> Any:
        with torch.no_grad():
            return conv(x, kernel).numpy().transpose(0, 2, 3, 1)

    def both() -> Any:
        gx, gk = torch.autograd.grad(conv(x, kernel).square().sum(), (x, kernel))
        return [gx.numpy().transpose(0, 2, 3, 1), gk.numpy().transpose(2, 3, 1, 0)]

    return {"forward": forward, "with_gradients": both}


def check(contestants: dict[str, dict[str, Callable[[], Any]]]) -> None:
    """Refuse to time what does not compute the same."""
    want = contestants["grouped"]
    for name, passes in contestants.items():
        for what, run in passes.items():
            for a, b in zip(run(), want[what](), strict=True):  # images of the batch, or both gradients
                if not np.allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max()):
                    raise SystemExit(f"{name} computes something else than XLA's convolution ({what}).")


def measure(turns: int) -> dict[str, Any]:
    """Milliseconds and ratios of each pass."""
    contestants = {name: (of_torch if name.startswith("torch") else of_jax)(name) for name in CONTESTANTS}
    check(contestants)
    result: dict[str, Any] = {}
    for what in ("forward", "with_gradients"):
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(turns):
            for name, passes in contestants.items():
                began = time.perf_counter()
                passes[what]()
                times[name].append((time.perf_counter() - began) * 1e3)
        ours = times["shifted_sum"]
        result[what] = {
            "ms": {name: round(min(t), 2) for name, t in times.items()},
            "times_the_shifted_sum": {
                name: round(statistics.median(a / b for a, b in zip(t, ours, strict=True)), 2)
                for name, t in times.items()
            },
        }
    return result


def main() -> None:
    """Time, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    on = machine()
    command = f"python -m benchmarks.depthwise --turns {options.turns}"
    result = {"command": command, "shape": SHAPE, "kernel": SIZE, **measure(options.turns), "machine": on}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
