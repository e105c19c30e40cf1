"""Microseconds of a training step on MUSK1, against torchmil's Trainer and a hand-written PyTorch loop.

    python -m benchmarks.train_speed --quick                                        # within 3 minutes
    python -m benchmarks.train_speed --out benchmarks/results/train_speed.json      # five rounds

The attention net 166-256-128-64 (attention 64, no gate), one bag a step, Adam. milkit trains the fifty folds of 5 x 10
side by side; the peers train one network. All three only train: no validation, no logging. Each is timed in a process
of its own, one after the other, round after round, since a machine's speed drifts; medians are given. The loop has the
best of one and two threads and of PyTorch's default and fused Adam, the Trainer the best of one and two threads.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = {"milkit": 8, "milkit_one_run": 40, "loop": 6, "trainer": 2}


def musk1() -> tuple[list[np.ndarray], list[int]]:
    """Bags and labels."""
    from milkit import Binary, Classic

    data = Classic("musk1").load(Binary(), "patient")
    bags = [np.asarray(data.read(i).x, np.float32) for i in range(len(data))]
    return bags, [int(v) for v in data.targets.values]


def milkit(epochs: int, runs: int, optimizer: str) -> dict[str, Any]:
    """Timed over whole epochs of all programs, the drawing of orders on the host included."""
    from milkit.execute.spreading import use_cores

    use_cores()
    import jax

    from milkit import ABMIL, Adam, Classic, Experiment, GivenFolds, Sgd, Train
    from milkit.execute.prepare import prepare
    from milkit.train.engine import train_epoch

    chosen = Adam(5e-4, weight_decay=5e-3) if optimizer == "adam" else Sgd(5e-4, momentum=0.9, weight_decay=5e-3)
    study = Experiment(
        data=Classic("musk1"),
        protocol=GivenFolds(validation=0.1),
        model=ABMIL(encoder=(256, 128, 64), attention=64, gated=False),
        train=Train(chosen, epochs=100, width=1 if runs == 1 else None),
    )
    data = prepare(study)
    programs = range(1 if runs == 1 else data.programs)
    groups = [data.group(p) for p in programs]
    began = time.perf_counter()
    states = [data.engine.epoch(g, data.first_state(p, g), 0, None)[0] for p, g in zip(programs, groups, strict=True)]
    cold, compiled = time.perf_counter() - began, train_epoch._cache_size()
    steps = sum(len(part) for g in groups for part, real in zip(g.train, g.active, strict=True) if real)
    seconds = []
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        states = [data.engine.epoch(g, s, epoch, None)[0] for g, s in zip(groups, states, strict=True)]
        jax.block_until_ready(states)
        seconds.append(time.perf_counter() - began)
    spread = data.engine.spread(groups[0])
    return {
        "us": statistics.median(seconds) / steps * 1e6,
        "runs": sum(int(g.active.sum()) for g in groups),
        "recompiles": train_epoch._cache_size() - compiled,
        "first_epoch_seconds": round(cold, 1),
        "side_by_side": spread.width,
        "devices": spread.devices,
        "program_width": data.width,
    }


def torch_loop_us(epochs: int, threads: int, optimizer: str, fused: bool) -> dict[str, Any]:
    from benchmarks.peers import torch_loop

    return {"us": torch_loop(*musk1(), epochs=epochs, threads=threads, optimizer=optimizer, fused=fused)}


def torchmil_us(epochs: int, threads: int) -> dict[str, Any]:
    from benchmarks.peers import torchmil_trainer

    return {"us": torchmil_trainer(*musk1(), epochs=epochs, threads=threads)}


PARTS = {"milkit": milkit, "torch_loop": torch_loop_us, "torchmil": torchmil_us}


def timed(part: str, **arguments: Any) -> dict[str, Any]:
    """One part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_speed", "--part", json.dumps([part, arguments])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def best(options: list[dict[str, Any]], part: str, **arguments: Any) -> dict[str, Any]:
    """The fastest of some choices; all are tried anew in each round, as one trial on a busy machine may mislead."""
    return min((timed(part, **arguments, **o) | {"chosen": o} for o in options), key=lambda found: found["us"])


def compared(rounds: int, optimizer: str) -> dict[str, Any]:
    """Everything of one optimiser, round after round."""
    threads = [{"threads": 1}, {"threads": 2}]
    loops = [t | {"fused": f} for t in threads for f in (False, True)]
    every: dict[str, list[dict[str, Any]]] = {"many": [], "one": [], "loop": [], "trainer": []}
    for _ in range(rounds):
        every["many"].append(timed("milkit", epochs=EPOCHS["milkit"], runs=50, optimizer=optimizer))
        every["loop"].append(best(loops, "torch_loop", epochs=EPOCHS["loop"], optimizer=optimizer))
        every["trainer"].append(best(threads, "torchmil", epochs=EPOCHS["trainer"]))
        every["one"].append(timed("milkit", epochs=EPOCHS["milkit_one_run"], runs=1, optimizer=optimizer))
    middle = {name: statistics.median(r["us"] for r in found) for name, found in every.items()}
    many = every["many"][0]
    return {
        "milkit_us_per_run_step": round(middle["many"], 1),
        "milkit_us_per_run_step_one_run": round(middle["one"], 1),
        "torch_loop_us_per_step": round(middle["loop"], 1),
        "torchmil_us_per_step": round(middle["trainer"], 1),
        "loop_over_milkit": round(middle["loop"] / middle["many"], 1),
        "torchmil_over_milkit": round(middle["trainer"] / middle["many"], 1),
        "runs": many["runs"],
        "recompiles": sum(r["recompiles"] for r in every["many"] + every["one"]),
        "milkit": {k: many[k] for k in ("side_by_side", "devices", "program_width", "first_epoch_seconds")},
        "torch_loop": [r["chosen"] for r in every["loop"]],
        "torchmil": [r["chosen"] for r in every["trainer"]],
        "rounds": {name: [round(r["us"], 1) for r in found] for name, found in every.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, Adam only, within 3 minutes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, arguments = json.loads(options.part)
        print(json.dumps(PARTS[name](**arguments)))
        return
    began, where = time.perf_counter(), machine()
    result = {
        "command": f"python -m benchmarks.train_speed{' --quick' * options.quick}",
        "study": "MUSK1, attention net 166-256-128-64 (64), one bag a step, Adam, training only",
        "machine": where,
        **compared(1 if options.quick else 5, "adam"),
    }
    if not options.quick:
        result["sgd"] = compared(3, "sgd")
    result["seconds"] = round(time.perf_counter() - began, 1)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
