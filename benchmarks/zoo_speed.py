"""Milliseconds of forward and backward of slide-level models: milkit against torchmil, or the same in plain PyTorch.

    python -m benchmarks.zoo_speed --quick                                    # 3 minutes; needs the extra `bench`
    python -m benchmarks.zoo_speed --out benchmarks/results/zoo_speed.json    # all rows
    python -m benchmarks.zoo_speed --only ABMIL DSMIL                         # some models

A row is a model and a setting: one bag of 1,000 or 10,000 instances of 512 features ("one bag"); 32 bags of 20 to 200
instances, padded by milkit to four lengths and one after the other in PyTorch ("32 small bags"); 64 bags of 5 to 30, as
in the classic sets, likewise ("64 tiny bags"); eight networks, each on a bag of 100, in one program and one after the
other ("8 runs"). The last three are in milliseconds a bag. Both compute
the gradient of the whole training loss for all parameters, in float32. Lengths of bags are known, as in training, where
a program is compiled for a few of them; compilation is not timed.

The process is pinned to one core and both have one thread. They take turns, and medians of the *processor time* of the
turns are compared, so that other work on the machine is not counted but for what it takes of caches and memory
bandwidth (`load` tells of it). Freed memory is kept for either, as milkit's commands do (`milkit.freed_memory`). The
last line is a JSON list of rows.
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
from benchmarks.zoo_cases import CASES, FEATURES, LONG, OURS, Case
from milkit.data.batches import ladder, rung_of
from milkit.freed_memory import keep_freed_memory
from milkit.types import Bags, Batch

SIZES = (1_000, LONG)
LONG_WHEN_QUICK = ("ABMIL", "CLAMSB")
RUNS, SMALL = 8, 100
LENGTHS = 4
"""Padded lengths of small bags."""
SEVERAL = {"32 small bags": (32, 20, 200), "64 tiny bags": (64, 5, 30)}
"""How many bags, of how many instances at least and at most."""
TURN = 0.1
"""Seconds of a turn at least: fast steps are repeated in it."""
Step = Callable[[], Any]


def bag(n: int, seed: int = 0) -> np.ndarray:
    """Features of n instances."""
    return np.random.default_rng(seed).normal(size=(n, FEATURES)).astype(np.float32)


def grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of n tiles in a square, and each tile's eight neighbours, -1 where there is none."""
    side = int(np.ceil(np.sqrt(n)))
    places = np.stack(np.divmod(np.arange(n), side), 1)
    found = []
    for move in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]:
        y, x = (places + move).T
        index = y * side + x
        found.append(np.where((y >= 0) & (x >= 0) & (x < side) & (index < n), index, -1))
    return places, np.stack(found, 1).astype(np.int32)


def as_bags(xs: list[np.ndarray], takes: str) -> Bags:
    """A padded batch; with graph and places where the peer is given them."""
    bags = Bags.of(xs)
    if not takes:
        return bags
    places, neighbours = grid(len(xs[0]))
    return Bags(bags.x, bags.mask, jnp.asarray(places * 100.0, jnp.float32)[None], jnp.asarray(neighbours)[None])


def gradient_of(case: Case, seeds: int = 1) -> tuple[Callable[..., Any], list[Any], int]:
    """Gradient of milkit's training loss by parameters and bags; the parameters of some seeds; how many they are."""
    built = [nnx.split(case.model.build(FEATURES, 1, rngs=nnx.Rngs(seed)), nnx.Param, ...) for seed in range(seeds)]
    graph, _, buffers = built[0]
    objective = getattr(case.model, "objective", None)

    def loss(params: Any, bags: Bags) -> Any:
        module = nnx.merge(graph, params, buffers, copy=True)
        output = module(bags, deterministic=False, rngs=nnx.Rngs(0))
        number = bags.x.shape[0]
        batch = Batch(bags, jnp.ones(number, jnp.int32), jnp.ones(number), jnp.arange(number))

        def bag_loss(z: Any) -> Any:
            return jax.nn.softplus(-z[:, 0])

        return (objective(output, batch, bag_loss)[0] if objective else bag_loss(output.logits)).mean()

    return jax.grad(loss), [params for _, params, _ in built], sum(p.size for p in jax.tree.leaves(built[0][1]))


def of_milkit(case: Case, xs: list[np.ndarray]) -> tuple[Step, int]:
    """A gradient of one network for each padded length, on all bags of that length."""
    gradient, (params,), count = gradient_of(case)
    lengths = np.array([len(x) for x in xs])
    at = rung_of(lengths, ladder(lengths, LENGTHS))
    batches = [as_bags([x for x, own in zip(xs, at, strict=True) if own == i], case.takes) for i in np.unique(at)]
    compiled = jax.jit(gradient)
    return lambda: jax.block_until_ready([compiled(params, bags) for bags in batches]), count


def runs_of_milkit(case: Case, xs: list[np.ndarray]) -> tuple[Step, int]:
    """A gradient of as many networks as bags, one after the other in one program, as milkit trains on a CPU."""
    gradient, each, count = gradient_of(case, len(xs))
    params = jax.tree.map(lambda *a: jnp.stack(a), *each)
    bags = jax.tree.map(lambda *a: jnp.stack(a), *[Bags.of([x]) for x in xs])
    compiled = jax.jit(lambda params, bags: jax.lax.map(lambda one: gradient(*one), (params, bags)))
    return lambda: jax.block_until_ready(compiled(params, bags)), count


def of_torch(case: Case, xs: list[np.ndarray], networks: int = 1) -> tuple[Step, int]:
    """One gradient a bag, summed over the bags of a network."""
    import torch

    if case.of == OURS:
        from benchmarks import zoo_peers as classes
    else:
        from torchmil import models as classes  # type: ignore[no-redef]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = [case.peer(classes).train() for _ in range(networks)]
    given = [(torch.from_numpy(x)[None], *beside(case.takes, len(x))) for x in xs]
    y = torch.ones(1)

    def step() -> None:
        for network in made:
            network.zero_grad(set_to_none=True)
        for i, inputs in enumerate(given):
            _, losses = made[i % networks].compute_loss(y, *inputs)
            sum(losses.values()).backward()

    return step, sum(p.numel() for p in made[0].parameters())


def beside(takes: str, n: int) -> tuple[Any, ...]:
    """What a torchmil module is given beside the features of n tiles in a square."""
    import torch

    if not takes:
        return ()
    places, neighbours = grid(n)
    if takes == "coords":
        return (torch.from_numpy(places)[None],)
    rows, columns = np.nonzero(neighbours >= 0)
    ends = np.stack([np.zeros_like(rows), rows, neighbours[rows, columns]])
    matrix = torch.sparse_coo_tensor(torch.from_numpy(ends), torch.full((len(rows),), 0.125), (1, n, n)).coalesce()
    return (matrix if takes == "sparse" else matrix.to_dense(),)


def timed(steps: dict[str, Step], turns: int) -> dict[str, list[float]]:
    """Processor seconds of a step, turn by turn; the first turn warms up, the second says how often to repeat."""
    seconds: dict[str, list[float]] = {who: [] for who in steps}
    repeat = dict.fromkeys(steps, 1)
    for turn in range(turns + 2):
        for who, step in steps.items():
            began = time.process_time()
            for _ in range(repeat[who]):
                step()
            took = (time.process_time() - began) / repeat[who]
            if turn == 1:
                repeat[who] = max(1, min(200, int(TURN / max(took, 1e-6))))
            elif turn > 1:
                seconds[who].append(took)
    return seconds


def row_of(name: str, setting: str, n: int, turns: int) -> dict[str, Any]:
    """One row."""
    case, bags = CASES[name], 1
    if setting == "one bag":
        xs = [bag(n)]
    elif setting in SEVERAL:
        number, low, high = SEVERAL[setting]
        xs = [bag(int(length), i) for i, length in enumerate(np.random.default_rng(0).integers(low, high + 1, number))]
    else:
        xs = [bag(n, i) for i in range(RUNS)]
    networks = RUNS if setting == "8 runs" else 1
    bags = len(xs)
    ours, count = runs_of_milkit(case, xs) if networks > 1 else of_milkit(case, xs)
    steps, peer, why, theirs = {"milkit": ours}, case.of, "", None
    try:
        steps["peer"], theirs = of_torch(case, xs, networks)
        steps["peer"]()
    except ImportError as error:
        why = f"not installed: {error.name}"
    seconds = timed({who: steps[who] for who in steps if not why or who == "milkit"}, turns)
    middle = {who: 1e3 * statistics.median(s) / bags for who, s in seconds.items()}
    row: dict[str, Any] = {
        "model": name,
        "n": n,
        "setting": setting,
        "milkit_ms": round(middle["milkit"], 3),
        "peer_ms": None if why else round(middle["peer"], 3),
        "peer": None if why else peer,
        "ratio": None if why else round(middle["milkit"] / middle["peer"], 3),
        "least_ms": {who: round(1e3 * min(s) / bags, 3) for who, s in seconds.items()},
        "parameters": {"milkit": count, "peer": theirs},
        "turns": turns,
    }
    return row | ({"why": why} if why else {})


def settings(name: str, quick: bool) -> list[tuple[str, int]]:
    """What a model is timed on."""
    case = CASES[name]
    found = [
        ("one bag", n) for n in SIZES if n <= case.longest and not (quick and n == LONG and name not in LONG_WHEN_QUICK)
    ]
    if not case.takes:
        found += [("32 small bags", 110), ("64 tiny bags", 18), ("8 runs", SMALL)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="rows that it has of other models or settings stay")
    parser.add_argument("--quick", action="store_true", help="fewer turns, and long bags of two models only")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES), metavar="MODEL")
    options = parser.parse_args()
    keep_freed_memory()
    on, turns = machine(), 3 if options.quick else options.turns
    if hasattr(os, "sched_setaffinity"):  # before JAX counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    command = f"python -m benchmarks.zoo_speed --turns {turns}{' --quick' if options.quick else ''}"
    before = json.loads(options.out.read_text())["rows"] if options.out and options.out.is_file() else []
    rows: list[dict[str, Any]] = []
    for name in options.only:
        for setting, n in settings(name, options.quick):
            rows.append(row_of(name, setting, n, turns) | {"load": round(os.getloadavg()[0], 1), "command": command})
            print(json.dumps(rows[-1]), flush=True)
            if options.out:
                fresh = {(row["model"], row["setting"], row["n"]) for row in rows}
                stay = [row for row in before if (row["model"], row["setting"], row["n"]) not in fresh]
                found = {"cores": 1, "clock": "processor time", "machine": on, "rows": stay + rows}
                options.out.write_text(json.dumps(found, indent=1) + "\n")
        jax.clear_caches()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
