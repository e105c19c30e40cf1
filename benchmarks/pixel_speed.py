"""Training steps and predictions of pixel-level networks: milkit against the same ones in PyTorch, on a CPU.

    python -m benchmarks.pixel_speed --out benchmarks/results/pixel_speed.json      # 5 minutes; needs the extra `bench`
    python -m benchmarks.pixel_speed --only 64 unet                                 # some rows

The PyTorch networks (`benchmarks/pixel_peers.py`) are written from the papers and have as many parameters as milkit's,
or nothing is timed. SA-MIL: its own loss; U-Net and the EfficientNet-Lite0 trunk: the mean square of what they give.
Every step ends with Adam. PyTorch has its images channels first and channels last; the faster counts.

The process is pinned to one core and both have one thread. All take turns, and what counts is the least *processor
time* of a turn, so that other work on the machine is not counted but for what it takes of caches and memory bandwidth
(`load_before` tells of it). With `--cores 2` both have two threads and the least wall time counts, which means
something only on a machine that does nothing else. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.machine import machine
from milkit.pixel import SAMIL, EfficientNetLite0, UNet
from milkit.types import Batch, Images


class Case(NamedTuple):
    """A row: the model's name and width, pixels a side, images a step."""

    model: str
    width: tuple[int, ...]
    side: int
    batch: int


CASES = {
    "64": Case("samil", (16, 32, 64), 64, 4),
    "128": Case("samil", (16, 32, 64), 128, 4),
    "256": Case("samil", (16, 32, 64), 256, 4),
    "paper": Case("samil", (64, 128, 256), 128, 4),
    "unet": Case("unet", (16, 32, 64, 128), 64, 16),
    "lite0": Case("lite0", (), 112, 8),
}
Programs = tuple[Callable[[], Any], Callable[[], Any], int]
"""A step that keeps its state between calls, a prediction, and the number of parameters."""


def of_milkit(case: Case, x: np.ndarray, y: np.ndarray) -> Programs:
    configs: dict[str, Callable[[], Any]] = {
        "samil": lambda: SAMIL.from_scratch(width=case.width),
        "unet": lambda: UNet.from_scratch(width=case.width),
        "lite0": EfficientNetLite0,
    }
    config = configs[case.model]()
    labels = () if case.model == "lite0" else (1,)
    graph, params, buffers = nnx.split(config.build(3, *labels, rngs=nnx.Rngs(0)), nnx.Param, ...)
    mask, target, image = jnp.ones(x.shape[:3], bool), jnp.asarray(y), jnp.asarray(x)

    def found(module: Any, x: Any, mask: Any, deterministic: bool) -> Any:
        if case.model == "lite0":
            return module(x, mask, deterministic=deterministic)[-1][0]
        return module(Images(x, mask), deterministic=deterministic)

    def loss(params: Any, buffers: Any, x: Any, mask: Any) -> Any:
        module = nnx.merge(graph, params, buffers, copy=True)
        output = found(module, x, mask, False)
        after = nnx.state(module, nnx.Not(nnx.Param))
        if case.model != "samil":
            values = output if case.model == "lite0" else output.extras["maps"]["fused"]
            return jnp.square(values).mean(), after
        batch = Batch(Images(x, mask), target.astype(jnp.int32), jnp.ones(len(y)), jnp.arange(len(y)))
        values, _ = config.objective(output, batch, lambda z: jax.nn.softplus(z[:, 0]) - target * z[:, 0])
        return values.mean(), after

    def step(params: Any, buffers: Any, m: Any, v: Any, t: Any, x: Any, mask: Any) -> Any:
        (_, buffers), g = jax.value_and_grad(loss, has_aux=True)(params, buffers, x, mask)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v)
        return params, buffers, m, v, t + 1

    def prediction(params: Any, buffers: Any, x: Any, mask: Any) -> Any:
        output = found(nnx.merge(graph, params, buffers), x, mask, True)
        return output if case.model == "lite0" else output.extras["maps"]["fused"]

    zero = jax.tree.map(jnp.zeros_like, params)
    state = [params, buffers, zero, jax.tree.map(jnp.copy, zero), jnp.ones(())]
    count = sum(p.size for p in jax.tree.leaves(params))
    stepped = jax.jit(step, donate_argnums=(0, 1, 2, 3, 4))
    predicted = jax.jit(prediction)

    def train() -> None:
        state[:] = stepped(*state, image, mask)
        jax.block_until_ready(state[0])

    return train, lambda: jax.block_until_ready(predicted(state[0], state[1], image, mask)), count


def of_torch(case: Case, x: np.ndarray, y: np.ndarray, last: bool, threads: int) -> Programs:
    """The same in PyTorch, channels last or first."""
    import torch

    from benchmarks import pixel_peers as peers

    torch.set_num_threads(threads)
    layout = torch.channels_last if last else torch.contiguous_format
    made: dict[str, Callable[[], Any]] = {
        "samil": lambda: peers.SAMIL(case.width),
        "unet": lambda: peers.UNet(case.width),
        "lite0": peers.Lite0,
    }
    network = made[case.model]().to(memory_format=layout)
    loss = peers.samil_loss if case.model == "samil" else peers.mean_square
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    target = torch.from_numpy(y.astype(np.float32))
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)

    def train() -> None:
        network.train()
        adam.zero_grad()
        loss(network(images), target).backward()
        adam.step()

    def predict() -> None:
        network.eval()
        with torch.inference_mode():
            network(images)

    return train, predict, sum(p.numel() for p in network.parameters())


def compared(name: str, turns: int, cores: int) -> list[dict[str, Any]]:
    case = CASES[name]
    rng = np.random.default_rng(case.side)
    x = rng.normal(size=(case.batch, case.side, case.side, 3)).astype(np.float32)
    y = np.arange(case.batch) % 2
    programs = {"milkit": of_milkit(case, x, y)}
    programs |= {
        f"torch_channels_{'last' if last else 'first'}": of_torch(case, x, y, last, cores) for last in (False, True)
    }
    counts = {who: count for who, (_, _, count) in programs.items()}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"{name}: these are not the same network, their numbers of parameters are {counts}.")
    clock = time.process_time if cores == 1 else time.perf_counter
    rows = []
    for i, what in enumerate(("training step", "prediction")):
        seconds: dict[str, list[float]] = {who: [] for who in programs}
        for turn in range(turns + 1):
            for who, pair in programs.items():
                start = clock()
                pair[i]()
                if turn:
                    seconds[who].append(clock() - start)
        least = {who: min(s) for who, s in seconds.items()}
        best = min(sorted(least.keys() - {"milkit"}), key=lambda who: least[who])
        rows.append({
            "what": what, **case._asdict(), "parameters": counts["milkit"],
            "least_milliseconds": {who: round(1e3 * s, 2) for who, s in least.items()},
            "milkit_images_a_second": round(case.batch / least["milkit"], 1),
            "torch_images_a_second": round(case.batch / least[best], 1),
            "fastest_torch": best, "ratio": round(least["milkit"] / least[best], 3), "turns": turns,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1, help="threads of both; with 1 processor time is taken")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    on = machine()
    if hasattr(os, "sched_setaffinity"):  # before JAX counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
    rows = [row for name in options.only for row in compared(name, options.turns, options.cores)]
    command = f"python -m benchmarks.pixel_speed --turns {options.turns} --cores {options.cores}"
    clock = "processor time" if options.cores == 1 else "wall time"
    found = {"command": command, "cores": options.cores, "clock": clock, "machine": on, "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
