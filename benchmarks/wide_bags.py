"""Wide bags: gated ABMIL (1024-512, attention 128) on bags of 1,000, 10,000 and 50,000 patches, against PyTorch.

    python -m benchmarks.wide_bags --quick                                             # 3 minutes at most
    python -m benchmarks.wide_bags --out benchmarks/results/wide_bags.json             # about 15 minutes
    python -m benchmarks.wide_bags --long --out benchmarks/results/long_bags.json      # two bags of 200,000, in chunks

One step is forward, backward and an Adam update on one bag of float32 features that is in memory. Every contestant is a
process of its own, so that its peak of memory is its own; all contestants of a size live at once and take turns, one
block of steps each, again and again, so that a busy machine is busy for all of them. Medians over turns are compared,
and of ratios the median over turns as well. milkit trains 1, 4 or 16 runs (other seeds), each on its own order of bags;
its time is given per run and step. PyTorch is given the better of its thread counts, turn by turn.

The last line is one JSON object; the figures at its top are those of 10,000 instances.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FEATURES, ENCODER, ATTENTION = 1024, 512, 128
HEADLINE = 10_000
RUNS = (1, 4, 16)
NO_TORCHMIL = (
    "not timed: on bags of this size its Trainer spends its time in the same PyTorch products as the loop; what the "
    "Trainer itself costs a step is in train_speed"
)


def bags_of(size: int, count: int) -> list[Any]:
    """`count` bags [size, 1024] of noise, float32."""
    import numpy as np

    rng = np.random.default_rng(size)
    return [rng.standard_normal((size, FEATURES), dtype=np.float32) for _ in range(count)]


def milkit_turns(size: int, runs: int, count: int, dtype: str = "float32") -> Any:
    """A function that trains `count` steps of every run and gives the seconds; and the prepared study."""
    from milkit.execute.spreading import use_cores

    use_cores()
    from milkit import ABMIL, Adam, Bag, Experiment, Train
    from milkit.data.memory import in_memory
    from milkit.execute.prepare import prepare
    from milkit.keep.refit import EveryBag
    from milkit.train.fit import start

    bags = tuple(Bag(f"b{i}", x.astype(dtype, copy=False)) for i, x in enumerate(bags_of(size, count)))
    rows = [{"slide_id": b.id, "patient_id": b.id, "label": str(i % 2)} for i, b in enumerate(bags)]
    train = Train(Adam(1e-4), epochs=1000, select="last", width=runs)
    model = ABMIL(encoder=(ENCODER,), attention=ATTENTION)
    prepared = prepare(
        Experiment(data=in_memory(bags, rows), protocol=EveryBag(), model=model, train=train, seeds=runs)
    )
    del bags
    group = prepared.group(0)
    state = start(prepared.engine, prepared.experiment.model, FEATURES, prepared.out_features, group)
    epoch = 0

    def turn() -> float:
        nonlocal state, epoch
        began = time.perf_counter()
        state, _ = prepared.engine.epoch(group, state, epoch, None)  # its log waits for the epoch's end
        epoch += 1
        return time.perf_counter() - began

    return turn, prepared


def torch_turns(size: int, threads: int, count: int) -> Any:
    """The same in PyTorch: one run, `count` steps."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(FEATURES, ENCODER), nn.ReLU())
            self.tanh, self.gate = nn.Linear(ENCODER, ATTENTION), nn.Linear(ENCODER, ATTENTION)
            self.score, self.classifier = nn.Linear(ATTENTION, 1, bias=False), nn.Linear(ENCODER, 1)

        def forward(self, x):
            h = self.encoder(x)
            attention = torch.softmax(self.score(torch.tanh(self.tanh(h)) * torch.sigmoid(self.gate(h))), 0)
            return self.classifier(attention.T @ h)[0]

    model = Net()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)
    data = [(torch.from_numpy(x), torch.tensor([float(i % 2)])) for i, x in enumerate(bags_of(size, count))]
    bce = nn.functional.binary_cross_entropy_with_logits

    def turn() -> float:
        began = time.perf_counter()
        for i in torch.randperm(len(data)).tolist():
            adam.zero_grad(set_to_none=True)
            bce(model(data[i][0]), data[i][1]).backward()
            adam.step()
        return time.perf_counter() - began

    return turn


def child(kind: str, size: int, number: int, count: int) -> None:
    """Warm up, then take a turn for every line read; the last line tells the peak of memory and the recompilations."""
    turn = milkit_turns(size, number, count)[0] if kind == "milkit" else torch_turns(size, number, count)
    for _ in range(2):
        turn()
    compiled = lambda: 0  # noqa: E731
    if kind == "milkit":
        from milkit.watch.compiles import compiles

        compiled = lambda: compiles().count  # noqa: E731
    before = compiled()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        cpu = time.process_time()
        print(json.dumps({"wall": turn(), "cpu": time.process_time() - cpu}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, "recompiles": compiled() - before}), flush=True)


def long_bags(size: int = 200_000, count: int = 2) -> dict[str, Any]:
    """Steps on bags of 200,000 half-precision patches with milkit's defaults: time, and memory beyond the features."""
    turn, prepared = milkit_turns(size, 1, count, "float16")
    turn()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
    before = _status("VmRSS")
    seconds = min(turn() for _ in range(2))
    return {
        "instances": size,
        "features": FEATURES,
        "at_once": prepared.engine.setup.train.instances_at_once,
        "seconds_a_step": round(seconds / count, 2),
        "features_of_a_bag_bytes": size * FEATURES * 2,
        "held_by_steps_bytes": _status("VmHWM") - before,
        "whole_bag_would_hold_bytes_about": 12 * size * FEATURES,
    }


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


class Contestant:
    """A child process and what it said."""

    def __init__(self, kind: str, size: int, number: int, count: int):
        self.kind, self.number, self.count = kind, number, count
        self.run_steps = count * (number if kind == "milkit" else 1)
        self.wall: list[float] = []
        self.cpu: list[float] = []
        command = [sys.executable, "-m", "benchmarks.wide_bags", "--child", kind, str(size), str(number), str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.kind} process ({self.number}) ended; its message stands above")
        return line

    def ready(self) -> None:
        """Wait until it has warmed up."""
        while self._read().strip() != "ready":
            pass

    def turn(self) -> None:
        """One block of steps; microseconds a run and step are remembered."""
        self._send("go")
        said = json.loads(self._read())
        self.wall.append(said["wall"] / self.run_steps * 1e6)
        self.cpu.append(said["cpu"] / self.run_steps * 1e6)

    def end(self) -> dict[str, Any]:
        """Its figures."""
        self._send("end")
        last = json.loads(self._read())
        self.process.wait()
        figures = {
            "us": round(statistics.median(self.wall)),
            "us_least": round(min(self.wall)),
            "cpu_us": round(statistics.median(self.cpu)),
            "steps_per_second": round(1e6 / statistics.median(self.wall), 3),
            "turns": len(self.wall),
            "steps_a_turn": self.count,
            "peak_bytes": last["peak_bytes"],
        }
        return figures | ({"recompiles": last["recompiles"]} if self.kind == "milkit" else {})

    def _send(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()


def one_size(size: int, runs: tuple[int, ...], turns: int, count: int, ends: float) -> dict[str, Any]:
    """All contestants on bags of one size, taking turns until there were `turns` or the clock says `ends`."""
    threads = (1, 2)
    ours = [Contestant("milkit", size, r, count) for r in runs]
    theirs = [Contestant("torch", size, t, count) for t in threads]
    everyone = [*theirs, *ours]
    for contestant in everyone:  # they start side by side, but none is timed before all are ready
        contestant.ready()
    for done in range(turns):
        if done and time.monotonic() > ends:
            break
        for contestant in everyone:
            contestant.turn()
    best = [min(pair) for pair in zip(*(t.wall for t in theirs), strict=True)]
    best_cpu = [min(pair) for pair in zip(*(t.cpu for t in theirs), strict=True)]
    ratio = {str(o.number): _ratio(o.wall, best) for o in ours}
    return {
        "milkit": {str(o.number): o.end() for o in ours},
        "torch": {f"{t.number} threads": t.end() for t in theirs},
        "torch_best_us": round(statistics.median(best)),
        "milkit_over_torch": ratio,
        "milkit_over_torch_cpu": {str(o.number): _ratio(o.cpu, best_cpu) for o in ours},
        "per_run_over_one_run": {str(o.number): _ratio(o.wall, ours[0].wall) for o in ours[1:]},
    }


def _ratio(a: list[float], b: list[float]) -> float:
    return round(statistics.median(x / y for x, y in zip(a, b, strict=True)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sizes 1,000 and 10,000, within 3 minutes")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    parser.add_argument("--long", action="store_true", help="only the bags of 200,000 instances, without PyTorch")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--child", nargs=4, metavar=("KIND", "SIZE", "NUMBER", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, *numbers = args.child
        child(kind, *map(int, numbers))
        return
    from benchmarks.machine import machine

    began = time.monotonic()
    env = machine()
    if args.long:
        _end({**long_bags(), "machine": env}, args.out)
        return
    plan = [(1_000, (1, 4), 4), (HEADLINE, (1, 4), 2)] if args.quick else [(1_000, RUNS, 16), (HEADLINE, RUNS, 8)]
    if not args.quick:
        plan.append((50_000, (1, 4), 2))
    budget = 130.0 if args.quick else 1200.0
    sizes = {}
    for i, (size, runs, count) in enumerate(plan):
        ends = began + budget * (i + 1) / len(plan)
        sizes[str(size)] = one_size(size, runs, 3 if args.quick else args.turns, count, ends)
        print(f"{size:,} instances: {json.dumps(sizes[str(size)]['milkit_over_torch'])} of PyTorch's time", flush=True)
    head = sizes[str(HEADLINE)]
    most = max(map(int, head["milkit"]))
    result = {
        "milkit_us_per_run_step": head["milkit"][str(most)]["us"],
        "milkit_us_one_run": head["milkit"]["1"]["us"],
        "torch_loop_us_per_step": head["torch_best_us"],
        "torchmil_us_per_step": None,
        "torchmil_reason": NO_TORCHMIL,
        "runs": most,
        "instances": HEADLINE,
        "recompiles": sum(m["recompiles"] for s in sizes.values() for m in s["milkit"].values()),
        "left_out": "sizes and numbers of runs for the sake of time" if args.quick else "16 runs of 50,000, for time",
        "sizes": sizes,
        "seconds": round(time.monotonic() - began, 1),
        "machine": env,
    }
    _end(result, args.out)


def _end(result: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
