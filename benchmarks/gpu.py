"""Training on a GPU: small nets, wide bags, a CAMELYON16-scale study, streaming, pixels: each beside the roofline.

    python -m benchmarks.gpu --out benchmarks/results/gpu.json          # `make gpu`; under 10 minutes on an H100
    python -m benchmarks.gpu --scale 0.1                                # a tenth of the instances

Without a GPU it says so and ends well. The data are made up (random features, log-normal bag lengths): speed depends on
shapes only. Limits are measured on the card, by a large matrix product and a copy. torchmil's own Trainer runs on the
same card where PyTorch sees it; elsewhere its figures are null.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.machine import machine
from benchmarks.pixel_speed import Case, of_milkit
from benchmarks.roofline import beside, best_of, gated_step, limits
from milkit.data.cohort import Cohort
from milkit.data.memory import in_memory
from milkit.data.protocol import KFold
from milkit.data.store import write_store
from milkit.execute.prepare import Prepared, prepare
from milkit.execute.width import device_limit, fitted, program_bytes
from milkit.experiment import Experiment
from milkit.models import ABMIL
from milkit.train.config import Adam, Train
from milkit.train.engine import train_epoch
from milkit.types import Bag
from milkit.watch.compiles import compiles

SMALL = ABMIL(encoder=(256, 128, 64), attention=64, gated=False)
WIDE = ABMIL(encoder=(512,), attention=128)


def made_up(bags: int, instances: int, features: int, seed: int = 0) -> list[Bag]:
    """Bags of random float16 features, log-normal in length (sigma 0.5, median `instances`)."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, (instances * np.exp(rng.normal(0.0, 0.5, bags))).astype(int))
    block = rng.normal(size=(int(lengths.max()), features)).astype(np.float16)
    return [Bag(f"b{i:04d}", np.roll(block[:n], i, axis=0)) for i, n in enumerate(lengths)]


def rows(bags: list[Bag]) -> list[dict[str, str]]:
    """Both classes equally often, one bag a patient."""
    return [{"slide_id": b.id, "patient_id": f"p{i:04d}", "label": str(i % 2)} for i, b in enumerate(bags)]


def study(data: Any, model: ABMIL, seeds: int, epochs: int, folds: int = 5, **train: Any) -> Experiment:
    """A study as a researcher would state it."""
    how = Train(Adam(1e-4), epochs=epochs, batch_bags=1, **train)
    return Experiment(data=data, protocol=KFold(folds=folds, validation=0.1), model=model, train=how, seeds=seeds)


def held(bags: list[Bag]) -> Any:
    """Bags in memory."""
    return in_memory(tuple(bags), rows(bags), name="made up")


def train_all(prepared: Prepared, epochs: int) -> dict[str, Any]:
    """Train every program of a study; the first epoch of the first one compiles, and is timed apart."""
    engine, steps, first, recompiled = prepared.engine, 0.0, 0.0, 0
    layout, lengths = engine.layout, prepared.study.lengths
    padded = 0.0
    began = time.perf_counter()
    for program in range(prepared.programs):
        group = prepared.group(program)
        state = prepared.first_state(program, group)
        validation = engine.part(group.validation, [s.validation for s in prepared.splits])
        for epoch in range(epochs):
            before = compiles()
            state, _ = engine.epoch(group, state, epoch, validation)
            if program == epoch == 0:
                first = time.perf_counter() - began
            elif epoch:
                recompiled += (compiles() - before).count
        for run in prepared.members(program):
            part = prepared.split(run).train
            steps += epochs * len(part)
            padded += epochs * sum(layout.rungs[k] for k in np.searchsorted(layout.rungs, lengths[part]))
    seconds = time.perf_counter() - began
    return {
        "runs": len(prepared.runs), "width": prepared.width, "programs": prepared.programs, "epochs": epochs,
        "run_steps": int(steps), "recompiles": recompiled, "seconds": round(seconds, 2),
        "first_epoch_seconds": round(first, 2), "padded_instances_a_step": round(padded / steps, 1),
        "program_bytes": program_bytes(prepared) if prepared.memory == "resident" else None,
    }  # fmt: skip


def with_roofline(result: dict[str, Any], model: ABMIL, features: int, itemsize: int, limit: Any) -> dict[str, Any]:
    """The same with the roofline of its training steps beside it; the first epoch, which compiles, is left out."""
    steady = result["run_steps"] * (1 - 1 / (result["epochs"] * result["programs"]))
    flops, moved = gated_step(result["padded_instances_a_step"], features, model.encoder, model.attention, itemsize)
    return result | beside(result["seconds"] - result["first_epoch_seconds"], steady, flops, moved, limit)


def no_transfers(prepared: Prepared) -> bool:
    """Whether an epoch's program runs without any transfer between host and device."""
    engine, group = prepared.engine, prepared.group(0)
    static, values = engine._arguments(group, prepared.first_state(0, group), 0, group.active)
    jax.block_until_ready(train_epoch(*static, False, *values))
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(train_epoch(*static, False, *values))
    return True


def torchmil_step(bags: list[Bag], model: ABMIL, epochs: int) -> float | None:
    """Microseconds a step of torchmil's Trainer on the same card; None where PyTorch has none."""
    try:
        import torch
        from tensordict import TensorDict
        from torchmil.models import ABMIL as Theirs
        from torchmil.utils import Trainer
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    features, layers = bags[0].x.shape[1], []
    for a, b in zip((features, *model.encoder)[:-1], model.encoder, strict=True):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    net = Theirs(
        in_shape=(features,), att_dim=model.attention, gated=model.gated, feat_ext=torch.nn.Sequential(*layers)
    )
    data = [
        TensorDict({
            "X": torch.from_numpy(b.x.astype(np.float32))[None], "Y": torch.tensor([float(i % 2)]),
            "mask": torch.ones((1, len(b.x)), dtype=torch.uint8),
        })
        for i, b in enumerate(bags)
    ]  # fmt: skip

    def loader(items: list) -> Any:
        return torch.utils.data.DataLoader(items, batch_size=1, shuffle=True, collate_fn=lambda batch: batch[0])

    adam = torch.optim.Adam(net.parameters(), lr=1e-4)
    trainer = Trainer(net, adam, device="cuda", disable_pbar=True, verbose=False)
    trainer.train(1, loader(data), loader(data[:1]))
    torch.cuda.synchronize()
    began = time.perf_counter()
    trainer.train(epochs, loader(data), loader(data[:1]))
    torch.cuda.synchronize()
    return round((time.perf_counter() - began) / (epochs * len(data)) * 1e6, 1)


def small_nets(scale: float, limit: Any) -> dict[str, Any]:
    """MUSK1's shapes: 92 bags of about 5 x 166, batch of one bag, Adam."""
    bags = made_up(92, 5, 166)
    experiment = study(held(bags), SMALL, max(1, round(50 * scale)), 20, folds=10)
    prepared = fitted(prepare(experiment), device_limit())
    result = with_roofline(train_all(prepared, 20), SMALL, 166, 2, limit)
    return result | {"no_transfers": no_transfers(prepared), "torchmil_us_per_step": torchmil_step(bags, SMALL, 5)}


def wide_bags(scale: float, limit: Any) -> dict[str, Any]:
    """Gated ABMIL on bags of one length, by the number of runs side by side."""
    out = {}
    for length in (1_000, 10_000, 50_000):
        n = max(64, int(length * scale))
        bags = [Bag(f"b{i}", np.zeros((n, 1024), np.float16)) for i in range(16)]
        for runs in (1, 4, 16):
            experiment = study(held(bags), WIDE, runs, 3, folds=2, width=runs)
            prepared = prepare(experiment)
            result = train_all(prepared, 3)
            out[f"{n} x 1024, {runs} runs"] = with_roofline(result, WIDE, 1024, 2, limit)
    return out


def camelyon(scale: float, limit: Any) -> dict[str, Any]:
    """270 bags of about 10,000 x 1024, 5 folds x 10 seeds, gated ABMIL, 20 epochs."""
    bags = made_up(max(20, int(270 * min(1.0, 4 * scale))), max(64, int(10_000 * scale)), 1024)
    prepared = fitted(prepare(study(held(bags), WIDE, 10, 20)), device_limit())
    result = with_roofline(train_all(prepared, 20), WIDE, 1024, 2, limit) | {"bags": len(bags)}
    theirs = torchmil_step(bags[:64], WIDE, 2)
    ratio = None if theirs is None else round(theirs / result["us_per_run_step"], 1)
    return result | {
        "no_transfers": no_transfers(prepared), "torchmil_us_per_step": theirs, "torchmil_over_milkit": ratio,
    }  # fmt: skip


def streaming(scale: float, limit: Any) -> dict[str, Any]:
    """The same bags read from the disk at every epoch; the page cache holds them, as a second epoch's would."""
    bags = made_up(max(10, int(60 * min(1.0, 4 * scale))), max(64, int(10_000 * scale)), 1024)
    with tempfile.TemporaryDirectory() as folder:
        store, table = Path(folder) / "bags.h5", Path(folder) / "bags.csv"
        write_store(store, bags)
        lines = rows(bags)
        table.write_text("".join(",".join(r) + "\n" for r in [list(lines[0]), *[list(r.values()) for r in lines]]))
        data = Cohort(str(table), str(store))
        prepared = prepare(study(data, WIDE, 10, 4, memory="stream"))
        began = time.perf_counter()
        read = sum(np.asarray(prepared.study.read(i).x).nbytes for i in range(len(prepared.study)))
        bare = time.perf_counter() - began
        group = prepared.group(0)
        state = prepared.first_state(0, group)
        times = []
        for epoch in range(4):
            began = time.perf_counter()
            state, _ = prepared.engine.epoch(group, state, epoch, None)
            times.append(time.perf_counter() - began)
    shown = np.unique(np.concatenate(group.train))  # all runs of the program see each of these once
    steps, instances = prepared.width * len(shown), float(prepared.study.lengths[shown].mean())
    flops, moved = gated_step(instances, 1024, WIDE.encoder, WIDE.attention, 2)
    moved -= 2 * instances * 1024 * 2 * (1 - 1 / prepared.width)  # a bag is read once for all runs
    return {
        "bags": len(bags), "width": prepared.width, "bytes_an_epoch": read, "bare_read_seconds": round(bare, 6),
        "epoch_seconds": round(min(times[1:]), 3),
    } | beside(min(times[1:]), steps, flops, moved, limit)  # fmt: skip


def pixels(scale: float, limit: Any) -> dict[str, Any]:
    """A training step of SA-MIL on 4 images of 256 x 256 pixels, VGG's channels, beside its convolutions' arithmetic.

    Counted are the 3x3 convolutions alone: forward, and the gradients of kernel and input (not of the images).
    """
    side = max(16, int(256 * scale) // 8 * 8)
    case = Case("samil", (64, 128, 256), side, 4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case.batch, side, side, 3)).astype(np.float32)
    train, _, parameters = of_milkit(case, x, np.arange(case.batch) % 2)
    train()
    seconds = best_of(train, 20)
    first, *others = [
        2.0 * 9 * a * b * case.batch * (side >> stage) ** 2
        for stage, channels in enumerate(((3, 64, 64), (64, 128, 128), (128, 256, 256, 256)))
        for a, b in pairwise(channels)
    ]
    flops = 2 * first + 3 * sum(others)
    roofline = flops / limit["flops_float32"]
    return {
        "side": side, "batch": case.batch, "parameters": parameters, "milliseconds": round(1e3 * seconds, 3),
        "images_a_second": round(case.batch / seconds, 1), "convolution_gflop": round(flops / 1e9, 2),
        "roofline_milliseconds": round(1e3 * roofline, 3), "times_roofline": round(seconds / roofline, 2),
    }  # fmt: skip


PARTS = {
    "small_nets": small_nets, "wide_bags": wide_bags, "camelyon": camelyon, "streaming": streaming, "pixels": pixels,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of instances, bags and seeds")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--any-device", action="store_true", help="also without a GPU, to try the benchmark itself")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = jax.devices()[0]
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.gpu --scale {options.scale:g}", "machine": machine(),
        "device": device.device_kind, "backend": jax.default_backend(), "skipped": None,
    }  # fmt: skip
    if jax.default_backend() == "cpu" and not options.any_device:
        result["skipped"] = "JAX sees no GPU here; install jax[cuda12] on a machine that has one"
        print(json.dumps(result))
        return 0
    small = jax.default_backend() == "cpu"
    limit = limits(1024, 1 << 26) if small else limits()
    result |= {
        "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),  # type: ignore[attr-defined]
        "device_bytes": device_limit(), "limits": {k: float(f"{v:.4g}") for k, v in limit.items()},
    }  # fmt: skip
    for name in options.only:
        began = time.perf_counter()
        result[name] = PARTS[name](options.scale, limit)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
