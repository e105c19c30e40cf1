"""EfficientNet-Lite0 as an encoder on a CPU: milkit against the same network in PyTorch.

    python -m benchmarks.encoders --out benchmarks/results/encoders.json      # 2 minutes; needs torch
    python -m benchmarks.encoders --quick

Random tiles of 224 x 224 pixels, uint8, to 1280 features in float32, equal weights (random; they do not change the
time). PyTorch runs the network as such packages write it, with channels first or last, with batch normalisation by
itself or folded into the convolutions as milkit has it, and batches of 1 and 16; the fastest is what milkit is compared
with. Features agree, or there are no figures.

The process is pinned to one core and both have one thread. They take turns, and medians of the *processor time* of the
turns are compared, so that other work on the machine is not counted but for what it takes of caches and memory
bandwidth (`load_before` tells of it). Compilation is not timed. The last line is the result as JSON.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TILES, SIDE = 16, 224
Run = Callable[[Any], Any]


def weights() -> dict[str, Any]:
    """Random weights of a scale at which features neither vanish nor are all cut off."""
    import numpy as np

    from milkit.pixel.efficientnet_lite import BLOCKS

    rng, found = np.random.default_rng(0), {}

    def add(conv: str, norm: str, *shape: int) -> None:
        found[f"{conv}.weight"] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        for leaf, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.5, 0.5)):
            found[f"{norm}.{leaf}"] = rng.uniform(low, high, shape[0]).astype(np.float32)
        found[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)

    add("_conv_stem", "_bn0", 32, 3, 3, 3)
    before, i = 32, 0
    for repeats, size, _, expansion, after in BLOCKS:
        for _ in range(repeats):
            inner, at = before * expansion, f"_blocks.{i}"
            if expansion > 1:
                add(f"{at}._expand_conv", f"{at}._bn0", inner, before, 1, 1)
            add(f"{at}._depthwise_conv", f"{at}._bn1", inner, 1, size, size)
            add(f"{at}._project_conv", f"{at}._bn2", after, inner, 1, 1)
            before, i = after, i + 1
    add("_conv_head", "_bn1", 1280, 320, 1, 1)
    return found


def of_torch(arrays: dict[str, Any], last: bool, fold: bool, batch: int) -> Run:
    """uint8 tiles to features, in PyTorch."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from milkit.encoders.pixels import IMAGENET_MEAN, IMAGENET_STD
    from milkit.pixel.efficientnet_lite import BLOCKS, EPSILON

    torch.set_num_threads(1)
    w = {name: torch.tensor(a) for name, a in arrays.items()}
    memory = torch.channels_last if last else torch.contiguous_format
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))

    def layer(conv: str, norm: str, stride: int = 1) -> Callable[[Any], Any]:
        kernel, scale, shift = w[f"{conv}.weight"], w[f"{norm}.weight"], w[f"{norm}.bias"]
        at, var = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
        size, groups = kernel.shape[2], kernel.shape[0] if kernel.shape[1] == 1 and kernel.shape[2] > 1 else 1
        zeros = size - stride
        around, inside = (zeros // 2, zeros - zeros // 2) * 2, zeros // 2 if zeros % 2 == 0 else 0
        factor = scale / torch.sqrt(var + EPSILON)
        bias = shift - at * factor if fold else None
        kernel = (kernel * factor.view(-1, 1, 1, 1) if fold else kernel).contiguous(memory_format=memory)

        def run(x: Any) -> Any:
            x = F.pad(x, around) if zeros % 2 else x
            x = F.conv2d(x, kernel, bias, stride, inside, groups=groups)
            return x if fold else F.batch_norm(x, at, var, scale, shift, False, 0.0, EPSILON)

        return run

    stem, head = layer("_conv_stem", "_bn0", 2), layer("_conv_head", "_bn1")
    blocks = []
    for repeats, _, stride, expansion, _ in BLOCKS:
        for j in range(repeats):
            name, step = f"_blocks.{len(blocks)}", 1 if j else stride
            expand = layer(f"{name}._expand_conv", f"{name}._bn0") if expansion > 1 else None
            depth = layer(f"{name}._depthwise_conv", f"{name}._bn1", step)
            blocks.append((expand, depth, layer(f"{name}._project_conv", f"{name}._bn2")))

    def part(tiles: Any) -> Any:
        x = torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous(memory_format=memory)
        x = F.relu6(stem((x.float() / 255 - mean) / std))
        for expand, depth, project in blocks:
            y = project(F.relu6(depth(F.relu6(expand(x)) if expand else x)))
            x = x + y if y.shape == x.shape else y
        return F.relu6(head(x)).mean((2, 3)).numpy()

    def run(tiles: Any) -> Any:
        with torch.inference_mode():
            return np.concatenate([part(tiles[i : i + batch]) for i in range(0, len(tiles), batch)])

    return run


def measure(turns: int) -> dict[str, Any]:
    """Medians of processor time in milliseconds a tile, and the ratio to the fastest of PyTorch."""
    import numpy as np

    from milkit.encoders import EfficientNetLite0, NetworkEncoder

    arrays = weights()
    tiles = np.random.default_rng(1).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    contestants: dict[str, Run] = {"milkit": NetworkEncoder("lite", EfficientNetLite0(), arrays).encode}
    for last in (False, True):
        for fold in (False, True):
            for batch in (1, TILES):
                name = f"torch_channels_{'last' if last else 'first'}{'_folded' if fold else ''}_{batch}"
                contestants[name] = of_torch(arrays, last, fold, batch)
    want = contestants["milkit"](tiles)
    for name, run in contestants.items():
        if not np.allclose(run(tiles), want, rtol=1e-3, atol=1e-3 * want.max()):
            raise SystemExit(f"{name} computes something else than milkit.")
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            began = time.process_time()
            run(tiles)
            seconds[name].append(time.process_time() - began)
    medians = {name: 1e3 * statistics.median(s) / TILES for name, s in seconds.items()}
    best = min(sorted(medians.keys() - {"milkit"}), key=lambda name: medians[name])
    return {
        "milliseconds_a_tile": {name: round(m, 2) for name, m in medians.items()},
        "fastest_torch": best,
        "milkit_tiles_per_s": round(1e3 / medians["milkit"], 1),
        "torch_tiles_per_s": round(1e3 / medians[best], 1),
        "times_as_fast_as_torch": round(medians[best] / medians["milkit"], 2),
        "turns": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three turns")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    from benchmarks.machine import machine

    on, turns = machine(), 3 if options.quick else options.turns
    result = {"command": f"python -m benchmarks.encoders --turns {turns}", "tiles": TILES, "side_px": SIDE}
    result |= {**measure(turns), "machine": on}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
