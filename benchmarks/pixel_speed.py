"""A training step and a prediction of SA-MIL: milkit against the same architecture in PyTorch, on a CPU.

    python -m benchmarks.pixel_speed --out benchmarks/results/pixel_speed.json      # needs the extra `bench`

The PyTorch network is written here from the paper: three VGG stages with batch normalisation, criss-cross attention
twice, sides, fusion, the sum of four binary cross-entropies of generalised means, one step of Adam. It is run with
channels first and channels last, on one thread and on one a core, and the fastest of the four, by its least time, is
what counts. Batches of 4 at the width of `SAMIL.from_scratch()`. All are run in turns. `ratio_of_least` compares the
least times: what else the machine does only ever adds time, and most to PyTorch's threads, which wait for each other;
`ratio_median`, the median of turns side by side, means something on a machine that does nothing else (`load_before`).
The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.machine import machine
from milkit.pixel import SAMIL
from milkit.types import Batch, Images

SIDES, BATCH = (64, 128), 4


def milkit_programs(x: np.ndarray, y: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A step of Adam that keeps its state between calls, and a prediction."""
    config = SAMIL.from_scratch()
    graph, params, buffers = nnx.split(config.build(3, 1, rngs=nnx.Rngs(0)), nnx.Param, ...)
    images = Images(jnp.asarray(x), jnp.ones(x.shape[:3], bool))
    target = jnp.asarray(y)
    batch = Batch(images, target.astype(jnp.int32), jnp.ones(len(y)), jnp.arange(len(y)))

    def loss(params: Any, buffers: Any) -> Any:
        module = nnx.merge(graph, params, buffers, copy=True)
        output = module(images, deterministic=False)
        values, _ = config.objective(output, batch, lambda z: jax.nn.softplus(z[:, 0]) - target * z[:, 0])
        return values.mean(), nnx.state(module, nnx.Not(nnx.Param))

    def step(params: Any, buffers: Any, m: Any, v: Any, t: Any) -> Any:
        (_, buffers), g = jax.value_and_grad(loss, has_aux=True)(params, buffers)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v)
        return params, buffers, m, v, t + 1

    zero = jax.tree.map(jnp.zeros_like, params)
    state = [params, buffers, zero, jax.tree.map(jnp.copy, zero), jnp.ones(())]
    stepped = jax.jit(step, donate_argnums=(0, 1, 2, 3, 4))
    predicted = jax.jit(lambda p, b: nnx.merge(graph, p, b)(images).extras["maps"]["fused"])

    def train() -> None:
        state[:] = stepped(*state)
        jax.block_until_ready(state[0])

    return train, lambda: jax.block_until_ready(predicted(state[0], state[1]))


def torch_programs(
    x: np.ndarray, y: np.ndarray, last: bool, threads: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same in PyTorch, channels last or first."""
    import torch
    import torch.nn.functional as f
    from torch import nn

    class CrissCross(nn.Module):
        def __init__(self, c: int):
            super().__init__()
            self.q, self.k, self.v = nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c, 1)
            self.gamma = nn.Parameter(torch.zeros(1))

        def forward(self, x: Any) -> Any:
            b, _, h, w = x.shape
            q, k, v = self.q(x), self.k(x), self.v(x)

            def lines(a: Any, order: tuple[int, ...]) -> Any:
                return a.permute(*order).reshape(-1, a.shape[order[2]], a.shape[1])

            column, row = (0, 3, 2, 1), (0, 2, 3, 1)
            e_column = lines(q, column) @ lines(k, column).transpose(1, 2)
            e_column = e_column.masked_fill(torch.eye(h, dtype=torch.bool), -torch.inf)
            e_column = e_column.view(b, w, h, h).transpose(1, 2)
            e_row = (lines(q, row) @ lines(k, row).transpose(1, 2)).view(b, h, w, w)
            weight = torch.cat([e_column, e_row], -1).softmax(-1)
            of_column = weight[..., :h].transpose(1, 2).reshape(b * w, h, h) @ lines(v, column)
            of_row = weight[..., h:].reshape(b * h, w, w) @ lines(v, row)
            total = of_column.view(b, w, h, -1).permute(0, 3, 2, 1) + of_row.view(b, h, w, -1).permute(0, 3, 1, 2)
            return x + self.gamma * total

    def stage(c: int, d: int, depth: int) -> Any:
        layers: list[Any] = []
        for i in range(depth):
            layers += [nn.Conv2d(d if i else c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    class Network(nn.Module):
        def __init__(self, width: tuple[int, ...]):
            super().__init__()
            before = (3, *width)
            self.stages = nn.ModuleList(stage(c, d, n) for c, d, n in zip(before, width, (2, 2, 3), strict=False))
            self.attention = nn.ModuleList(CrissCross(c) for c in width)
            self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in width)

        def forward(self, x: Any) -> list[Any]:
            size, sides = x.shape[2:], []
            for stage, attention, head in zip(self.stages, self.attention, self.heads, strict=True):
                x = stage(x)
                x = f.max_pool2d(attention(attention(x)), 2)
                large = f.interpolate(head(x), size=size, mode="bilinear", align_corners=True)
                sides.append(torch.sigmoid(large))
            return [0.2 * sides[0] + 0.35 * sides[1] + 0.45 * sides[2], *sides]

    layout = torch.channels_last if last else torch.contiguous_format
    network = Network(SAMIL.from_scratch().width).to(memory_format=layout)
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    target = torch.from_numpy(y.astype(np.float32))
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)

    def train() -> None:
        torch.set_num_threads(threads)
        network.train()
        adam.zero_grad()
        maps = network(images)
        bags = [(m**4).mean((1, 2, 3)).clamp(1e-12, 1) ** 0.25 for m in maps]
        sum(f.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), target) for p in bags).backward()
        adam.step()

    def predict() -> None:
        torch.set_num_threads(threads)
        network.eval()
        with torch.inference_mode():
            network(images)

    return train, predict


def compared(side: int, repeats: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(side)
    x = rng.normal(size=(BATCH, side, side, 3)).astype(np.float32)
    y = np.arange(BATCH) % 2
    programs = {"milkit": milkit_programs(x, y)}
    for last in (False, True):
        for threads in sorted({1, os.cpu_count() or 1}):
            name = f"torch{'_channels_last' if last else ''}_{threads}_threads"
            programs[name] = torch_programs(x, y, last, threads)
    rows = []
    for i, what in enumerate(("training step", "prediction")):
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(repeats + 2):
            for name, pair in programs.items():
                start = time.perf_counter()
                pair[i]()
                if turn >= 2:
                    seconds[name].append(time.perf_counter() - start)
        middle = {name: statistics.median(s) for name, s in seconds.items()}
        best = min(sorted(programs.keys() - {"milkit"}), key=lambda name: min(seconds[name]))
        ratios = [a / b for a, b in zip(seconds["milkit"], seconds[best], strict=True)]
        rows.append(
            {
                "what": what,
                "side": side,
                "batch": BATCH,
                "milliseconds": {name: round(1e3 * s, 2) for name, s in middle.items()},
                "least_milliseconds": {name: round(1e3 * min(s), 2) for name, s in seconds.items()},
                "milkit_images_a_second": round(BATCH / middle["milkit"], 1),
                "fastest_torch": best,
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_of_least": round(min(seconds["milkit"]) / min(seconds[best]), 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="pixels a side of the images")
    options = parser.parse_args()
    found = {"machine": machine(), "rows": [row for side in options.sides for row in compared(side, options.repeats)]}
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
