"""What a device can do at most, measured on it, and what a gated attention net asks of it at least."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp


def best_of(work: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds: the least of some repeats, after one that compiles."""
    jax.block_until_ready(work())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - began)
    return min(times)


def limits(size: int = 8192, copied: int = 1 << 30) -> dict[str, float]:
    """Floating-point operations and bytes a second of the first device.

    Args:
        size: of the square matrices that are multiplied.
        copied: bytes that are read, and written again.
    """
    multiply = jax.jit(jnp.matmul)

    def product(dtype: Any) -> float:
        a = jnp.ones((size, size), dtype)
        return 2 * size**3 / best_of(lambda: multiply(a, a))

    x = jnp.ones(copied // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1.0)
    return {
        # float32 inputs at JAX's default precision, which is TF32 on recent NVIDIA cards
        "flops_float32": product(jnp.float32),
        "flops_bfloat16": product(jnp.bfloat16),
        "bytes_a_second": 2 * x.nbytes / best_of(lambda: copy(x)),
        "matrix": size,
        "copied_bytes": copied,
    }


def gated_step(instances: float, features: int, encoder: tuple[int, ...], attention: int, itemsize: int) -> Any:
    """Least work of one training step of one run on one bag: (operations, bytes).

    Counted are the matrix products of the forward and the backward pass (the first layer needs no gradient of its
    input), the bag read in both, each layer's output written once and read by the next layer and by the backward pass,
    its gradient written and read, and Adam's walk over parameters, gradient and both moments. Everything else is free.

    Args:
        instances: of the bag, padding included.
        features: of an instance.
        encoder, attention: of the model (`ABMIL`).
        itemsize: bytes of a stored feature.
    """
    widths = (features, *encoder)
    layers = list(pairwise(widths)) + [(widths[-1], attention)] * 2
    forward = sum(2.0 * instances * a * b for a, b in layers)
    first = 2.0 * instances * layers[0][0] * layers[0][1]
    parameters = sum(a * b + b for a, b in layers) + attention + 2 * widths[-1] + 2
    outputs = sum(b for _, b in layers)
    moved = 2 * instances * features * itemsize + 5 * instances * outputs * 4 + 8 * parameters * 4
    return 3 * forward - first, moved


def beside(seconds: float, steps: float, flops: float, moved: float, limit: dict[str, float]) -> dict[str, float]:
    """A measured time with the roofline's beside it.

    Args:
        seconds: that all the steps took.
        steps: how many (of all runs).
        flops, moved: of one, from `gated_step`.
        limit: from `limits`.
    """
    arithmetic = flops * steps / limit["flops_float32"]
    memory = moved * steps / limit["bytes_a_second"]
    return {
        "us_per_run_step": round(1e6 * seconds / steps, 2),
        "roofline_us_per_run_step": round(1e6 * max(arithmetic, memory) / steps, 2),
        "times_roofline": round(seconds / max(arithmetic, memory), 2),
        "bound_by": "arithmetic" if arithmetic > memory else "memory",
        "gflop_per_run_step": round(flops / 1e9, 3),
        "mib_per_run_step": round(moved / 2**20, 3),
        "share_of_arithmetic": round(arithmetic / seconds, 3),
        "share_of_bandwidth": round(memory / seconds, 3),
    }
