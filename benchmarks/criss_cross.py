"""Criss-cross attention against its plain formulation and against full attention: time and memory, both directions.

    python -m benchmarks.criss_cross --out benchmarks/results/criss_cross.json     # about 2 minutes on 2 cores

Features of 1 image with 64 channels (queries and keys 8) at 32 x 32 to 128 x 128 pixels. Forward alone, and with the
gradients of query, key and value. `milkit`: line by line, recomputed for the gradient. `plain`: one softmax over an
array of H + W weights a pixel. `full`: every pixel to every pixel, of H * W weights a pixel, up to 64 x 64.

Memory is what the compiled program takes beside its arguments and results (XLA's own account), so it does not depend on
the load; times are the least of repeats in turns. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import machine
from milkit.nn.criss_cross import criss_cross

SIDES, CHANNELS, LARGEST_FULL = (32, 48, 64, 96, 128), 64, 64


def milkit(q: Any, k: Any, v: Any) -> Any:
    return criss_cross(q, k, v, jnp.ones(q.shape[:3], bool))


def plain(q: Any, k: Any, v: Any) -> Any:
    h = q.shape[1]
    column = jnp.einsum("bije,byje->bijy", q, k)
    column = jnp.where(jnp.eye(h, dtype=bool)[:, None], -jnp.inf, column)
    weight = jax.nn.softmax(jnp.concatenate([column, jnp.einsum("bije,bixe->bijx", q, k)], -1), -1)
    return jnp.einsum("bijy,byjc->bijc", weight[..., :h], v) + jnp.einsum("bijx,bixc->bijc", weight[..., h:], v)


def full(q: Any, k: Any, v: Any) -> Any:
    flat = [a.reshape(a.shape[0], -1, a.shape[-1]) for a in (q, k, v)]
    weight = jax.nn.softmax(jnp.einsum("bne,bme->bnm", flat[0], flat[1]), -1)
    return jnp.einsum("bnm,bmc->bnc", weight, flat[2]).reshape(v.shape)


def compiled(f: Callable[..., Any], pixels: list[Any], gradient: bool) -> Any:
    whole = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1, 2)) if gradient else f
    return jax.jit(whole).lower(*pixels).compile()


def measured(side: int, repeats: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(side)
    narrow = CHANNELS // 8
    pixels = [jnp.asarray(rng.normal(size=(1, side, side, c)), jnp.float32) for c in (narrow, narrow, CHANNELS)]
    programs = {
        (name, gradient): compiled(f, pixels, gradient)
        for name, f in {"milkit": milkit, "plain": plain, "full": full}.items()
        if name != "full" or side <= LARGEST_FULL
        for gradient in (False, True)
    }
    agree = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(programs["milkit", True](*pixels), programs["plain", True](*pixels), strict=True)
    )
    seconds: dict[Any, list[float]] = {key: [] for key in programs}
    for _ in range(repeats):
        for key, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*pixels))
            seconds[key].append(time.perf_counter() - start)
    return [
        {
            "side": side,
            "attention": name,
            "with_gradient": gradient,
            "milliseconds": round(1e3 * min(seconds[name, gradient]), 2),
            "temporary_bytes": (size := programs[name, gradient].memory_analysis().temp_size_in_bytes),
            "bytes_a_pixel": round(size / side**2, 1),
            "largest_difference_of_gradients": agree,
        }
        for name, gradient in programs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    found = {"machine": machine(), "rows": [row for side in SIDES for row in measured(side, options.repeats)]}
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    for row in found["rows"]:
        print(
            *[
                row[k]
                for k in ("side", "attention", "with_gradient", "milliseconds", "temporary_bytes", "bytes_a_pixel")
            ]
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
